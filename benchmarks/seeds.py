"""Several seeds of one small student: trained one after another, or all in one stack.

In the stack each weight has one more dimension, the seed, and a layer is one batched product; every
seed keeps its own order of data. Both sides do the same number of steps of the same size.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import alternate, machine, median_ms, ratio
from torch import Tensor, nn

from tutelage.models.nets import mlp

BATCH, CLASSES, PIXELS, NUM_SAMPLES = 256, 10, 784, 10_000


def main() -> None:
    """Print the ratio for each width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=[30, 300, 800])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(machine(chosen.threads))
    images = torch.randn(NUM_SAMPLES, PIXELS)
    labels = torch.randint(0, CLASSES, (NUM_SAMPLES,))
    for width in chosen.widths:
        sides = {
            "in turn": one_after_another(width, chosen.seeds, images, labels),
            "stacked": in_a_stack(width, chosen.seeds, images, labels),
        }
        turns = alternate(sides, turns=chosen.turns, calls=4)
        print(f"2x{width}, {chosen.seeds} seeds, a step of each:")
        for name, seconds in turns.items():
            print(f"  {name}  {median_ms(seconds)}")
        print(f"  stacked / in turn  {ratio(turns['stacked'], turns['in turn'])}")


def one_after_another(width: int, seeds: int, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of each of several networks, in turn."""
    networks = [mlp(CLASSES, hidden=(width, width)) for _ in range(seeds)]
    optimizers = [torch.optim.Adam(n.parameters(), lr=1e-3, fused=True) for n in networks]

    def step() -> None:
        for network, optimizer in zip(networks, optimizers, strict=True):
            rows = torch.randint(0, NUM_SAMPLES, (BATCH,))
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()

    return step


def in_a_stack(width: int, seeds: int, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of the same networks as one."""
    sizes = [(PIXELS, width), (width, width), (width, CLASSES)]
    weights = [nn.Parameter(torch.randn(seeds, i, o) / i**0.5) for i, o in sizes]
    biases = [nn.Parameter(torch.zeros(seeds, 1, o)) for _, o in sizes]
    optimizer = torch.optim.Adam([*weights, *biases], lr=1e-3, fused=True)

    def step() -> None:
        rows = torch.randint(0, NUM_SAMPLES, (seeds, BATCH))
        optimizer.zero_grad()
        hidden = images[rows]
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if number < len(weights) - 1:
                hidden = hidden.relu()
        logits = hidden.flatten(0, 1)
        loss = F.cross_entropy(logits, labels[rows].flatten(), reduction="sum") / BATCH
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
