"""Texts through transformers, by turns: kinds of attention, and orders of what is judged.

Steps are of MiniLM's first and last layer, as `wordnet_embeddings` trains them; judged are
students of the recipes on their validation texts. `scripts/get-data movie_snippets sentences brown
all-minilm-l6-v2` brings what is needed.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from timing import alternate, machine, median_ms, ratio
from torch import nn

from tutelage.config import build_job, read_recipe
from tutelage.data.loading import BatchBuilder, in_order
from tutelage.data.sources import SubsetSource
from tutelage.job import Job
from tutelage.models.attention import fastest_attention
from tutelage.models.sentence import sentence
from tutelage.tasks.predicting import predict_data
from tutelage.types import autocast

CPU = torch.device("cpu")
NUM_JUDGED = 768
SHAPES = ("64x16", "64x48", "16x128", "8x256")


def stepping(texts: int, tokens: int, *, precision: str, is_plain: bool) -> Callable[[], None]:
    """Forward and backward of one batch."""
    torch.manual_seed(0)
    student = sentence("all-minilm-l6-v2", keep_layers=[0, 5], freeze_embeddings=True, dropout=0.0)
    words, width = student.encoder[0].model.get_input_embeddings().weight.shape
    ids = torch.randint(words // 30, words, (texts, tokens))
    wanted = torch.nn.functional.normalize(torch.randn(texts, width), dim=1)

    def step() -> None:
        chosen = fastest_attention(student, CPU, "bf16", 1) if is_plain else nullcontext()
        with chosen:
            with autocast(CPU, precision):
                vectors = student(ids, torch.ones_like(ids))
            (vectors.float() - wanted).square().sum().backward()  # type: ignore[no-untyped-call]
        student.zero_grad()

    return step


def measure_attention(turns: int, shapes: Sequence[str]) -> None:
    """PyTorch's fused attention beside plain products, on the CPU."""
    for precision in ("bf16", "float32"):
        for texts, tokens in (map(int, shape.split("x")) for shape in shapes):
            sides = {
                name: stepping(texts, tokens, precision=precision, is_plain=name == "plain")
                for name in ("fused", "plain")
            }
            show(f"{precision}, {texts} texts of {tokens} tokens", sides, turns)


def measure_judging(turns: int) -> None:
    """Texts in the order of the data beside texts of like length together, in batches of 32."""
    for name in ("movie_snippets", "brown_tags", "wordnet_embeddings"):
        job = build_job(read_recipe(name))
        student, splits = job.new_student(0).eval(), job.splits
        assert splits.valid is not None
        ids = torch.arange(min(NUM_JUDGED, len(splits.valid)))
        reader = job.reader(SubsetSource(splits.valid, ids))

        def in_turn(
            job: Job = job, student: nn.Module = student, reader: BatchBuilder = reader
        ) -> None:
            requests = in_order(len(reader), batch_size=32)
            job.task.predict(student, (reader[request] for request in requests), CPU)

        def together(
            job: Job = job, student: nn.Module = student, reader: BatchBuilder = reader
        ) -> None:
            predict_data(job.task, student, reader, batch_size=32, device=CPU)

        sides = {"in turn": in_turn, "together": together}
        show(f"{len(reader)} validation texts of {name}", sides, turns)


def show(title: str, sides: Mapping[str, Callable[[], None]], turns: int) -> None:
    """Time two sides and print the second over the first."""
    (first, below), (second, above) = alternate(sides, turns=turns, calls=1).items()
    print(f"\n{title}")
    print(f"  {first} {median_ms(below)}\n  {second} {median_ms(above)}")
    print(f"  {second} / {first} {ratio(above, below)}")


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="texts x tokens of a batch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.threads))
    measure_judging(arguments.turns)
    measure_attention(arguments.turns, arguments.shapes)


if __name__ == "__main__":
    main()
