"""Your own loop, with Tutelage's step: `Distiller` does teacher, loss, backward and optimizer."""

import torch
from torch import nn

import tutelage
from tutelage.data.builtin import load_digits


def net(width: int) -> nn.Module:
    """A fully connected network with one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def distil(student: nn.Module, teacher, objective, inputs, labels, epochs: int) -> None:
    """A plain loop over batches; each one is a `Batch`, each step a call."""
    task = tutelage.Classification(num_classes=10)
    trainee = tutelage.TrainingModule(student, objective, task)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=3e-3)
    distiller = tutelage.Distiller(trainee, teacher, optimizer)
    for epoch in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            batch = tutelage.Batch(inputs[rows], labels[rows], rows, torch.zeros_like(rows))
            report = distiller.step(batch)
        if epoch % 20 == 19:
            parts = ", ".join(f"{name} {float(part):.3f}" for name, part in report.parts.items())
            print(f"epoch {epoch + 1}: {float(report.total.detach()):.3f} ({parts})")


def main() -> None:
    """Train a teacher on labels, then a student on teacher and labels."""
    torch.manual_seed(0)
    splits = load_digits()
    images, labels = splits.train.fetch(torch.arange(len(splits.train)))
    inputs = images / 255
    model, student = net(512), net(8)
    distil(model, None, 1.0 * tutelage.CrossEntropy(), inputs, labels, epochs=20)
    teacher = tutelage.ModuleTeacher(model, tutelage.Classification(num_classes=10), chunk=64)
    objective = 0.1 * tutelage.CrossEntropy() + 0.9 * tutelage.KD(temperature=4)
    distil(student, teacher, objective, inputs, labels, epochs=60)
    test_pictures, test_labels = splits.test.fetch(torch.arange(len(splits.test)))
    accuracy = (student(test_pictures / 255).argmax(dim=1) == test_labels).float().mean()
    print(f"student: {accuracy:.1%} of {len(test_labels)} test digits")


if __name__ == "__main__":
    main()
