"""Every shipped recipe goes through its whole chain, in miniature."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from texts import save_sentence_encoder, save_transformer, snippets, write_csv

from tutelage.config import build_job, read_recipe, shipped_recipes
from tutelage.config.read import recipe_path
from tutelage.config.schema import Recipe
from tutelage.data import builtin
from tutelage.pipeline import run_job
from tutelage.records import RunRecord, load_record

TRAINED = "teacher.training.train.epochs=1"
SHORT = [
    "train.epochs=1",
    "seeds=[0, 1]",
    "schedule.warmup_steps=1",
]
FEW = {
    "digits": ["teacher.settings.width=4"],
    "mnist": [
        "teacher.settings.hidden=[16]",
        "student.settings.hidden=[4]",
        "data.valid_fraction=0.3",
    ],
    "fashion_mnist": [
        "teacher.settings.width=2",
        "student.settings.width=2",
        "views.pixels=1",
        "data.valid_fraction=0.3",
    ],
    "images": [
        "data.image_size=8",
        "teacher.settings={width: 4, blocks: 1}",
        "student.settings={width: 2, stages: 2}",
        "views.padding=1",
        "train.workers=0",
        "teacher.training.train.workers=0",
    ],
    "brown_tags": ["data.max_length=16", "data.path=words"],
    "diamonds": ["teacher.settings.max_iter=5"],
    "japanese_vowels": ["teacher.settings={channels: [4], kernels: [3]}"],
    "movie_genres": ["teacher.settings.max_iter=5"],
    "movie_snippets": ["data.max_length=16", "data.path=texts", "data.transfer=[more.csv]"],
    "movies": ["teacher.settings.max_iter=5"],
    "template": ["data.image_size=8", "views.padding=1"],
    "vader": ["data.max_length=16"],
    "wordnet_embeddings": ["data.max_length=16", "data.path=texts"],
    "wordnet_static": ["data.max_length=16", "data.path=texts", "student.settings={width: 4}"],
}
ELSEWHERE = {"smollm2"}  # tests/language/test_language_run.py
MEASURED = ("digits", "mnist", "images")  # the others export the same kinds of networks
NETS = """
from tutelage.models.nets import mlp

def make_teacher(num_classes, image_size, in_channels):
    return mlp(num_classes, image_size, in_channels, hidden=(16,))

def make_student(num_classes, image_size, in_channels):
    return mlp(num_classes, image_size, in_channels, hidden=(4,))
"""


def write_idx(folder: Path, train: int = 60, test: int = 30) -> None:
    """The four files of MNIST's format, with a bar whose height is the class."""
    folder.mkdir()
    for count, names in ((train, builtin.FILES[:2]), (test, builtin.FILES[2:])):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        for number, label in enumerate(labels):
            images[number, 2 * label : 2 * label + 6, 4:24] = 200
        header = struct.pack(">HBB", 0, 8, 3) + struct.pack(">III", count, 28, 28)
        (folder / names[0]).write_bytes(header + images.tobytes())
        header = struct.pack(">HBB", 0, 8, 1) + struct.pack(">I", count)
        (folder / names[1]).write_bytes(header + labels.tobytes())


def write_pictures(folder: Path) -> None:
    for name, colour in (("red", (190, 0, 0)), ("blue", (0, 0, 190))):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            shade = tuple(c + number for c in colour)
            Image.new("RGB", (10, 9), shade).save(folder / name / f"{number}.png")


def write_words(folder: Path) -> None:
    folder.mkdir()
    for part, count in (("train", 40), ("test", 20)):
        words = [text.split() for text, _ in snippets(count)]
        rows = [
            {"words": ws, "tags": ["ADJ" if w in ("good", "bad") else "X" for w in ws]}
            for ws in words
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_diamonds(folder: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 30)):
        rows = [
            (f"{carat:.2f}", str(random.choice(["Fair", "Ideal"])), f"{900 * carat:.0f}")
            for carat in random.uniform(1, 3, count)
        ]
        write_csv(folder / f"{part}.csv", rows, header="carat,cut,price")


def write_films(folder: Path) -> None:
    random = np.random.default_rng(0)
    header = ",".join(("title,year,length,budget,rating,votes", *MARKS, "mpaa", *GENRES))
    for part, count in (("train", 80), ("test", 30)):
        rows = []
        for year in random.integers(1920, 2000, count):
            flags = [str(flag) for flag in random.integers(0, 2, len(GENRES))]
            rating = f"{5 + (year - 1960) / 20 + int(flags[0]):.1f}"
            first = ("A", str(year), "90", str(random.choice(["", "9000"])), rating, str(year % 7))
            rows.append((*first, *["4.5"] * len(MARKS), "R", *flags))
        write_csv(folder / f"{part}.csv", rows, header=header)


def write_vowels(folder: Path) -> None:
    """Series whose height says their class, in two files of aeon's form."""
    folder.mkdir()
    for part, count in (("TRAIN", 40), ("TEST", 20)):
        lines = ["@timeStamps false", "@data"]
        for number in range(count):
            channel = ",".join(str(number % 2 + step / 9) for step in range(4 + number % 3))
            lines.append(f"{channel}:{channel}:{number % 2 + 1}")
        (folder / f"Few_{part}.ts").write_text("\n".join(lines))


