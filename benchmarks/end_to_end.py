"""Whole trainings: Tutelage, live and cached, against a plain PyTorch loop of the same live kind.

The plain loop is as fast as its author could make it: images normalised and padded once, batches
picked by indexing, no data loader, a fused optimizer, no synchronisation within an epoch.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import Loop, Seconds, Tick, Turns, machine, pooled, ratio, take_turns
from torch import Tensor, nn

import tutelage
from tutelage.data.builtin import BUILTIN
from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import Splits, TensorSource
from tutelage.engine import Arm, fit
from tutelage.engine.events import Advanced, Event
from tutelage.models.nets import mlp
from tutelage.teachers import Teacher
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec

CLASSES, PIXELS, TEMPERATURE, LR = 10, 2, 20.0, 1e-3
TASK = tutelage.Classification(num_classes=CLASSES)


def new_student(size: int) -> nn.Module:
    """The same initial weights for every side."""
    torch.manual_seed(1)
    return mlp(CLASSES, image_size=size, hidden=(800, 800)).train()


class PlainLoop:
    """Live distillation in bare PyTorch.

    Args:
        splits: Data and normalisation.
        teacher: The network.
        out: Where the student goes.
        epochs: Passes over the data.
        batch_size: Samples a step.
    """

    def __init__(
        self, splits: Splits, teacher: nn.Module, out: Path, epochs: int, batch_size: int
    ) -> None:
        """Hold everything."""
        self.splits, self.teacher, self.out = splits, teacher, out
        self.epochs, self.batch_size = epochs, batch_size
        self.teacher_turns: list[Seconds] = [Seconds(0, 0)]

    def train(self, tick: Tick) -> None:
        """The whole training."""
        windows, labels = self._windows()
        student = new_student(windows.shape[-1])
        optimizer = torch.optim.AdamW(student.parameters(), lr=LR, fused=True)
        steps = self.epochs * -(-len(labels) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(0)
        side = 2 * PIXELS + 1
        for _ in range(self.epochs):
            order = torch.randperm(len(labels), generator=generator)
            places = torch.randint(side, (2, len(labels)), generator=generator)
            total = torch.zeros(())
            for rows, place in zip(
                order.split(self.batch_size), places.split(self.batch_size, dim=1), strict=True
            ):
                inputs = windows[rows, :, place[0], place[1]]
                teacher_logits = self._teach(inputs)
                logits = student(inputs)
                soft = F.kl_div(
                    F.log_softmax(logits / TEMPERATURE, dim=1),
                    F.log_softmax(teacher_logits / TEMPERATURE, dim=1),
                    reduction="batchmean",
                    log_target=True,
                )
                hard = F.cross_entropy(logits, labels[rows])
                loss = 0.1 * hard + 0.9 * TEMPERATURE**2 * soft
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(rows)
                tick()
                self.teacher_turns.append(Seconds(0, 0))
            assert torch.isfinite(total)
        torch.save(student.state_dict(), self.out)

    def _teach(self, inputs: Tensor) -> Tensor:
        begun = Seconds.now()
        with torch.inference_mode():
            logits: Tensor = self.teacher(inputs)
        self.teacher_turns[-1] += Seconds.now() - begun
        return logits

    def _windows(self) -> tuple[Tensor, Tensor]:
        """Every shifted image, as a view of the padded ones; normalised once."""
        images, labels = self.splits.train.fetch(torch.arange(len(self.splits.train)))
        assert labels is not None
        assert self.splits.mean is not None
        assert self.splits.std is not None
        scaled = F.pad(images.float() / 255, (PIXELS,) * 4)
        padded = (scaled - self.splits.mean[0]) / self.splits.std[0]
        height, width = images.shape[2:]
        return padded.unfold(2, height, 1).unfold(3, width, 1), labels


def our_loop(
    reader: BatchBuilder, teacher: Teacher, out: Path, epochs: int, batch_size: int
) -> Loop:
    """The same training by `fit`."""
    settings = tutelage.TrainSettings(
        epochs=epochs, batch_size=batch_size, optimizer=tutelage.OptimizerSettings(lr=LR)
    )
    arm = Arm(
        name="distilled",
        seed=0,
        objective=0.1 * tutelage.CrossEntropy() + 0.9 * tutelage.KD(temperature=TEMPERATURE),
        task=TASK,
        settings=settings,
        train=reader,
        valid=None,
        teacher=teacher,
        folder=out,
        key="benchmark",
    )

    def train(tick: Tick) -> None:
        def listen(event: Event) -> None:
            if isinstance(event, Advanced):
                tick()

        size = reader[torch.tensor([0]), torch.tensor([0])].inputs.shape[-1]
        fit(new_student(size), arm, listen)

    return train


def make_data(name: str, samples: int) -> tuple[Splits, BatchBuilder]:
    """A built-in data set, or the first part of it, in memory."""
    splits = BUILTIN[name](valid_fraction=0.0)
    images, labels = splits.train.fetch(torch.arange(min(samples, len(splits.train))))
    source = TensorSource(images, labels)
    reader = BatchBuilder(source, tutelage.Shift(PIXELS), inputs=splits.inputs, num_classes=CLASSES)
    return Splits(source, None, splits.test, splits.class_names, splits.inputs), reader


def trained_teacher(splits: Splits, size: int) -> nn.Module:
    """A teacher as large as Hinton's, after one pass: how good it is changes no time."""
    torch.manual_seed(0)
    model = mlp(CLASSES, image_size=size, hidden=(1200, 1200))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    images, labels = splits.train.fetch(torch.arange(min(10_000, len(splits.train))))
    assert labels is not None
    for rows in torch.randperm(len(images)).split(256):
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows].float() / 255), labels[rows]).backward()
        optimizer.step()
    return model.eval().requires_grad_(requires_grad=False)


