#!/usr/bin/env python3
"""Runs the student in this folder on your own images, texts or arrays.

Needs Python 3.8 or newer, numpy and onnxruntime; of images pillow, of texts tokenizers.

    python example.py photo.jpg another.png        images
    python example.py "a text" letter.txt          texts, or files that hold one
    python example.py rows.csv '{"size": 3}'       rows of a table: .csv, .tsv, .json, .jsonl
    python example.py rows.npy                     samples as config.json says
    python example.py                              the samples in this folder
    python example.py --file student.int8.onnx photo.jpg

Each line has what was given and what the student says of it: the class, the values, or the labels
that hold.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DEEPEST_GREY = 65535
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
WHOLE = re.compile(r"([-+]?[0-9]+)(\.0*)?")
TEXT_FILES = (".txt", ".text", ".md", ".csv", ".tsv", ".json", ".jsonl", ".html")


def read_picture(place: str, how: Mapping[str, Any]) -> Any:
    """Read an image as the training data were read: a batch of one, values 0 to 1.

    Args:
        place: Its file.
        how: `preprocessing` of config.json.
    """
    from PIL import Image, ImageOps

    _check_is_there(place)
    height, width = how["height"], how["width"]
    try:
        with Image.open(place) as opened:
            opened.draft(None, (2 * width, 2 * height))  # a large JPEG decodes smaller
            image = _plain(
                ImageOps.exif_transpose(_as_stored(opened)), how["mode"], how["background"]
            )
    except (OSError, ValueError) as error:
        sys.exit(f"{place}: cannot be read as an image ({error}). Give 8-bit RGB or grey.")
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width, -1) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _as_stored(image: Any) -> Any:
    """An image with its transparent colour on the scale of its pixels."""
    clear, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    stored = str(tiles[0][3]) if tiles else ""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        highest = int(np.asarray(image).max())
        if 0 < highest <= 255:
            raise ValueError(f"pixels of mode I are at most {highest}: is white 255 or 65535?")
    if isinstance(clear, int):
        scaled: Any = clear * {"L;2": 85, "L;4": 17}.get(stored, 1)
    elif isinstance(clear, tuple) and (stored == "RGB;16B" or max(clear) > 255):
        scaled = tuple(part >> 8 for part in clear)
    else:
        return image
    image.load()
    image.info["transparency"] = scaled
    return image


def _plain(image: Any, mode: str, background: str) -> Any:
    """Convert to 8-bit grey or RGB, transparent pixels composited on the background."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _from_deep_greys(image)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def _from_deep_greys(image: Any) -> Any:
    """Scale 16-bit greys to 8 bits; training refuses all other depths."""
    from PIL import Image

    greys = np.asarray(image)
    if greys.dtype.kind == "f" or greys.min() < 0 or greys.max() > DEEPEST_GREY:
        raise ValueError(f"pixels of mode {image.mode} are not 8-bit or 16-bit values")
    scaled = Image.fromarray(np.rint(greys / (DEEPEST_GREY / 255)).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return scaled
    alpha = np.where(greys == clear, 0, 255).astype(np.uint8)
    return Image.merge("LA", [scaled, Image.fromarray(alpha)])


def _check_is_there(place: str) -> None:
    """Stop if a file name was mistyped."""
    if not os.path.isfile(place):
        sys.exit(f"{place}: no such file, looked for in {os.getcwd()}.")


def _text_of(given: str) -> str:
    """Text of a file, or the text itself; the name of a missing file is no text."""
    looks_like_a_file = given.lower().endswith(TEXT_FILES) or (
        len(given.split()) == 1 and ("/" in given or "\\" in given)
    )
    if not os.path.isfile(given):
        if looks_like_a_file:
            sys.exit(
                f"{given}: no such file, looked for in {os.getcwd()}. A text that looks like a "
                "file's name can be given inside of a file."
            )
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"{given}: cannot be read as a text in UTF-8 ({error}).")


def read_array(place: str, wanted: Any) -> Any:
    """Read samples of an array file, checked against the student's inputs.

    Args:
        place: The file.
        wanted: `inputs` of config.json.
    """
    if isinstance(wanted, list):
        return _with_mask(place, wanted)
    _check_is_there(place)
    try:
        rows = np.load(place, allow_pickle=False)
    except (OSError, ValueError) as error:
        sys.exit(f"{place}: cannot be read as an array ({error}).")
    low, high = wanted["range"] or (-np.inf, np.inf)
    if not _fits(rows.shape, wanted["shape"]) or str(rows.dtype) != wanted["dtype"]:
        needed = f"{wanted['dtype']} of shape {wanted['shape']}"
        sys.exit(f"{place}: holds {rows.dtype} of shape {list(rows.shape)}; {needed} is needed.")
    if rows.size and not (rows.min() >= low and rows.max() <= high):
        sys.exit(f"{place}: its values go from {rows.min()} to {rows.max()}, not {low} to {high}.")
    return rows


