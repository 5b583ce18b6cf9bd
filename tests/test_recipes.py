"""Every shipped recipe goes through its whole chain, in miniature."""

import json
import struct
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
    TRAINED,
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
    "movie_snippets": ["data.max_length=16", "data.path=texts", "data.transfer=[more.csv]"],
    "template": ["data.image_size=8", "views.padding=1"],
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


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """Data and overrides of each recipe."""
    monkeypatch.chdir(tmp_path)

    def of(name: str) -> list[str]:
        short = [*SHORT, *FEW[name]]
        is_measured = name in MEASURED
        short += ["measure={batch_sizes: [1], seconds: 0.05}" if is_measured else "measure=null"]
        if name in ("mnist", "fashion_mnist"):
            write_idx(tmp_path / "idx")
            return [*short, "data.path=idx"]
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