def chunked(seconds: list[Seconds], steps: int, turns: int) -> list[Seconds]:
    """Sums of as many steps as a turn has."""
    return [sum(seconds[i * steps : (i + 1) * steps], Seconds(0, 0)) for i in range(turns)]


class Contest:
    """The three sides, trained side by side as often as asked.

    Args:
        splits: The data.
        reader: The same with its views.
        out: A folder to work in.
        options: Epochs, batch size, steps in a turn and threads.
    """

    def __init__(
        self, splits: Splits, reader: BatchBuilder, out: Path, options: argparse.Namespace
    ) -> None:
        """Train the teacher and build its cache."""
        self.splits, self.reader, self.out, self.options = splits, reader, out, options
        size = reader[torch.tensor([0]), torch.tensor([0])].inputs.shape[-1]
        self.teacher = trained_teacher(splits, size)
        self.live = tutelage.ModuleTeacher(self.teacher, TASK, chunk=options.batch_size)
        codec = make_codec("float32")
        begun = time.process_time()
        build_cache(out / "cache", self.live, reader, codec, device=torch.device("cpu"))
        self.build_s = time.process_time() - begun
        self.cached = tutelage.CachedTeacher(out / "cache", cache_key(self.live, reader, codec))

    def run(self, number: int) -> Turns:
        """Whole trainings of new students; the teacher's part of the plain one comes as a side."""
        out, steps = self.out / str(number), self.options.steps
        shape = (self.options.epochs, self.options.batch_size)
        out.mkdir()
        plain = PlainLoop(self.splits, self.teacher, out / "plain.pt", *shape)
        loops = {
            "plain": plain.train,
            "live": our_loop(self.reader, self.live, out / "live", *shape),
            "cached": our_loop(self.reader, self.cached, out / "cached", *shape),
        }
        turns = take_turns(loops, steps=steps, threads=self.options.threads)
        return turns | {"teacher": chunked(plain.teacher_turns, steps, len(turns["plain"]))}


def show(seconds: Turns) -> None:
    """Print the ratios of turns, and of whole trainings."""
    plain, teacher = seconds["plain"], seconds["teacher"]
    rest = [whole - part for whole, part in zip(plain, teacher, strict=True)]
    print(f"{len(plain)} turns; ratio: median (quartiles)")
    print(f"  teacher's share of plain   {ratio(teacher, plain)}")
    print(f"  live / plain               {ratio(seconds['live'], plain).against(1.0)}")
    print(f"  cached / plain             {ratio(seconds['cached'], plain)}")
    print(f"  cached / (plain - teacher) {ratio(seconds['cached'], rest).against(1.0)}")
    print("whole trainings, set-up and saving included")
    totals = {name: sum(turns, Seconds(0, 0)) for name, turns in seconds.items()}
    for name in ("plain", "live", "cached"):
        share = totals[name].cpu / totals["plain"].cpu
        print(
            f"  {name:<8}{totals[name].cpu:8.1f} s cpu{totals[name].wall:8.1f} s wall{share:8.3f}"
        )


def main() -> None:
    """Train the three side by side and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(BUILTIN), default="mnist")
    parser.add_argument("--samples", type=int, default=20_000, help="only the first ones")
    parser.add_argument("--repeats", type=int, default=6, help="trainings of each side")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5, help="steps in one turn")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits, reader = make_data(options.data, options.samples)
    print(machine(options.threads))
    print(
        f"{options.data}: {len(reader)} samples of {reader.views.num_views} views, batch "
        f"{options.batch_size}; {options.repeats} x {options.epochs} epochs, turns of "
        f"{options.steps} steps"
    )
    with tempfile.TemporaryDirectory() as temporary:
        contest = Contest(splits, reader, Path(temporary), options)
        print(f"building the cache took {contest.build_s:.1f} s of processor time")
        show(pooled(contest.run(number) for number in range(options.repeats)))


if __name__ == "__main__":
    main()
