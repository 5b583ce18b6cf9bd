"""What laying a CNN's channels innermost in memory (`channels_last: true`) does to its speed."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import alternate, machine, median_ms, ratio
from torch import nn

from tutelage.models.nets import cnn, resnet

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn 64-128-256-512": lambda: cnn(10, width=64, stages=4),
    "cnn 16-32-64-256": lambda: cnn(10, channels=(16, 32, 64, 256)),
    "cnn 7-14-28-56": lambda: cnn(10, channels=(7, 14, 28, 56)),
    "resnet 32": lambda: resnet(10, width=32),
}


def steps(network: nn.Module, batch: int, *, trains: bool, bf16: bool) -> Callable[[], object]:
    """A training step, or an answer, on random images of 28x28 pixels."""
    images, labels = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    network.train(trains)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def run() -> None:
        with torch.set_grad_enabled(trains):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(images)
            if trains:
                F.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                optimizer.zero_grad()

    return run


def main() -> None:
    """Time both layouts by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(1))
    for name, make in NETWORKS.items():
        for bf16 in (False, True):
            for trains in (True, False):
                networks = {
                    "plain": make(),
                    "innermost": make().to(memory_format=torch.channels_last),
                }
                sides = {
                    side: steps(network, chosen.batch, trains=trains, bf16=bf16)
                    for side, network in networks.items()
                }
                turns = alternate(sides, turns=chosen.turns, calls=2)
                what = f"{'bf16' if bf16 else 'float32'} {'step' if trains else 'answer'}"
                found = ratio(turns["innermost"], turns["plain"])
                print(
                    f"{name:<20}{what:<16}{found}   plain {median_ms(turns['plain'])}", flush=True
                )


if __name__ == "__main__":
    main()