def write_ratings(folder: Path) -> None:
    rated = [(text, f"{len(text) / 9:.2f}") for text, _ in snippets(60)]
    write_csv(folder / "train.csv", rated, header="text,rating")


BOOSTED = ("diamonds", "movies", "movie_genres")  # whose teachers take no epochs
MARKS = tuple(f"r{mark}" for mark in range(1, 11))
GENRES = ("Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short")
MADE: dict[str, Callable[[Path], None]] = {
    "diamonds": write_diamonds,
    "movies": write_films,
    "movie_genres": write_films,
    "japanese_vowels": write_vowels,
    "vader": write_ratings,
}


def made(name: str) -> list[str]:
    """Write a recipe's data in small, and say where they are."""
    MADE[name](Path("made"))
    if name != "vader":
        return ["data.path=made"]
    bert = save_transformer(Path("bert"), layers=6)
    return ["data.path=made", f"teacher.model=hf:{bert}", f"student.model=hf:{bert}"]


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """Data and overrides of each recipe."""
    monkeypatch.chdir(tmp_path)

    def of(name: str) -> list[str]:
        short = [*SHORT, *FEW[name]]
        is_measured = name in MEASURED
        short += [] if name in BOOSTED else [TRAINED]
        short += ["measure={batch_sizes: [1], seconds: 0.05}" if is_measured else "measure=null"]
        if name in ("mnist", "fashion_mnist"):
            write_idx(tmp_path / "idx")
            return [*short, "data.path=idx"]
        if name in MADE:
            return [*short, *made(name)]
        if name == "brown_tags":
            write_words(Path("words"))
            bert = save_transformer(Path("bert"), layers=6)
            return [*short, f"teacher.model=hf:{bert}", f"student.model=hf:{bert}"]
        if name == "movie_snippets":
            write_csv(Path("texts/train.csv"), snippets(48))
            write_csv(Path("texts/test.csv"), snippets(20, 300))
            write_csv(Path("more.csv"), [(text,) for text, _ in snippets(16, 500)], header="text")
            bert = save_transformer(Path("bert"), layers=6)
            return [*short, f"teacher.model=hf:{bert}", f"student.model=hf:{bert}"]
        if name.startswith("wordnet"):
            rows = [(text,) for text, _ in snippets(60)]
            write_csv(Path("texts/train.csv"), rows, header="text")
            encoder = save_sentence_encoder(Path("encoder"), layers=6)
            kind = "static" if name == "wordnet_static" else "sentence"
            short.remove(TRAINED)
            return [*short, f"teacher.model=sentence:{encoder}", f"student.model={kind}:{encoder}"]
        if name in ("images", "template"):
            write_pictures(tmp_path / "pictures")
            return [*short, "data.path=pictures"]
        return short

    return of


@pytest.fixture
def few_digits(monkeypatch):
    def loader(valid_fraction=0.3, seed=0):
        return builtin.load_digits(valid_fraction, test_fraction=0.9, seed=seed)

    monkeypatch.setattr("tutelage.config.build.BUILTIN", builtin.BUILTIN | {"digits": loader})


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("name", sorted(shipped_recipes().keys() - ELSEWHERE))
def test_a_shipped_recipe_runs_from_data_to_verdict(changes, tmp_path, name):
    overrides = changes(name)
    folder = recipe_path(name).parent
    if name == "template":
        (tmp_path / "nets.py").write_text(NETS)
        folder = tmp_path
    recipe = read_recipe(name, overrides)
    job = build_job(recipe, folder=folder)
    record = run_job(job).record
    assert load_record(job.out / "results.json", RunRecord) == record
    assert record.verdicts["selected"].num_seeds == 2
    assert record.verdicts["selected"].word in {"helped", "no evidence", "hurt"}
    assert [(arm.arm, arm.seed) for arm in record.arms] == [
        ("baseline", 0),
        ("baseline", 1),
        ("distilled", 0),
        ("distilled", 1),
    ]
    assert (record.cache and record.cache.codec) == (recipe.cache and recipe.cache.codec)
    exported = {"teacher", "distilled"} if name in MEASURED else set()
    assert {row.name for row in record.sizes} == exported
    assert all(row.max_abs_difference < 1e-3 for row in record.parity)
    assert (job.out / "report.html").stat().st_size > 10_000
    again = read_recipe(job.out / "recipe.yaml")
    assert again.model_dump(mode="json") == record.recipe
    if name != "template":
        assert again == recipe


def test_the_template_writes_out_the_keys_that_people_edit():
    text = recipe_path("template").read_text(encoding="utf-8")
    for key in Recipe.model_fields:
        written = f"\n{key}:" in text or f"\n# {key}:" in text
        assert written or key in {"measure", "optimizer", "on_policy"}, key


def test_no_recipe_is_left_out_here():
    assert set(FEW) | ELSEWHERE == set(shipped_recipes())
