"""CIFAR-100 is read from its binary files, checked, and from nowhere else."""

import io
import tarfile

import pytest
import torch

from tutelage.data import cifar
from tutelage.data.cifar import load_cifar100, read_records, unpack
from tutelage.errors import DataError
from tutelage.paths import cache_dir


def record(label, fill=0):
    return bytes((label // 5, label)) + bytes((fill,)) * 1024 + bytes((1,)) * 1024 + bytes(1024)


def write_set(folder, count=200):
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(b"".join(record(n % 100, n % 256) for n in range(count)))
    (folder / "test.bin").write_bytes(b"".join(record(n) for n in range(100)))
    return folder


@pytest.fixture(autouse=True)
def _nowhere_else(monkeypatch, tmp_path):
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_pictures_are_planes_of_red_green_and_blue_and_labels_the_fine_ones(tmp_path):
    splits = load_cifar100(write_set(tmp_path / "set"), valid_fraction=0.0)
    images, labels = splits.train.fetch(torch.tensor([7, 130]))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images[:, :, 0, 0].tolist() == [[7, 1, 0], [130, 1, 0]]
    assert labels.tolist() == [7, 30]
    assert splits.class_names[7] == "7"
    assert splits.valid is None


def test_a_tenth_is_held_out_evenly(tmp_path):
    splits = load_cifar100(write_set(tmp_path / "set", 1000))
    _, labels = splits.valid.fetch(torch.arange(len(splits.valid)))
    assert sorted(labels.tolist()) == list(range(100))
    assert len(splits.train) == 900


def test_names_come_from_the_file_beside_the_pictures(tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "fine_label_names.txt").write_text("\n".join(f"class_{n}" for n in range(100)))
    assert load_cifar100(folder).class_names[99] == "class_99"
    (folder / "fine_label_names.txt").write_text("too few")
    assert load_cifar100(folder).class_names[99] == "99"


def test_it_is_found_below_a_given_folder_in_the_variable_and_in_the_cache(tmp_path, monkeypatch):
    write_set(tmp_path / "given" / "cifar-100-binary")
    assert len(load_cifar100(tmp_path / "given", 0.0).train) == 200
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "given"))
    assert len(load_cifar100(valid_fraction=0.0, download=False).train) == 200
    monkeypatch.delenv("TUTELAGE_DATA")
    write_set(cache_dir("cifar100"), 300)
    assert len(load_cifar100(valid_fraction=0.0, download=False).train) == 300


def test_where_it_is_missing_one_error_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"cifar100 was not found in .*cifar-100-binary.tar.gz"):
        load_cifar100(download=False)
    with pytest.raises(DataError, match="given"):
        load_cifar100(tmp_path / "given")


def test_a_download_that_fails_is_part_of_the_error(monkeypatch):
    def refuse(url, root, md5):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    with pytest.raises(DataError, match=r"The download failed \(no route to host\)"):
        load_cifar100()


def packed(path, names):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_download_is_unpacked_but_for_what_is_not_asked_for(monkeypatch, tmp_path):
    inside = "cifar-100-binary/"
    train = b"".join(record(n) for n in range(100))

    def deliver(url, root, md5):
        assert md5 == cifar.MD5
        packed(
            f"{root}/cifar-100-binary.tar.gz",
            {
                inside + "train.bin": train,
                inside + "test.bin": train,
                inside + "fine_label_names.txt": b"a b",
                "../outside": b"x",
            },
        )

    monkeypatch.setattr("torchvision.datasets.utils.download_url", deliver)
    assert len(load_cifar100(valid_fraction=0.0).train) == 100
    assert sorted(
        file.name for file in cache_dir("cifar100").parent.rglob("*") if file.is_file()
    ) == [
        "fine_label_names.txt",
        "test.bin",
        "train.bin",
    ]


def test_a_member_that_is_no_file_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("cifar-100-binary/fine_label_names.txt")
        link.type = tarfile.DIRTYPE
        archive.addfile(link)
    with pytest.raises(DataError, match="is no file in it"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has 0 bytes"),
        (record(3)[:-1], "has 3073 bytes"),
        (record(3) + record(100), "picture 1 has the class 100, of 0 to 99"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, content, said):
    file = tmp_path / "train.bin"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_records(file)


def test_a_file_far_too_large_is_not_read(tmp_path):
    file = tmp_path / "train.bin"
    with file.open("wb") as sparse:
        sparse.truncate(3074 * 10**7)
    with pytest.raises(DataError, match="has 30740000000 bytes"):
        read_records(file)
