import os
import pickle
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from tutelage.data.decoding import as_bytes, describe_images
from tutelage.data.images import ImageFolder, decode, load_image_folder
from tutelage.data.sources import Source, SubsetSource
from tutelage.deploy import example
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
        (lambda p: (make_classes(p, {"cat": 3}) / "dog").mkdir(), "dog: the class has no images"),
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
        (
            lambda p: make_classes(p, {"cat": 40, "dog": 1}),
            "class 'dog': 1 image, too few to split",
        ),
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
        ({"mean": (0.5,)}, "mean has 1 value, but channels is 3"),
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


# Images.


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
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 51), (222, 222, 222)),
        ("RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("RGBA", (200, 100, 50, 0), (255, 255, 255)),
        ("RGBA", (200, 100, 50, 51), (244, 224, 214)),
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


@pytest.mark.parametrize(
    ("transparency", "seen"),
    [(0, [200, 100, 50]), (1, [255, 255, 255]), (b"\x00\x80\xff", [227, 177, 152])],
)
def test_the_transparent_colour_of_a_palette_shows_the_background(
    tmp_path: Path, transparency: object, seen: list[int]
):
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 200, 100, 50, 255, 255, 255])
    image.save(tmp_path / "x.png", transparency=transparency)
    assert decode(tmp_path / "x.png", 4, 3)[:, 2, 2].tolist() == seen


@pytest.mark.parametrize(
    ("mode", "clear", "colour"),
    [("L", 90, 90), ("RGB", (9, 8, 7), (9, 8, 7)), ("1", 1, 1), ("I;16", 700, 700)],
)
def test_a_colour_that_a_file_calls_transparent_shows_the_background(
    tmp_path: Path, mode: str, clear: object, colour: object
):
    Image.new(mode, (6, 6), colour).save(tmp_path / "x.png", transparency=clear)
    assert decode(tmp_path / "x.png", 4, 3, "#010203")[:, 1, 1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_black_shape_on_a_transparent_ground_is_seen_in_every_format(
    tmp_path: Path, suffix: str, channels: int
):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:, 3] = 255
    settings = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", **settings)
    seen = decode(tmp_path / f"x.{suffix}", 8, channels)[0, 3]
    assert seen.tolist() == [255] * 4 + [0] * 4
    on_black = decode(tmp_path / f"x.{suffix}", 8, channels, "black")
    assert on_black.unique().tolist() == [0]


def test_another_background_is_another_fingerprint_and_no_colour_is_refused(tmp_path: Path):
    make_classes(tmp_path, {"cat": 2, "dog": 2})
    names = ("white", "#ffffff", "black")
    white, same, black = (ImageFolder(tmp_path, 8, 3, name).fingerprint for name in names)
    assert white == same != black
    with pytest.raises(ConfigError, match=r"data\.background: 'whit' is no colour"):
        ImageFolder(tmp_path, 8, 3, "whit")