def _fits(shape: Any, wanted: Any) -> bool:
    """Whether all sizes are those wanted; the names among these stand for any size."""
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == given for given, size in zip(shape, wanted)
    )


def _with_mask(place: str, wanted: Any) -> Any:
    """Samples of one length in an array file, with a mask that counts all of each."""
    first, *others = wanted
    if [port["name"] for port in others] != ["mask"]:
        sys.exit(f"{place}: the student takes texts, no arrays.")
    rows = read_array(place, {"range": None, **first})
    return {first["name"]: rows, "mask": np.ones((len(rows), rows.shape[-1]), dtype=bool)}


def read_text(place: str, how: Mapping[str, Any], folder: Path) -> tuple[Any, Any]:
    """Tokens of a text, and for each token the word that it begins, or None."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(how["max_length"])
    text = _text_of(place)
    has_words = how["kind"] == "words"
    found = tokenizer.encode(text.split() if has_words else text, is_pretokenized=has_words)
    ids = np.array([found.ids], dtype=np.int64)
    named = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    words = text.split()
    begun: list[str | None] = []
    for number, word in enumerate(found.word_ids):
        is_first = word is not None and word not in found.word_ids[:number]
        begun.append(words[word] if has_words and is_first and word is not None else None)
    return named, begun


def read_rows(place: str) -> list[dict[str, Any]]:
    """Rows of a table: a file of them, or one row as JSON.

    Args:
        place: A file (.csv, .tsv, .json, .jsonl), or the text of a JSON object.
    """
    if place.lstrip().startswith("{"):
        return _json_rows(place, "the JSON given")
    _check_is_there(place)
    try:
        text = Path(place).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        sys.exit(f"{place}: cannot be read as text in UTF-8 ({error}).")
    if place.lower().endswith((".json", ".jsonl", ".ndjson")):
        return _json_rows(text, place)
    header = text.partition("\n")[0]
    usual = "\t" if place.lower().endswith(".tsv") else ","
    delimiter = next((sign for sign in (usual, ";", "\t", "|") if sign in header), usual)
    lines = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    names = [name.strip() for name in next(lines, [])]
    return [dict(zip(names, line)) for line in lines if line]


def _json_rows(text: str, place: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
        found = found if isinstance(found, list) else [found]
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            sys.exit(f"{place}: no JSON ({error}).")
    if not all(isinstance(row, dict) for row in found):
        sys.exit(f'{place}: each row must be an object, as {{"column": 3}}.')
    return found


def encode_rows(rows: Sequence[Mapping[str, Any]], how: Mapping[str, Any], place: str) -> Any:
    """Rows of a table as the student takes them.

    Args:
        rows: Cells by column.
        how: `preprocessing` of config.json.
        place: Where they come from, for messages.
    """
    encoded = []
    for number, row in enumerate(rows, start=1):
        numbers: list[float] = []
        for column in how["columns"]:
            where = f"{place}, row {number}: {column['name']!r}"
            if column["name"] not in row:
                needed = ", ".join(str(other["name"]) for other in how["columns"])
                sys.exit(f"{where} is not there. Columns: {needed}. Leave a cell empty instead.")
            cell = _cell(row[column["name"]], how["missing"], where)
            numbers += (_of_number if column["kind"] == "number" else _of_category)(
                cell, column, where
            )
        encoded.append(numbers)
    return np.array(encoded, dtype=np.float32).reshape(len(encoded), -1)


def _cell(cell: Any, missing: Sequence[str], where: str) -> str | float | None:
    """A cell as text or number; None where it is missing."""
    if isinstance(cell, bool):
        cell = str(cell)
    if isinstance(cell, str):
        text = unicodedata.normalize("NFC", cell).strip()
        return None if text in missing else text
    if cell is None or isinstance(cell, (int, float)):
        return None if cell is None or math.isnan(cell) else float(cell)
    sys.exit(f"{where} is a {type(cell).__name__}. Give a number or a text.")


def _of_number(cell: str | float | None, column: Mapping[str, Any], where: str) -> list[float]:
    if isinstance(cell, str) and not NUMBER.fullmatch(cell):
        sys.exit(f"{where} is {cell!r}, no number.")
    value = column["fill"] if cell is None else float(cell)
    if not math.isfinite(value):
        sys.exit(f"{where} is {value}. Give a finite number.")
    held = min(max(value, column["low"]), column["high"])
    if held != value:
        sys.stderr.write(f"{where} is {value:g}, outside the training rows; taken for {held:g}.\n")
    value = held
    if column["log"]:
        value = math.copysign(math.log1p(abs(value)), value)
    scaled = (value - column["mean"]) / column["std"]
    return [scaled, float(cell is None)] if column["missing_slot"] else [scaled]


def _of_category(cell: str | float | None, column: Mapping[str, Any], where: str) -> list[float]:
    slots = [*column["categories"], *["other"] * column["other_slot"]]
    numbers = [0.0] * (len(slots) + column["missing_slot"])
    if cell is None and column["missing_slot"]:
        numbers[-1] = 1.0
        return numbers
    text = cell if isinstance(cell, str) else repr(cell)
    whole = WHOLE.fullmatch(text)
    name = whole.group(1) if whole else text
    if cell is not None and name in column["categories"]:
        numbers[column["categories"].index(name)] = 1.0
        return numbers
    if cell is not None and not column["other_slot"]:
        sys.stderr.write(f"{where} is {name!r}, which no training row had.\n")
    if column["other_slot"]:
        numbers[len(slots) - 1] = 1.0
    return numbers


def said(row: Any, config: Mapping[str, Any]) -> str:
    """What the scores of one sample come to, in words.

    Args:
        row: Its scores.
        config: The whole of config.json.
    """
    labels, kind = config["labels"], config["outputs"].get("scores", "logits")
    if kind == "values":
        return ", ".join(f"{name} {value:g}" for name, value in zip(labels, row))
    if kind == "gaussians":
        means, spreads = np.split(row, 2)
        spreads = np.exp(0.5 * spreads)
        triples = zip(labels, means, spreads)
        return ", ".join(f"{name} {mean:g} ± {spread:g}" for name, mean, spread in triples)
    if kind == "binary logits":
        shares = 1 / (1 + np.exp(-row.astype(np.float64)))
        pairs = [(name, share) for name, share in zip(labels, shares) if share > 0.5]
        return ", ".join(f"{name} {share:.0%}" for name, share in pairs) or "none"
    return str(labels[row.argmax()])


def answers(
    session: Any, config: Mapping[str, Any], folder: Path, place: str
) -> Iterator[tuple[str, str]]:
    """The input and what is said of it; for labelled words, each word with its class."""
    how = config["preprocessing"]
    if place.endswith(".npy"):
        for number, row in enumerate(_run(session, read_array(place, config["inputs"]))):
            yield f"{place}[{number}]", said(row, config)
    elif how["kind"] == "picture":
        yield place, said(_run(session, read_picture(place, how))[0], config)
    elif how["kind"] == "text":
        yield place, said(_run(session, read_text(place, how, folder)[0])[0], config)
    elif how["kind"] == "words":
        yield from _of_words(session, config, read_text(place, how, folder))
    elif how["kind"] == "table":
        origin = "the row given" if place.lstrip().startswith("{") else place
        inputs = encode_rows(read_rows(place), how, origin)
        for number, row in enumerate(_run(session, inputs), start=1):
            yield f"row {number}", said(row, config)
    else:
        sys.exit(f"{place}: the student takes arrays. Give a file .npy, as config.json says.")


def _of_words(
    session: Any, config: Mapping[str, Any], read: tuple[Any, Any]
) -> Iterator[tuple[str, str]]:
    named, begun = read
    for word, row in zip(begun, _run(session, named)[0]):
        if word is not None:
            yield word, said(row, config)


def of_the_samples(session: Any, config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What is said of the samples in this folder, one line per sample or per token."""
    if (folder / "samples.npy").is_file():
        for row in _run(session, np.load(folder / "samples.npy", allow_pickle=False)):
            yield said(row, config)
        return
    with np.load(folder / "samples.npz", allow_pickle=False) as loaded:
        samples = {name: loaded[name] for name in loaded.files}
    for place, row in enumerate(_run(session, samples)):
        if row.ndim == 1:
            yield said(row, config)
        else:
            is_token = samples["attention_mask"][place] == 1
            yield " ".join(said(scores, config) for scores in row[is_token])


def _run(session: Any, inputs: Any) -> Any:
    named = inputs if isinstance(inputs, dict) else {session.get_inputs()[0].name: inputs}
    return session.run(None, named)[0]


def main() -> None:
    """The command line."""
    folder = Path(os.path.abspath(__file__)).parent
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = [entry["file"] for entry in config["files"] if entry["target"] == "onnx"]
    if not files:
        sys.exit("No .onnx file was delivered; README.md says how to open the others.")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("given", nargs="*", help="pictures, texts, rows or arrays (.npy)")
    parser.add_argument("--file", choices=files, default=files[0], help="which exported file")
    chosen = parser.parse_args()
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / chosen.file), providers=["CPUExecutionProvider"]
    )
    if not chosen.given:
        lines: Iterator[str] = of_the_samples(session, config, folder)
    else:
        found = (answers(session, config, folder, place) for place in chosen.given)
        lines = (f"{name}: {label}" for pairs in found for name, label in pairs)
    for line in lines:
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
