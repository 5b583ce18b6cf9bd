"""Which temperature is best for 30 units a layer: one thing varied at a time.

Section 3 of Hinton et al. 2015 says 2.5 to 4. All networks of a seed see the same batches in the
same order from the same initial weights, so that temperatures and weights are compared in pairs; a
layer of all of them is one product. Figures stand in docs/hinton-mnist.md.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tutelage.bench.records import Measured, table
from tutelage.checksums import read_json_with_checksum, write_json_with_checksum
from tutelage.data.builtin import load_mnist
from tutelage.data.loading import BatchBuilder, in_order
from tutelage.losses.divergences import kl_per_item, log_soften
from tutelage.models.load import load_weights
from tutelage.models.nets import mlp

TEACHER = Path("runs/hinton-trials/teacher-adam/seed-0/last.safetensors")  # of hinton_trials.py
TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 8.0, 20.0)
BATCH, CLASSES, UNITS = 256, 10, 30


@dataclass(frozen=True)
class Setting:
    """What is the same for all networks of a stack.

    Attributes:
        task_weights: One stack holds each with each temperature; the soft term has the rest.
        epochs: Of the training.
        lr: Peak, of a cosine; of Adam, or of SGD with momentum 0.9.
        is_sgd: Which of the two.
        has_square: Whether the soft term is multiplied by T squared.
        sharpness: Multiplies the teacher's logits.
    """

    task_weights: tuple[float, ...] = (0.1,)
    epochs: int = 15
    lr: float = 1e-3
    is_sgd: bool = False
    has_square: bool = True
    sharpness: float = 1.0


SETTINGS = {
    "as in the table": Setting(),
    "task weights": Setting(task_weights=(0.0, 0.5, 0.9)),
    "without T squared": Setting(has_square=False),
    "60 epochs": Setting(epochs=60),
    "lr 0.01": Setting(lr=1e-2),
    "lr 0.01, 60 epochs": Setting(lr=1e-2, epochs=60),
    "SGD, lr 0.1": Setting(lr=0.1, is_sgd=True),
    "teacher's logits doubled": Setting(sharpness=2.0),
}


@dataclass(frozen=True)
class Data:
    """Images and labels, and what the teacher says of the training images."""

    images: Tensor
    labels: Tensor
    said: Tensor
    test_pictures: Tensor
    test_labels: Tensor


def read_data(weights: Path) -> Data:
    """MNIST as the networks see it, with the logits of the 2x1200 teacher of these weights."""
    splits = load_mnist(valid_fraction=0.0)
    teacher = mlp(CLASSES, hidden=(1200, 1200), dropout=0.5, input_dropout=0.2)
    load_weights(teacher, weights)
    parts = []
    for source in (splits.train, splits.test):
        reader = BatchBuilder(source, inputs=splits.inputs)
        batches = [reader[request] for request in in_order(len(reader), batch_size=1000)]
        parts.append(
            [torch.cat([b.inputs for b in batches]), torch.cat([b.labels for b in batches])]
        )
    (images, labels), (test_pictures, test_labels) = parts
    with torch.no_grad():
        said = torch.cat([teacher.eval()(part) for part in images.split(1000)])
    return Data(images.flatten(1), labels, said, test_pictures.flatten(1), test_labels)


class Stack:
    """Networks of several seeds and variants; those of one seed begin alike."""

    def __init__(self, seeds: Sequence[int], variants: int) -> None:
        """Draw the initial weights."""
        self.weights, self.biases = [], []
        for layer in range(3):
            drawn = []
            for seed in seeds:
                torch.manual_seed(seed)
                linear = [
                    m for m in mlp(CLASSES, hidden=(UNITS, UNITS)).modules() if hasattr(m, "bias")
                ]
                drawn.append((linear[layer].weight.detach().T, linear[layer].bias.detach()[None]))
            for kept, values in zip(
                (self.weights, self.biases), zip(*drawn, strict=True), strict=True
            ):
                kept.append(torch.stack(values)[:, None].repeat(1, variants, 1, 1).requires_grad_())

    @property
    def parameters(self) -> list[Tensor]:
        """All weights and biases."""
        return [*self.weights, *self.biases]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (seed, variant, row, class) of images (seed, row, pixel)."""
        seeds, variants, pixels, units = self.weights[0].shape
        wide = self.weights[0].permute(0, 2, 1, 3).reshape(seeds, pixels, variants * units)
        hidden = (images @ wide).view(seeds, -1, variants, units).transpose(1, 2) + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            hidden = hidden.relu() @ weight + bias
        return hidden


def train(setting: Setting, data: Data, seeds: Sequence[int]) -> Tensor:
    """Test errors (task weight, temperature, seed) after the last epoch."""
    variants = [(w, t) for w in setting.task_weights for t in TEMPERATURES]
    stack = Stack(seeds, len(variants))
    rate = setting.lr
    optimizer = (
        torch.optim.SGD(stack.parameters, lr=rate, momentum=0.9)
        if setting.is_sgd
        else torch.optim.Adam(stack.parameters, lr=rate, fused=True)
    )
    total = setting.epochs * (len(data.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    orders = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    for _ in range(setting.epochs):
        shuffled = torch.stack([torch.randperm(len(data.labels), generator=g) for g in orders])
        for rows in shuffled.split(BATCH, dim=1):
            if rows.shape[1] < BATCH:
                continue
            logits = stack(data.images[rows])
            loss = _loss(setting, variants, logits, data.labels[rows], data.said[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        wrong = torch.zeros(len(seeds), len(variants))
        for images, labels in zip(
            data.test_pictures.split(1000), data.test_labels.split(1000), strict=True
        ):
            guess = stack(images.expand(len(seeds), -1, -1)).argmax(-1)
            wrong += (guess != labels).sum(-1)
    return wrong.T.reshape(len(setting.task_weights), len(TEMPERATURES), len(seeds))


def _loss(
    setting: Setting,
    variants: list[tuple[float, float]],
    logits: Tensor,
    labels: Tensor,
    said: Tensor,
) -> Tensor:
    """The sum of all networks' losses: each has its own gradient."""
    log = log_soften(logits)
    hard = -log.gather(-1, labels[:, None, :, None].expand(-1, len(variants), -1, 1)).mean((2, 3))
    weights = torch.tensor([weight for weight, _ in variants])
    soft = []
    for number, (_, temperature) in enumerate(variants):
        gap = kl_per_item(logits[:, number], setting.sharpness * said, temperature).mean(1)
        soft.append(gap * (temperature**2 if setting.has_square else 1.0))
    return (weights * hard + (1 - weights) * torch.stack(soft, dim=1)).sum()


def main() -> None:
    """Train every stack that is not there yet, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="weights of a 2x1200 network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/hinton-curve.json"))
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    chosen = parser.parse_args()
    found = read_json_with_checksum(chosen.out) if chosen.out.is_file() else {}
    data = read_data(chosen.teacher)
    for name in chosen.only:
        if name not in found:
            errors = train(SETTINGS[name], data, range(chosen.seeds))
            pairs = zip(SETTINGS[name].task_weights, errors.tolist(), strict=True)
            found[name] = {f"{weight:g}": values for weight, values in pairs}
            write_json_with_checksum(chosen.out, found)
    headings = ("varied", "task weight", *(f"T={t:g}" for t in TEMPERATURES))
    rows = [
        (name, weight, *(str(Measured(values)) for values in by_temperature))
        for name, by_weight in found.items()
        for weight, by_temperature in by_weight.items()
    ]
    print("\n".join(table(headings, rows)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
