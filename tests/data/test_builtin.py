import contextlib
import gzip
import hashlib
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.data import builtin
from tutelage.data.builtin import BUILTIN, FILES, load_digits, load_fashion_mnist, load_mnist
from tutelage.data.cifar import load_cifar100
from tutelage.data.idx import read_idx
from tutelage.data.sources import Source, Splits
from tutelage.errors import DataError
from tutelage.paths import socket_timeout

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def idx(shape: tuple[int, ...], body: bytes) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + body


def images_idx(count: int) -> bytes:
    return idx((count, 28, 28), bytes(i % 251 for i in range(count * 784)))


def labels_idx(count: int) -> bytes:
    return idx((count,), bytes(i % 10 for i in range(count)))


def write_set(folder: Path, num_train: int = 40, num_test: int = 20, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    contents = [make(n) for n in (num_train, num_test) for make in (images_idx, labels_idx)]
    for name, content in zip(FILES, contents, strict=True):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def labels_of(source: Source) -> torch.Tensor:
    labels = source.fetch(torch.arange(len(source)))[1]
    assert labels is not None
    return labels


def class_counts(source: Source) -> list[int]:
    return torch.bincount(labels_of(source), minlength=10).tolist()


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), 0 if splits.valid is None else len(splits.valid), len(splits.test)


def offline(class_name: str, root: Path) -> Path:
    raise OSError("no network in tests")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable, an empty cache, no system package, no network; the cache's folder."""
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "SYSTEM_DIRS", {})
    monkeypatch.setattr(builtin, "_download_with_torchvision", offline)
    return tmp_path / "cache" / "tutelage" / "datasets"


# Digits.


def test_digits_have_their_known_size_and_shape():
    splits = load_digits()
    assert sizes(splits) == (1078, 120, 599)
    images, labels = splits.train.fetch(torch.tensor([0, 5]))
    assert images.shape == (2, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert labels is not None
    assert labels.dtype == torch.int64
    assert splits.class_names == tuple("0123456789")


def test_every_digit_stands_in_every_part_by_its_share():
    splits = load_digits()
    assert splits.valid is not None
    for source in (splits.train, splits.valid, splits.test):
        counts = class_counts(source)
        assert max(counts) - min(counts) <= 7


def test_parts_of_the_digits_do_not_overlap():
    splits = load_digits()
    assert splits.valid is not None
    total = sum(class_counts(source)[3] for source in (splits.train, splits.valid, splits.test))
    assert total == 183
    assert len({splits.train.fingerprint, splits.valid.fingerprint, splits.test.fingerprint}) == 3


def test_stated_mean_and_std_of_the_digits_are_those_of_the_pictures():
    splits = load_digits(valid_fraction=0.0)
    parts = [source.fetch(torch.arange(len(source)))[0] for source in (splits.train, splits.test)]
    pixels = torch.cat(parts).double() / 255
    assert len(pixels) == 1797
    assert splits.mean == (pytest.approx(pixels.mean().item(), abs=5e-5),)
    assert splits.std == (pytest.approx(pixels.std().item(), abs=5e-5),)
    assert pixels.max() == 1


def test_the_seed_decides_the_split():
    assert load_digits(seed=1).train.fingerprint == load_digits(seed=1).train.fingerprint
    assert load_digits(seed=1).train.fingerprint != load_digits(seed=2).train.fingerprint


def test_no_validation_part_is_made_for_a_share_of_zero():
    assert load_digits(valid_fraction=0.0).valid is None


@pytest.mark.parametrize(
    ("valid", "test"), [(0.1, 0.0), (0.1, 1.0), (1.0, 0.3), (-0.2, 0.3), (0.1, -0.3)]
)
def test_what_is_no_share_is_refused(valid: float, test: float):
    with pytest.raises(DataError, match=r"must be above 0 and below 1, got"):
        load_digits(valid_fraction=valid, test_fraction=test)


def test_a_share_that_leaves_a_part_empty_is_refused():
    with pytest.raises(DataError, match=r"A share of 0\.0001 of .* both parts need samples"):
        load_digits(test_fraction=0.0001)


def test_the_table_names_every_loader():
    assert dict(BUILTIN) == {
        "digits": load_digits,
        "mnist": load_mnist,
        "fashion_mnist": load_fashion_mnist,
        "cifar100": load_cifar100,
    }


# Where MNIST and Fashion-MNIST are looked for.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw"])
def test_mnist_is_read_from_a_given_folder(bare: Path, tmp_path: Path, inside: str, packed: bool):
    write_set(tmp_path / "given" / inside, packed=packed)
    splits = load_mnist(tmp_path / "given", valid_fraction=0.25)
    assert sizes(splits) == (30, 10, 20)
    images, labels = splits.test.fetch(torch.tensor([1]))
    assert images.shape == (1, 1, 28, 28)
    assert images[0, 0, 0, :3].tolist() == [784 % 251, 785 % 251, 786 % 251]
    assert labels is not None
    assert labels.tolist() == [1]
    assert (splits.mean, splits.std) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize("inside", ["", "fashion_mnist", "FashionMNIST/raw", "fashion-mnist"])
def test_fashion_mnist_is_read_from_a_given_folder(bare: Path, tmp_path: Path, inside: str):
    write_set(tmp_path / "given" / inside, packed=True)
    splits = load_fashion_mnist(str(tmp_path / "given"), valid_fraction=0.0)
    assert sizes(splits) == (40, 0, 20)
    assert splits.class_names[:2] == ("T-shirt/top", "Trouser")
    assert (splits.mean, splits.std) == ((0.2860,), (0.3530,))


def test_places_are_searched_in_order(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "variable"))
    monkeypatch.setattr(builtin, "SYSTEM_DIRS", {"fashion_mnist": [tmp_path / "system"]})
    monkeypatch.setattr(
        builtin, "_download_with_torchvision", lambda name, root: write_set(root / "raw", 50)
    )
    assert sizes(load_fashion_mnist(valid_fraction=0.0))[0] == 50
    write_set(tmp_path / "system", 30)
    assert sizes(load_fashion_mnist(valid_fraction=0.0))[0] == 30
    write_set(tmp_path / "variable" / "fashion_mnist", 20)
    assert sizes(load_fashion_mnist(valid_fraction=0.0))[0] == 20
    write_set(tmp_path / "given", 10)
    assert sizes(load_fashion_mnist(tmp_path / "given", valid_fraction=0.0))[0] == 10


