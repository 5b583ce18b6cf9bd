import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from tutelage.data.images import ImageFolder, decode, load_image_folder
from tutelage.data.sources import Source, SubsetSource
from tutelage.errors import ConfigError, DataError


def paint(file: Path, colour: tuple[int, int, int] = (200, 100, 50), size: int = 12) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(file)
    return file


def make_classes(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for i in range(count):
            paint(folder / name / f"{i:03}.png", (i % 256, len(name) % 256, 7))
    return folder


def noise(height: int, width: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def counts_of(source: Source | None) -> list[int]:
    assert source is not None
    labels = source.fetch(torch.arange(len(source)))[1]
    assert labels is not None
    return torch.bincount(labels).tolist()


# Folders.


def test_class_folders_alone_are_split_by_the_shares(tmp_path: Path):
    make_classes(tmp_path, {"dog": 20, "cat": 40})
    splits = load_image_folder(tmp_path, 8, valid_fraction=0.25, test_fraction=0.2)
    assert splits.class_names == ("cat", "dog")
    assert counts_of(splits.train) == [24, 12]
    assert counts_of(splits.valid) == [8, 4]
    assert counts_of(splits.test) == [8, 4]


@pytest.mark.parametrize("valid", ["valid", "val", "Validation"])
def test_folders_of_the_parts_are_taken_as_they_are(tmp_path: Path, valid: str):
    for part, count in (("train", 6), (valid, 3), ("test", 2)):
        make_classes(tmp_path / part, {"cat": count, "dog": count})
    splits = load_image_folder(str(tmp_path), 8)
    assert [counts_of(s) for s in (splits.train, splits.valid, splits.test)] == [
        [6, 6],
        [3, 3],
        [2, 2],
    ]


def test_parts_that_are_not_there_come_from_the_training_part(tmp_path: Path):
    make_classes(tmp_path / "train", {"cat": 10, "dog": 10})
    splits = load_image_folder(tmp_path, 8, valid_fraction=0.0, test_fraction=0.2)
    assert splits.valid is None
    assert (counts_of(splits.train), counts_of(splits.test)) == ([8, 8], [2, 2])


def test_a_train_folder_without_subfolders_is_a_class(tmp_path: Path):
    make_classes(tmp_path, {"bus": 10, "train": 10})
    assert load_image_folder(tmp_path, 8).class_names == ("bus", "train")


def test_pictures_in_deeper_folders_count_and_clutter_does_not(tmp_path: Path):
    make_classes(tmp_path, {"cat": 1, "dog": 1, ".git": 1, "__MACOSX": 1})
    paint(tmp_path / "cat" / "deep" / "er.png")
    paint(tmp_path / "cat" / ".hidden" / "no.png")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("of the folder")
    folder = ImageFolder(tmp_path, 8)
    assert folder.class_names == ("cat", "dog")
    assert [folder.file(i).relative_to(tmp_path).as_posix() for i in range(len(folder))] == [
        "cat/000.png",
        "cat/deep/er.png",
        "dog/000.png",
    ]


def test_names_with_spaces_and_letters_of_any_alphabet_work(tmp_path: Path):
    make_classes(tmp_path, {"Käse & Brot": 1, "猫": 1})
    folder = ImageFolder(tmp_path, 8)
    assert folder.class_names == ("Käse & Brot", "猫")
    assert folder.fetch(torch.tensor([1, 0]))[1].tolist() == [1, 0]


def test_a_class_name_that_no_report_could_print_is_refused(tmp_path: Path):
    make_classes(tmp_path, {"cat": 1, "dog\n": 1})
    with pytest.raises(DataError, match=r"'dog\\n' has no printable name"):
        ImageFolder(tmp_path, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or directory"),
        (lambda p: p.write_text("a file"), "not a directory"),
        (lambda p: p.mkdir(), "no class folders"),
        (lambda p: make_classes(p, {"cat": 3}), "only one class folder, 'cat'"),
        (lambda p: (make_classes(p, {"cat": 3}) / "dog").mkdir(), "dog: the class has no pictures"),
        (lambda p: make_classes(p / "test", {"cat": 3, "dog": 3}), "has test/ .* but no train/"),
        (
            lambda p: [make_classes(p / n, {"a": 2, "b": 2}) for n in ("train", "val", "valid")],
            "has both val/ and valid/",
        ),
        (
            lambda p: (
                make_classes(p / "train", {"a": 2, "b": 2}),
                make_classes(p / "test", {"a": 2, "c": 2}),
            ),
            r"lacks \['b'\] and adds \['c'\]",
        ),
        (
            lambda p: (
                make_classes(p / "train", {"a": 2, "b": 2}),
                make_classes(p / "val", {"a": 2, "b": 2, "c": 2}),
            ),
            r"lacks none and adds \['c'\]",
        ),
        (lambda p: make_classes(p, {"cat": 40, "dog": 1}), "dog: its 1 pictures are too few"),
        (lambda p: make_classes(p, {"cat": 2, "dog": 2}), "both parts need samples"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message) as caught:
        load_image_folder(tmp_path / "data", 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"channels": 4}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 4"),
        ({"mean": (0.5,)}, "mean has 1 values, but channels is 3"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path: Path, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        load_image_folder(tmp_path, **{"image_size": 8, **settings})


def test_mean_and_std_are_the_usual_ones_unless_given(tmp_path: Path):
    make_classes(tmp_path, {"cat": 10, "dog": 10})
    colour, grey = load_image_folder(tmp_path, 8), load_image_folder(tmp_path, 8, channels=1)
    assert (colour.mean, colour.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (grey.mean, grey.std) == ((0.5,), (0.5,))
    own = load_image_folder(tmp_path, 8, channels=1, mean=[0.1], std=[0.2])
    assert (own.mean, own.std) == ((0.1,), (0.2,))


# Fingerprint, workers, memory.


def test_the_fingerprint_follows_files_and_settings_and_not_the_place(tmp_path: Path):
    make_classes(tmp_path / "a", {"cat": 2, "dog": 2})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = ImageFolder(tmp_path / "a", 8).fingerprint
    assert ImageFolder(tmp_path / "b", 8).fingerprint == first
    others = {
        ImageFolder(tmp_path / "a", 9).fingerprint,
        ImageFolder(tmp_path / "a", 8, 1).fingerprint,
    }
    (tmp_path / "b" / "cat" / "000.png").rename(tmp_path / "b" / "cat" / "renamed.png")
    others.add(ImageFolder(tmp_path / "b", 8).fingerprint)
    paint(tmp_path / "b" / "cat" / "renamed.png", size=40)
    others.add(ImageFolder(tmp_path / "b", 8).fingerprint)
    assert len(others | {first}) == 5


def test_a_pickled_folder_is_small_and_reads_the_same(tmp_path: Path):
    make_classes(tmp_path, {"cat": 50, "dog": 50})
    folder = ImageFolder(tmp_path, 8)
    pickled = pickle.dumps(folder)
    assert len(pickled) < 100 * 50 + 2000
    copy = pickle.loads(pickled)
    ids = torch.tensor([0, 77])
    assert torch.equal(copy.fetch(ids)[0], folder.fetch(ids)[0])


def test_workers_read_what_the_folder_holds(tmp_path: Path):
    make_classes(tmp_path, {"cat": 4, "dog": 4})
    folder = ImageFolder(tmp_path, 8)
    requests = [torch.tensor([0, 5]), torch.tensor([7, 1])]
    loader = torch.utils.data.DataLoader(
        Requests(folder), sampler=requests, batch_size=None, num_workers=1
    )
    for (pictures, labels), ids in zip(loader, requests, strict=True):
        assert torch.equal(pictures, folder.fetch(ids)[0])
        assert torch.equal(labels, folder.labels[ids])


class Requests(torch.utils.data.Dataset):
    def __init__(self, folder: ImageFolder) -> None:
        self.folder = folder

    def __getitem__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.folder.fetch(ids)


def test_memory_does_not_grow_with_the_pictures_read(tmp_path: Path):
    make_classes(tmp_path, {"cat": 30, "dog": 30})
    folder = ImageFolder(tmp_path, 64)
    folder.fetch(torch.tensor([0]))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(60):
            folder.fetch(torch.tensor([i]))
        assert tracemalloc.get_traced_memory()[0] - before < 64 * 64 * 3 * 5
    finally:
        tracemalloc.stop()


# Pictures.


def test_pictures_come_as_bytes_in_the_order_asked_for(tmp_path: Path):
    paint(tmp_path / "a" / "x.png", (1, 2, 3))
    paint(tmp_path / "b" / "y.png", (4, 5, 6))
    pictures, labels = ImageFolder(tmp_path, 5).fetch(torch.tensor([1, 0]))
    assert pictures.shape == (2, 3, 5, 5)
    assert pictures.dtype == torch.uint8
    assert pictures[:, :, 2, 2].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 10), (90, 90, 90)),
        ("RGBA", (200, 100, 50, 3), (200, 100, 50)),
        ("I;16", 257 * 90, (90, 90, 90)),
        ("I", 257 * 90, (90, 90, 90)),
        ("CMYK", (55, 155, 205, 0), (200, 100, 50)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_rgb(
    tmp_path: Path, mode: str, colour: object, rgb: tuple[int, int, int], channels: int
):
    file = tmp_path / "x.tif"
    Image.new(mode, (9, 7), colour).save(file)
    grey = round(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2])
    wanted = torch.tensor(rgb if channels == 3 else (grey,))
    got = decode(file, 4, channels)[:, 1, 1]
    assert (got.int() - wanted).abs().max() <= 1


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff"])
def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path, transparency: object):
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 200, 100, 50, 255, 255, 255])
    image.save(tmp_path / "x.png", transparency=transparency)
    assert decode(tmp_path / "x.png", 4, 3)[:, 2, 2].tolist() == [200, 100, 50]


