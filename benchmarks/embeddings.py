"""Students of sentence embeddings and Model2Vec against their teacher, on the same measures.

python benchmarks/embeddings.py [--layers FOLDER] [--static FOLDER]

Both folders are the `student` that `tutelage run wordnet_embeddings` and `wordnet_static` leave;
one that is not there is left out. Model2Vec, where it is installed, distils the same teacher here,
with its own defaults. It wants older tokenizers than others do: install `model2vec[distill]` and
`tutelage[text]` into an environment of their own. Needs
`scripts/get-data sentences all-minilm-l6-v2 movie_snippets`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread for every side

import torch
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegressionCV
from timing import alternate, machine, ratio
from torch import Tensor

from tutelage.data.text import Columns, held_out_parts, read_parts
from tutelage.embedding_metrics import pair_correlation, shared_neighbours
from tutelage.models.sentence import save_encoder, sentence, static
from tutelage.paths import path_or_hub_name

TIMED, TURNS, PROBE_TEXTS = 256, 5, 4000
HEADER = (
    "network",
    "Spearman",
    "neighbours",
    "Spearman, reviews",
    "neighbours, reviews",
    "probe",
    "times the teacher",
    "sentences a second",
    "MB",
)


@dataclass(frozen=True, slots=True)
class Side:
    """A way from texts to vectors.

    Attributes:
        encode: Gives one vector a text.
        size_bytes: Of its weights on disk.
    """

    encode: Callable[[Sequence[str]], Tensor]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one side."""

    own: tuple[float, float]
    foreign: tuple[float, float]
    probe: float
    size_bytes: int


def of_folder(folder: str | Path) -> Side:
    """A model of sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu")

    def encode(texts: Sequence[str]) -> Tensor:
        found: Tensor = model.encode(
            list(texts), batch_size=32, convert_to_tensor=True, show_progress_bar=False
        )
        return found

    return Side(encode, weights_bytes(Path(folder)))


def of_model2vec(teacher: str, width: int) -> Side:
    """What Model2Vec makes of the teacher, and its own way of calling it."""
    from model2vec.distill import distill

    model: Any = distill(teacher, pca_dims=width, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = weights_bytes(Path(folder))
    return Side(lambda texts: torch.from_numpy(model.encode(list(texts))).float(), size)


def weights_bytes(folder: Path) -> int:
    """Of all tensors in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def untrained(made: Any, folder: Path) -> Side:
    """A student as it begins."""
    save_encoder(made, folder)
    return of_folder(folder)


def texts_of(data: str, part: str) -> tuple[list[str], list[Any]]:
    """Texts of a part, and their labels where there are any."""
    rows = held_out_parts(read_parts(data), Columns(), 0.1, 0.1, 0)[part]
    return rows.texts, rows.labels if "label" in rows.table.columns else []


def agreement(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Rank correlation of the cosines of all pairs, and the share of ten common neighbours."""
    return pair_correlation(ours, theirs), shared_neighbours(ours, theirs)


def probe(train: Tensor, labels: Sequence[Any], test: Tensor, wanted: Sequence[Any]) -> float:
    """Share of test texts that logistic regression on the vectors puts right."""
    model = LogisticRegressionCV(
        Cs=5,
        cv=3,
        l1_ratios=(0,),
        scoring="accuracy",
        max_iter=1000,
        use_legacy_attributes=False,
    )
    found: float = model.fit(train.numpy(), labels).score(test.numpy(), wanted)
    return found


def judge(sides: dict[str, Side]) -> dict[str, Row]:
    """Everything but time."""
    own, _ = texts_of("sentences", "test")
    train, labels = texts_of("movie_snippets", "train")
    train, labels = train[:PROBE_TEXTS], labels[:PROBE_TEXTS]
    test, wanted = texts_of("movie_snippets", "test")
    rows: dict[str, Row] = {}
    teacher: list[Tensor] = []
    for name, side in sides.items():
        vectors, foreign = side.encode(own), side.encode(test)
        teacher = teacher or [vectors, foreign]
        rows[name] = Row(
            own=agreement(vectors, teacher[0]),
            foreign=agreement(foreign, teacher[1]),
            probe=probe(side.encode(train), labels, foreign, wanted),
            size_bytes=side.size_bytes,
        )
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    return rows


def speeds(sides: dict[str, Side]) -> dict[str, str]:
    """How many times as many sentences a second as the teacher, of processor time."""
    texts, _ = texts_of("sentences", "test")

    def call(side: Side) -> Callable[[], object]:
        return lambda: side.encode(texts[:TIMED])

    turns = alternate({n: call(side) for n, side in sides.items()}, turns=TURNS, calls=1)
    found = {}
    for name, seconds in turns.items():
        times = ratio(turns["teacher"], seconds).cpu
        rate = TIMED / sorted(span.cpu for span in seconds)[TURNS // 2]
        found[name] = f"{times.median:.1f} ({times.low:.1f} to {times.high:.1f}) | {rate:,.0f}"
    return found


def main() -> None:
    """Measure all sides and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=Path, default=Path("runs/wordnet_embeddings/student"))
    parser.add_argument("--static", type=Path, default=Path("runs/wordnet_static/student"))
    parser.add_argument("--teacher", default="all-minilm-l6-v2")
    parser.add_argument("--width", type=int, default=256, help="of static students")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    teacher = path_or_hub_name(given.teacher)
    with tempfile.TemporaryDirectory() as folder:
        begun = Path(folder)
        sides = {"teacher": of_folder(teacher)}
        if given.layers.is_dir():
            started = sentence(given.teacher, keep_layers=[0, 5])
            sides["layers, untrained"] = untrained(started, begun / "layers")
            sides["layers"] = of_folder(given.layers)
        if given.static.is_dir():
            sides["static, untrained"] = untrained(
                static(given.teacher, width=given.width), begun / "static"
            )
            sides["static"] = of_folder(given.static)
        if find_spec("model2vec") is not None:
            sides["Model2Vec"] = of_model2vec(teacher, given.width)
        rows, times = judge(sides), speeds(sides)
    print(machine(torch.get_num_threads()))
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for name, row in rows.items():
        shares = [f"{value:.3f}" for value in (*row.own, *row.foreign)]
        line = [name, *shares, f"{row.probe:.2%}", times[name], f"{row.size_bytes / 1e6:.1f}"]
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