def test_the_first_of_several_frames_is_read(tmp_path: Path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp", "tif"):
        file = tmp_path / f"x.{suffix}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        red, green, blue = decode(file, 4, 3)[:, 1, 1].tolist()
        assert red > 200
        assert max(green, blue) < 50


def test_what_is_changed_or_left_out_is_counted(tmp_path: Path):
    plain, clear = Image.new("RGB", (16, 16), "red"), Image.new("RGBA", (16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    twelve = Image.fromarray(np.full((16, 16), 4000, np.uint16))
    deep = Image.fromarray(np.full((16, 16), 60_000, np.uint16))
    (tmp_path / "a").mkdir()
    paint(tmp_path / "b" / "plain.png", size=16)
    save = {
        "clear.png": (clear, {}),
        "opaque.png": (Image.new("RGBA", (16, 16), "red"), {}),
        "turned.jpg": (plain, {"exif": exif}),
        "twelve.png": (twelve, {}),
        "deep.tif": (deep, {}),
        "cmyk.jpg": (plain.convert("CMYK"), {}),
        "profile.png": (plain, {"icc_profile": b"of a camera"}),
        "small.png": (plain.resize((4, 4)), {}),
        "narrow.png": (plain.resize((16, 40)), {}),
        "frames.gif": (plain, {"save_all": True, "append_images": [clear]}),
    }
    for name, (image, settings) in save.items():
        image.save(tmp_path / "a" / name, **settings)
    found = ImageFolder(tmp_path, 16).describe()
    counts = dict(text.rstrip(".").rsplit(": ", 1) for text in found)
    assert {trait[7:33]: count for trait, count in counts.items()} == {
        "with transparent pixels, w": "1 of 11",
        "with 16 bits per channel, ": "2 of 11",
        "with 16 bits per channel t": "1 of 11",
        "with several frames or pag": "1 of 11",
        "rotated upright by their E": "1 of 11",
        "in CMYK, read without thei": "1 of 11",
        "with a colour profile othe": "1 of 11",
        "smaller than data.image_si": "1 of 11",
        "more than twice as long as": "1 of 11",
    }
    grey = ImageFolder(tmp_path, 16, 1).describe()
    assert "Images in colour, read as grey (data.channels: 1): 9 of 11." in grey


def test_folders_called_by_numbers_are_classes_in_the_order_of_the_numbers(tmp_path: Path):
    make_classes(tmp_path, {str(number): 1 for number in (10, 2, 1, 0)})
    folder = ImageFolder(tmp_path, 8)
    assert folder.class_names == ("0", "1", "2", "10")
    assert folder.file(3).parent.name == "10"


def test_one_name_in_two_encodings_is_one_class(tmp_path: Path):
    composed, parted = "K\u00e4se", "Ka\u0308se"
    make_classes(tmp_path / "train", {composed: 4, "Brot": 4})
    make_classes(tmp_path / "test", {parted: 2, "Brot": 2})
    splits = load_image_folder(tmp_path, 8, valid_fraction=0.25)
    assert splits.class_names == ("Brot", composed)
    assert counts_of(splits.test) == [2, 2]
    make_classes(tmp_path / "train", {parted: 4})
    with pytest.raises(DataError, match="two folders are called 'Käse'"):
        load_image_folder(tmp_path, 8)


def test_links_to_folders_are_read_and_those_that_lead_back_are_refused(tmp_path: Path):
    make_classes(tmp_path / "data", {"cat": 1, "dog": 1})
    make_classes(tmp_path / "more", {"cats": 2})
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "more" / "cats")
    assert len(ImageFolder(tmp_path / "data", 8)) == 4
    (tmp_path / "data" / "cat" / "back").symlink_to(tmp_path / "data" / "cat")
    with pytest.raises(DataError, match="a link to a folder that is read already"):
        ImageFolder(tmp_path / "data", 8)


def test_what_stands_for_no_label_is_no_class_folder(tmp_path: Path):
    make_classes(tmp_path, {"0": 1, "1": 1, "-1": 1})
    with pytest.raises(DataError, match="-1 means 'no label'"):
        ImageFolder(tmp_path, 8)


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
    """A folder with a good image in each class, and one file for each way to be bad."""
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
    bad["text.png"].write_text("not an image")
    bad["gone.png"].symlink_to(folder / "nowhere.png")
    return bad


def test_every_bad_file_is_named_before_training(tmp_path: Path):
    bad = damage(tmp_path)
    found = ImageFolder(tmp_path, 8).check_all()
    assert len(found) == len(bad) == 5
    for file in bad.values():
        assert any(message.startswith(f"{file}: cannot be read as an image") for message in found)


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
    with pytest.raises(DataError, match=r"cat/000\.png: the image is too large"):
        ImageFolder(tmp_path, 8).fetch(torch.tensor([0]))


def test_splits_of_a_folder_share_one_list_of_files(tmp_path: Path):
    splits = load_image_folder(make_classes(tmp_path, {"cat": 10, "dog": 10}), 8)
    assert isinstance(splits.test, SubsetSource)
    assert isinstance(splits.test.source, ImageFolder)
    assert not splits.train.in_memory


def test_what_lies_beside_the_folders_that_are_read_is_said(tmp_path: Path):
    for part in ("train", "dev", "test", "extra"):
        make_classes(tmp_path / part, {"cat": 4, "dog": 4})
    paint(tmp_path / "train" / "lost.jpg")
    (tmp_path / "README.txt").write_text("of the folder")
    splits = load_image_folder(tmp_path, 8)
    assert counts_of(splits.valid) == [4, 4]
    assert splits.notes == (
        f"{tmp_path}: extra beside train/ is not read.",
        f"{tmp_path}/train: image files beside the class folders that are not read: 1.",
    )
    make_classes(tmp_path / "plain", {"cat": 10, "dog": 10})
    assert load_image_folder(tmp_path / "plain", 8).notes == ()


def test_a_picture_that_is_a_program_is_not_run(tmp_path: Path):
    file = tmp_path / "cat.png"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(ValueError, match="a file of EPS is a program, which is not run"):
        decode(file, 8, 3)


def png(depth: int, colour: int, row: bytes, clear: bytes) -> bytes:
    """A PNG of one row whose colour `clear` is transparent, as PIL cannot write every one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"tRNS", clear), (b"IDAT", compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


TRANSPARENT = {
    "grey of 1 bit": (png(1, 0, b"\x40", b"\0\0"), 255),
    "grey of 2 bits": (png(2, 0, b"\x60", b"\0\1"), 170),
    "grey of 4 bits": (png(4, 0, b"\x3a", b"\0\3"), 170),
    "grey of 8 bits": (png(8, 0, b"\3\xaa", b"\0\3"), 170),
    "grey of 16 bits": (png(16, 0, b"\1\x2c\xaa\xaa", b"\1\x2c"), 170),
    "colour of 8 bits": (png(8, 2, b"\1\2\3\xaa\xaa\xaa", b"\0\1\0\2\0\3"), 170),
    "colour of 16 bits": (
        png(16, 2, b"\1\x2c\x13\x88\xea\x60\xaa\0\xaa\0\xaa\0", b"\1\x2c\x13\x88\xea\x60"),
        170,
    ),
    "dark colour of 16 bits": (png(16, 2, b"\0\1\0\2\0\3\xaa\0\xaa\0\xaa\0", b"\0\1\0\2\0\3"), 170),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_the_transparent_colour_of_a_file_is_on_the_scale_of_its_pixels(tmp_path: Path, kind: str):
    content, other = TRANSPARENT[kind]
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with Image.open(file) as image:
        seen = as_bytes(image)[:, 0]
        again = as_bytes(image)[:, 0]
    assert seen.tolist() == again.tolist() == [[255, other]] * len(seen)
    blue = decode(file, 1, 3, "#0000ff")  # the square in the middle: half of each pixel
    assert blue[2, 0, 0] > blue[0, 0, 0]
    assert (
        "transparent pixels, which show the background (data.background): 1 of 1"
        in describe_images([file], 1, 3)[0]
    )
    assert any("16 bits" in text for text in describe_images([file], 1, 3)) == ("16" in kind)
    how = {"mode": "RGB", "height": 1, "width": 1, "background": "#0000ff"}
    expected = blue.numpy()[None] / np.float32(255)
    np.testing.assert_array_equal(example.read_picture(str(file), how), expected)


def test_whole_numbers_of_32_bits_that_may_be_of_8_or_of_16_are_refused(tmp_path: Path):
    pixels = np.arange(0, 256, dtype=np.int32).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="at most 255, and nothing says whether white is 255 or"):
        decode(tmp_path / "x.tif", 4, 1)
    with pytest.raises(ValueError, match="mode I are at most 255"):
        as_bytes(Image.fromarray(pixels))
    how = {"mode": "L", "height": 4, "width": 4, "background": "white"}
    with pytest.raises(SystemExit, match=r"x\.tif: cannot .*mode I are at most 255"):
        example.read_picture(str(tmp_path / "x.tif"), how)
    Image.fromarray(pixels * 257).save(tmp_path / "deep.tif")
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "x.png")
    wide, plain = decode(tmp_path / "deep.tif", 16, 1), decode(tmp_path / "x.png", 16, 1)
    assert torch.equal(wide, plain)
    (tmp_path / "dark.pgm").write_bytes(b"P5 2 1 65535\n\0\1\0\2")
    assert decode(tmp_path / "dark.pgm", 1, 1).max() == 0
    Image.fromarray(0 * pixels).save(tmp_path / "black.tif")
    assert decode(tmp_path / "black.tif", 4, 1).max() == 0