def test_floating_point_pixels_are_refused(tmp_path: Path):
    paint(tmp_path / "b" / "x.png")
    (tmp_path / "a").mkdir()
    Image.new("F", (4, 4), 0.5).save(tmp_path / "a" / "x.tif")
    with pytest.raises(DataError, match=r"a/x\.tif: .*mode F are not 8-bit or 16-bit"):
        ImageFolder(tmp_path, 4).fetch(torch.tensor([0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_orientation_is_honoured(tmp_path: Path, orientation: int):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = noise(16, 16)
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    pixels = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert torch.equal(decode(tmp_path / "x.png", 16, 3), pixels)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (61, 40), (10, 30)])
def test_resize_and_crop_agree_with_torchvision(tmp_path: Path, size: tuple[int, int]):
    image = noise(*size)
    image.save(tmp_path / "x.png")
    resized = functional.center_crop(functional.resize(image, [20]), [20])
    wanted = functional.pil_to_tensor(resized).float()
    difference = (decode(tmp_path / "x.png", 20, 3).float() - wanted).abs()
    assert difference.mean() < 4


def test_a_large_jpeg_decoded_small_hardly_differs(tmp_path: Path):
    image = noise(480, 640)
    image.save(tmp_path / "x.jpg", quality=95)
    image.save(tmp_path / "x.png")
    difference = decode(tmp_path / "x.jpg", 32, 3).float() - decode(tmp_path / "x.png", 32, 3)
    assert difference.abs().mean() < 3


def test_a_ribbon_of_a_picture_takes_no_huge_memory(tmp_path: Path):
    Image.new("L", (60_000, 1), 77).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", 224, 1).unique().tolist() == [77]


# Damaged files.


def damage(folder: Path) -> dict[str, Path]:
    """A folder with a good picture in each class, and one file for each way to be bad."""
    make_classes(folder, {"cat": 1, "dog": 1})
    noise(64, 64).save(folder / "cat" / "truncated.jpg")
    noise(64, 64).save(folder / "cat" / "flipped.png")
    bad = {name.split(".")[0]: folder / "cat" / name for name in os.listdir(folder / "cat")}
    del bad["000"]
    content = bad["truncated"].read_bytes()
    bad["truncated"].write_bytes(content[: len(content) // 2])
    content = bad["flipped"].read_bytes()
    middle = len(content) // 2
    bad["flipped"].write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    bad |= {name: folder / "cat" / name for name in ("empty.png", "text.png", "gone.png")}
    bad["empty.png"].touch()
    bad["text.png"].write_text("not a picture")
    bad["gone.png"].symlink_to(folder / "nowhere.png")
    return bad


def test_every_bad_file_is_named_before_training(tmp_path: Path):
    bad = damage(tmp_path)
    found = ImageFolder(tmp_path, 8).check_all()
    assert len(found) == len(bad) == 5
    for file in bad.values():
        assert any(message.startswith(f"{file}: cannot be read as a pict") for message in found)


def test_a_bad_file_is_an_error_when_it_is_read(tmp_path: Path):
    damage(tmp_path)
    folder = ImageFolder(tmp_path, 8)
    assert len(folder.fetch(torch.tensor([0, len(folder) - 1]))[0]) == 2
    with pytest.raises(DataError, match=r"truncated\.jpg: cannot be read .* Mend or remove it"):
        folder.fetch(torch.arange(len(folder) - 2, len(folder)))


def test_good_folders_have_no_bad_files(tmp_path: Path):
    assert ImageFolder(make_classes(tmp_path, {"cat": 3, "dog": 2}), 8).check_all() == []


@pytest.mark.parametrize("limit", [100, 60])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
):
    make_classes(tmp_path, {"cat": 1, "dog": 1})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"cat/000\.png: the picture is too large"):
        ImageFolder(tmp_path, 8).fetch(torch.tensor([0]))


def test_splits_of_a_folder_share_one_list_of_files(tmp_path: Path):
    splits = load_image_folder(make_classes(tmp_path, {"cat": 10, "dog": 10}), 8)
    assert isinstance(splits.test, SubsetSource)
    assert isinstance(splits.test.source, ImageFolder)
    assert not splits.train.is_fast
