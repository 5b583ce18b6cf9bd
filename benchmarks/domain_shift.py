"""ImageNet's MobileNetV2 teaches a student of a quarter of its cost on emoji, across two styles.

The student is a narrower MobileNetV2 with random weights, or with `--slice 0.45` a slice of the
teacher, of that share of its channels, with the teacher's weights.

There are no labels: the teacher's first choice on the clean image is the label (the baseline
learns from that alone), and accuracy is agreement with the teacher. Students see Google's images;
every fifth subcategory is held out. They are tested on held-out things in Google's style, and on
Twitter's images of all things, which no student has seen.

    scripts/get-data emoji mobilenet_v2
    python benchmarks/domain_shift.py
"""

import argparse
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.transforms.functional import pil_to_tensor

from tutelage.data.images import DEFAULT_MEAN, DEFAULT_STD
from tutelage.data.loading import BatchBuilder, in_order
from tutelage.data.sources import Splits, TensorSource
from tutelage.data.views import CropFlip
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.inputs import ImageInputs
from tutelage.job import Job, MeasureSettings, TeacherPlan
from tutelage.losses import KD, CrossEntropy
from tutelage.models.load import load_weights
from tutelage.models.slices import slice_network
from tutelage.paths import cache_dir
from tutelage.pipeline import run_job
from tutelage.pipeline.run import RunResult
from tutelage.problem import Problem
from tutelage.significance import Interval, paired_interval

STYLES = ("google", "twitter")
ARMS = ("baseline", "distilled")


def main() -> None:
    """Train, then print agreement with the teacher on each kind of test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--width", type=float, default=0.35, help="the student's, of MobileNetV2")
    parser.add_argument("--slice", type=float, help="share of the teacher's channels to start from")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure latencies for")
    parser.add_argument("--out", type=Path, default=Path("runs/domain-shift"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pictures, is_held_out = read_emoji(chosen.size)
    teacher = make_teacher().eval()
    labels = {style: logits(teacher, pictures[style]).argmax(dim=1) for style in STYLES}
    job = make_job(chosen, pictures, labels, is_held_out)
    finished = run_job(job)
    print_costs(finished)
    sets = {
        "Google's style, held-out things": ("google", is_held_out),
        "Twitter's style, things seen in Google's": ("twitter", ~is_held_out),
        "Twitter's style, held-out things": ("twitter", is_held_out),
    }
    print("| test images | count | most frequent choice | baseline | distilled | difference |")
    print("|---|---|---|---|---|---|")
    for title, (style, rows) in sets.items():
        print(table_row(title, finished, pictures[style][rows], labels[style][rows]))


def read_emoji(size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Every emoji in both styles on white, and which subcategories are held out."""
    folder = cache_dir("emoji")
    with (folder / "emoji.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = {}
    for style in STYLES:
        with zipfile.ZipFile(folder / f"{style}.zip") as archive:
            decoded = [on_white(archive.read(row["image"]), size) for row in rows]
        pictures[style] = torch.stack(decoded)
    groups = sorted({row["subcategory"] for row in rows}, key=digest)
    held_out = set(groups[: len(groups) // 5])
    return pictures, torch.tensor([row["subcategory"] in held_out for row in rows])


def digest(text: str) -> str:
    """A fixed order that is none of the alphabet's."""
    return hashlib.sha256(text.encode()).hexdigest()


def on_white(content: bytes, size: int) -> Tensor:
    """One image as bytes of shape (3, size, size)."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    return pil_to_tensor(flat.resize((size, size), Image.Resampling.BILINEAR))


def make_teacher() -> nn.Module:
    """MobileNetV2 with ImageNet's weights."""
    network = mobilenet_v2()
    load_weights(network, cache_dir("mobilenet_v2") / "mobilenet_v2-b0353104.pth")
    return network


def make_student(chosen: argparse.Namespace) -> nn.Module:
    """The student with its initial weights."""
    if chosen.slice is None:
        return mobilenet_v2(width_mult=chosen.width)
    example = torch.rand(2, 3, chosen.size, chosen.size)
    return slice_network(make_teacher().eval(), example, width=chosen.slice).train()


def logits(network: nn.Module, pictures: Tensor) -> Tensor:
    """A network's scores, as it is in the run: on normalised images."""
    reader = BatchBuilder(
        TensorSource(pictures), inputs=ImageInputs(DEFAULT_MEAN[3], DEFAULT_STD[3])
    )
    requests = in_order(len(pictures), batch_size=64)
    with torch.no_grad():
        return torch.cat([network(reader[request].inputs) for request in requests])


def make_job(
    chosen: argparse.Namespace,
    pictures: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    is_held_out: Tensor,
) -> Job:
    """The run: Google's images to learn from, a tenth of them to select on, Twitter's to test."""
    seen = (~is_held_out).nonzero().squeeze(1)
    order = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))]
    valid, train = order[: len(order) // 10].sort().values, order[len(order) // 10 :].sort().values
    google = [
        TensorSource(pictures["google"][ids], labels["google"][ids]) for ids in (train, valid)
    ]
    return Job(
        name="domain-shift",
        out=chosen.out
        / (f"width-{chosen.width:g}" if chosen.slice is None else f"slice-{chosen.slice:g}"),
        problem=Problem.of_classes(
            Splits(
                train=google[0],
                valid=google[1],
                test=TensorSource(pictures["twitter"], labels["twitter"]),
                class_names=tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]),
                inputs=ImageInputs(DEFAULT_MEAN[3], DEFAULT_STD[3]),
            )
        ),
        teacher=TeacherPlan(make=make_teacher),
        make_student=lambda: make_student(chosen),
        objective=0.1 * CrossEntropy() + 0.9 * KD(temperature=chosen.temperature),
        settings=TrainSettings(
            epochs=chosen.epochs,
            batch_size=32,
            optimizer=OptimizerSettings(kind="adamw", lr=chosen.lr, weight_decay=1e-2),
            schedule=ScheduleSettings(kind="cosine", warmup_steps=50),
        ),
        views=CropFlip(padding=4),
        seeds=tuple(range(chosen.seeds)),
        codec=None,
        measure=MeasureSettings(batch_sizes=(1,), seconds=chosen.seconds),
        command="python benchmarks/domain_shift.py",
    )


def print_costs(finished: RunResult) -> None:
    """What teacher and student cost."""
    latency = {row.name: row.p50_ms for row in finished.record.latencies}
    for row in finished.record.sizes:
        print(
            f"{row.name}: {row.macs / 1e6:.1f} million MACs, {row.size_bytes / 1e6:.1f} MB, "
            f"{latency['teacher'] / latency[row.name]:.2f} times the teacher's speed"
        )
    print()


def table_row(title: str, finished: RunResult, pictures: Tensor, wanted: Tensor) -> str:
    """Agreement of both arms with the teacher, and their difference, with intervals."""
    same = {
        arm: torch.stack(
            [
                logits(trained.selected, pictures).argmax(dim=1) == wanted
                for trained in finished.arms
                if trained.arm == arm
            ]
        )
        for arm in ARMS
    }
    shares = [percent(paired_interval(same[arm], torch.zeros_like(same[arm]))) for arm in ARMS]
    change = percent(paired_interval(same["distilled"], same["baseline"]))
    common = wanted.bincount().max() / len(wanted)
    return f"| {title} | {len(wanted)} | {100 * common:.1f} | {' | '.join([*shares, change])} |"


def percent(found: Interval) -> str:
    """A share with its interval, in percent."""
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


if __name__ == "__main__":
    main()
