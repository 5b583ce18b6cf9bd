"""A home folder with tiny data sets and models in the place of those from registries."""

import csv
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from test_recipes import MADE, write_idx, write_words
from texts import save_sentence_encoder, snippets, write_csv

from tests.language.tiny_language import make_bpe, make_model, save, sentences


def make_home(home: Path) -> Path:
    """Write everything that `scripts/get-data` and `scripts/get-language` bring, in small."""
    sets = home / ".cache" / "tutelage" / "datasets"
    sets.mkdir(parents=True)
    for name in ("mnist", "fashion_mnist"):
        write_idx(sets / name, train=300, test=100)
    for name, write in MADE.items():
        write(sets / name)
    write_words(sets / "brown")
    shutil.copy(sets / "brown" / "test.jsonl", sets / "brown" / "valid.jsonl")
    more = [(text,) for text, _ in snippets(16, 500)]
    for name, parts in (
        ("sentences", ("rest", "spliced", "words", "dictionary", "dictionary-spliced")),
        ("movie_snippets", ("reviews", "reviews-rest", "nyt", "amazon", "tweets")),
    ):
        for part in parts:
            write_csv(sets / name / "more" / f"{part}.csv", more, header="text")
    write_csv(sets / "sentences" / "train.csv", [(t,) for t, _ in snippets(150)], header="text")
    write_csv(sets / "movie_snippets" / "train.csv", snippets(48))
    write_csv(sets / "movie_snippets" / "test.csv", snippets(20, 300))
    save_sentence_encoder(sets / "all-minilm-l6-v2", layers=6, positions=130)
    documents = sentences(900, seed=0)
    (sets / "english").mkdir()
    (sets / "english" / "brown.txt").write_text("\n\n".join(documents))
    tokenizer = make_bpe(documents)
    save(sets / "smollm2", make_model(len(tokenizer)), tokenizer)
    return home


def add_emoji(home: Path, count: int = 30) -> None:
    """Two styles of coloured squares, and a MobileNetV2 with random weights."""
    from torchvision.models import mobilenet_v2

    sets = home / ".cache" / "tutelage" / "datasets"
    (sets / "emoji").mkdir()
    with (sets / "emoji" / "emoji.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "subcategory"])
        rows.writerows([f"{number}.png", f"kind {number % 5}"] for number in range(count))
    for style, alpha in (("google", 255), ("twitter", 128)):
        with zipfile.ZipFile(sets / "emoji" / f"{style}.zip", "w") as archive:
            for number in range(count):
                content = BytesIO()
                colour = (8 * number, 255 - 8 * number, 60 * (number % 5), alpha)
                Image.new("RGBA", (12, 12), colour).save(content, "PNG")
                archive.writestr(f"{number}.png", content.getvalue())
    (sets / "mobilenet_v2").mkdir()
    torch.manual_seed(0)
    torch.save(mobilenet_v2().state_dict(), sets / "mobilenet_v2" / "mobilenet_v2-b0353104.pth")
