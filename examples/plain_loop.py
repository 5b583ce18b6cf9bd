"""Distillation in bare PyTorch: only the losses are Tutelage's."""

import torch
from torch import nn

from tutelage.data.builtin import load_digits
from tutelage.losses.divergences import cross_entropy, kl_divergence


def train(model: nn.Module, loss_of, inputs, labels, epochs: int) -> None:
    """Minimise a loss over shuffled batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            loss_of(model(inputs[rows]), inputs[rows], labels[rows]).backward()
            optimizer.step()


def net(width: int) -> nn.Module:
    """A fully connected network with one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def main() -> None:
    """Train a teacher on labels, then a student on both."""
    torch.manual_seed(0)
    splits = load_digits()
    images, labels = splits.train.fetch(torch.arange(len(splits.train)))
    test_pictures, test_labels = splits.test.fetch(torch.arange(len(splits.test)))
    inputs, test_inputs = images / 255, test_pictures / 255
    teacher, student = net(512), net(8)
    train(teacher, lambda logits, _, label: cross_entropy(logits, label), inputs, labels, 30)

    def distillation(logits, pixels, label):
        with torch.no_grad():
            teacher_logits = teacher(pixels)
        soft = kl_divergence(logits, teacher_logits, temperature=4)
        return 0.1 * cross_entropy(logits, label) + 0.9 * soft

    train(student, distillation, inputs, labels, 60)
    for name, model in (("teacher", teacher), ("student", student)):
        accuracy = (model(test_inputs).argmax(dim=1) == test_labels).float().mean()
        print(f"{name}: {accuracy:.1%} of {len(test_labels)} test digits")


if __name__ == "__main__":
    main()