def test_a_download_fills_the_cache_and_is_not_repeated(
    bare: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def download(class_name: str, root: Path) -> Path:
        asked.append(class_name)
        return write_set(root / class_name / "raw")

    monkeypatch.setattr(builtin, "_download_with_torchvision", download)
    assert sizes(load_mnist()) == sizes(load_mnist()) == (37, 3, 20)
    assert asked == ["MNIST"]
    assert sorted(os.listdir(bare)) == ["mnist"]
    assert sorted(os.listdir(bare / "mnist")) == sorted(FILES)


def test_a_download_that_breaks_leaves_nothing_half(bare: Path, monkeypatch: pytest.MonkeyPatch):
    def download(class_name: str, root: Path) -> Path:
        (root / FILES[0]).write_bytes(b"half")
        raise OSError("connection\nlost")

    monkeypatch.setattr(builtin, "_download_with_torchvision", download)
    with pytest.raises(DataError, match="connection lost"):
        load_mnist()
    assert list(bare.iterdir()) == []


def test_torchvision_downloads_under_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Downloader:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert download
            assert socket.getdefaulttimeout() == 30
            self.raw_folder = str(root / "MNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.MNIST", Downloader)
    raw = builtin._download_with_torchvision("MNIST", tmp_path)
    assert raw == tmp_path / "MNIST" / "raw"


def test_the_network_is_left_alone_when_told_so(bare: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builtin, "_download_with_torchvision", lambda *_: pytest.fail("called"))
    with pytest.raises(DataError, match=r"download \(not allowed\)"):
        load_mnist(download=False)


def test_a_missing_set_gives_one_error_with_all_places_and_ways(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(builtin, "SYSTEM_DIRS", {"fashion_mnist": [tmp_path / "system"]})
    with pytest.raises(DataError) as caught:
        load_fashion_mnist()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "TUTELAGE_DATA (not set)",
        f"{tmp_path / 'system'}: no such folder",
        f"{bare / 'fashion_mnist'}: no such folder",
        "no network in tests",
        "scripts/get-data fashion_mnist",
        "dataset-fashion-mnist",
        "give path",
    ):
        assert part in message


def test_a_place_that_lacks_a_file_is_passed_over_and_described(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_set(tmp_path / "variable" / "mnist")
    (tmp_path / "variable" / "mnist" / FILES[3]).unlink()
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "variable"))
    with pytest.raises(DataError, match=rf"variable/mnist: lacks \['{FILES[3]}'\]"):
        load_mnist()


@pytest.mark.parametrize(
    ("make", "message"), [(False, "no such folder"), (True, "holds mnist whole; it lacks")]
)
def test_a_wrong_given_folder_is_an_error_even_if_the_cache_is_whole(
    bare: Path, tmp_path: Path, make: bool, message: str
):
    write_set(bare / "mnist")
    if make:
        (tmp_path / "wrong").mkdir()
    with pytest.raises(DataError, match=message):
        load_mnist(tmp_path / "wrong")


