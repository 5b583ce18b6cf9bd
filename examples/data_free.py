"""Distillation without data: images drawn out of the teacher's own batch norms."""

import torch

import tutelage
from tutelage.data.builtin import load_digits
from tutelage.engine.inversion import InversionSettings, invert
from tutelage.models.nets import cnn


def train(student, objective, teacher, inputs, labels, epochs):
    """A plain loop with Tutelage's step."""
    trainee = tutelage.TrainingModule(student, objective, tutelage.Classification(num_classes=10))
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=5e-3)
    distiller = tutelage.Distiller(trainee, teacher, optimizer)
    trainee.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            distiller.step(tutelage.Batch(inputs[rows], labels[rows], rows, rows))
    return student.eval()


def main() -> None:
    """Train a teacher on digits, throw the digits away, and teach two students."""
    torch.manual_seed(0)
    splits = load_digits()
    everything = (source.fetch(torch.arange(len(source))) for source in (splits.train, splits.test))
    (images, labels), (test_pictures, test_labels) = everything
    norm = (torch.tensor(splits.mean), torch.tensor(splits.std))
    inputs, test_inputs = ((p / 255 - norm[0]) / norm[1] for p in (images, test_pictures))
    task = tutelage.Classification(num_classes=10)
    network = train(cnn(10, width=32), 1.0 * tutelage.CrossEntropy(), None, inputs, labels, 20)
    teacher = tutelage.ModuleTeacher(network, task, chunk=64)

    def accuracy(model: torch.nn.Module) -> str:
        return f"{(model(test_inputs).argmax(1) == test_labels).float().mean():.1%}"

    print(f"teacher: {accuracy(network)}")
    made = invert(network, 1500, (1, 8, 8), 10, InversionSettings(steps=200))
    transfers = {"noise": torch.randn(1500, 1, 8, 8), "inverted images": made.inputs}
    for name, transfer in transfers.items():
        objective = 1.0 * tutelage.KD(temperature=4)
        student = train(cnn(10, width=8), objective, teacher, transfer, made.labels, 30)
        print(f"student taught on {name}: {accuracy(student)}")


if __name__ == "__main__":
    main()