def test_one_set_under_the_name_of_the_other_is_refused(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_set(tmp_path / "given", 40)
    digest = hashlib.sha256(labels_idx(40)[8:]).hexdigest()
    monkeypatch.setattr(builtin, "_KIND_OF_LABELS", {digest: "mnist"})
    with pytest.raises(DataError, match="holds mnist, not fashion_mnist"):
        load_fashion_mnist(tmp_path / "given")


def test_the_socket_timeout_is_put_back():
    before = socket.getdefaulttimeout()
    with socket_timeout(1.5):
        assert socket.getdefaulttimeout() == 1.5
    assert socket.getdefaulttimeout() == before


def test_a_relative_cache_variable_is_not_believed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    expected = Path.home() / ".cache" / "tutelage" / "datasets" / "mnist"
    assert builtin.cache_dir("mnist") == expected


# Damaged files.


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (FILES[0], lambda b: b[:-1], "declares|truncated"),
        (FILES[0], lambda b: b + b"x", "more than the"),
        (FILES[0], lambda b: b"", r"starts with 0x\(nothing\)"),
        (FILES[0], lambda b: b[:10], "ends inside its header"),
        (FILES[1], lambda b: b"\0\0\x0d\1" + b[4:], "starts with 0x00000d01, not with 0x00000801"),
        (FILES[2], lambda b: labels_idx(20), "starts with 0x00000801, not with 0x00000803"),
        (FILES[2], lambda b: idx((20, 14, 56), b[16:]), r"shape \(14, 56\), not \(28, 28\)"),
        (FILES[3], lambda b: idx((0,), b""), "no items"),
        (FILES[3], lambda b: b[:-1] + b"\x0a", "sample 19 has the label 10; allowed are 0 to 9"),
        (FILES[1], lambda b: labels_idx(39), "40 images, but .* 39 labels"),
        (FILES[0], lambda b: gzip.compress(b)[:-20], "cannot be read"),
        (FILES[0], lambda b: gzip.compress(b)[:-8] + b"12345678", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(
    bare: Path, tmp_path: Path, name: str, edit: Callable[[bytes], bytes], message: str
):
    change(write_set(tmp_path / "given") / name, edit)
    with pytest.raises(DataError, match=message) as caught:
        load_mnist(tmp_path / "given")
    assert name in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_promises_too_much_allocates_nothing(tmp_path: Path, packed: bool):
    content = idx((2**31, 28, 28), bytes(100))
    file = tmp_path / "images"
    file.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than it can hold"):
            read_idx(file, (28, 28))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True])
def test_reading_takes_hardly_more_memory_than_the_pictures(tmp_path: Path, packed: bool):
    content = idx((20_000, 28, 28), bytes(20_000 * 784))
    file = tmp_path / "images"
    file.write_bytes(gzip.compress(content, 1) if packed else content)
    tracemalloc.start()
    try:
        assert read_idx(file, (28, 28)).shape == (20_000, 28, 28)
        assert tracemalloc.get_traced_memory()[1] < 1.25 * len(content) + 2**22
    finally:
        tracemalloc.stop()


def test_a_folder_in_place_of_a_file_is_a_data_error(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@given(content=st.binary(max_size=64), shape=st.sampled_from([(), (2, 3)]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_random_bytes_give_a_data_error_and_nothing_else(
    tmp_path: Path, content: bytes, shape: tuple[int, ...]
):
    expect_whole_or_refused(tmp_path / "file", content, shape)


@given(data=st.data(), packed=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_truncated_or_changed_files_give_a_data_error_or_the_declared_shape(
    tmp_path: Path, data: st.DataObject, packed: bool
):
    whole = idx((4, 2, 3), bytes(range(24)))
    content = bytearray(gzip.compress(whole) if packed else whole)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    expect_whole_or_refused(tmp_path / "file", bytes(content[:end]), (2, 3))


def expect_whole_or_refused(file: Path, content: bytes, shape: tuple[int, ...]) -> None:
    file.write_bytes(content)
    with contextlib.suppress(DataError):
        items = read_idx(file, shape)
        assert items.shape[1:] == shape
        assert items.dtype == torch.uint8


# The real data.


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("load", "train", "test"),
    [
        (load_mnist, MNIST_TRAIN, MNIST_TEST),
        (load_fashion_mnist, [6000] * 10, [1000] * 10),
    ],
)
def test_the_real_sets_have_their_known_counts(
    load: Callable[..., Splits], train: list[int], test: list[int]
):
    try:
        splits = load(download=False)
    except DataError as error:
        pytest.skip(str(error))
    assert sizes(splits) == (55_000, 5_000, 10_000)
    assert splits.valid is not None
    both = zip(class_counts(splits.train), class_counts(splits.valid), strict=True)
    assert [a + b for a, b in both] == train
    assert class_counts(splits.test) == test


@pytest.mark.real_data
@pytest.mark.parametrize("load", [load_mnist, load_fashion_mnist])
def test_stated_mean_and_std_are_those_of_the_real_training_pictures(load: Callable[..., Splits]):
    try:
        splits = load(download=False, valid_fraction=0.0)
    except DataError as error:
        pytest.skip(str(error))
    images = splits.train.fetch(torch.arange(len(splits.train)))[0].float() / 255
    assert splits.mean == (pytest.approx(images.mean().item(), abs=1e-4),)
    assert splits.std == (pytest.approx(images.std().item(), abs=1e-4),)


@pytest.mark.real_data
def test_the_real_mnist_is_not_taken_for_fashion_mnist(tmp_path: Path):
    folder = builtin.cache_dir("mnist")
    if builtin._missing(folder):
        pytest.skip("MNIST is not in the cache: run scripts/get-data mnist")
    with pytest.raises(DataError, match="holds mnist, not fashion_mnist"):
        load_fashion_mnist(folder)
