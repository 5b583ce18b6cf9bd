"""A small record that looks like a real run's, and ways to vary it."""

import base64
import math
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from tutelage.records import (
    CacheRow,
    CalibrationBin,
    Confusion,
    Evaluation,
    LatencyRow,
    MetricPoint,
    ParityRow,
    RunRecord,
    SizeRow,
    SoftTargetSample,
    Summary,
    TrainingRecord,
    Verdict,
)

LEVELS = {"teacher": 0.9849, "baseline": 0.9463, "distilled": 0.9617}


def draw_png(rng, side=8):
    rows = b"".join(b"\0" + bytes(rng.randrange(256) for _ in range(side)) for _ in range(side))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def make_evaluation(arm, rng, classes):
    accuracy = LEVELS[arm] + rng.uniform(-0.006, 0.006) * (arm != "teacher")
    bins = [
        CalibrationBin(c / 15 + 0.03, min(1.0, c / 15 + rng.uniform(-0.1, 0.1)), 2 + c)
        for c in range(4, 14)
    ]
    return Evaluation(
        accuracy=accuracy,
        nll=2.5 * (1 - accuracy),
        ece=0.4 * (1 - accuracy),
        agreement=None if arm == "teacher" else accuracy - 0.01,
        kl_to_teacher=None if arm == "teacher" else 3 * (1 - accuracy),
        per_class_accuracy=[min(1.0, accuracy + rng.uniform(-0.05, 0.03)) for _ in range(classes)],
        calibration=[*bins, CalibrationBin(0.985, accuracy, 380)],
        count=497,
    )


def make_training(arm, seed, *, classes, epochs, is_validated):
    rng = random.Random(f"{arm}{seed}")
    curve = []
    for epoch in range(1, epochs + 1):
        valid = LEVELS[arm] - 0.6 * math.exp(-epoch / 3) + rng.uniform(-0.01, 0.01)
        curve.append(
            MetricPoint(
                epoch=epoch,
                step=16 * epoch,
                train_loss=0.1 + 2 * math.exp(-epoch / 4),
                train_parts={"cross_entropy": 0.05 + 2 * math.exp(-epoch / 4)},
                valid_metric=valid if is_validated else None,
                valid_loss=2.2 * (1 - valid) + 0.05 if is_validated else None,
                learning_rate=1e-3,
                seconds=0.12,
            )
        )
    return TrainingRecord(
        arm=arm,
        seed=seed,
        curve=curve,
        last=make_evaluation(arm, rng, classes),
        selected=make_evaluation(arm, rng, classes),
        selected_epoch=epochs - 2 if is_validated else None,
        steps=16 * epochs,
        seconds=2.6,
    )


def summarise(arm, choice, trainings, teacher, baseline):
    found = [getattr(t, choice) for t in trainings]
    top = getattr(teacher, choice)
    mean = sum(e.accuracy for e in found) / len(found)
    names = ("accuracy", "nll", "ece", "agreement", "kl_to_teacher")
    known = [n for n in names if getattr(found[0], n) is not None]
    gap = None if baseline is None else (mean - baseline) / (top.accuracy - baseline)
    return Summary(
        arm=arm,
        choice=choice,
        mean={n: sum(getattr(e, n) for e in found) / len(found) for n in known},
        spread={n: 0.0031 if len(found) > 1 else None for n in known},
        retention=mean / top.accuracy,
        gap_closed=gap if arm == "distilled" else None,
        per_class_retention=[
            sum(e.per_class_accuracy[i] for e in found) / len(found) / level
            for i, level in enumerate(top.per_class_accuracy)
        ],
    )


def make_summaries(teacher, arms):
    groups = {"teacher": [teacher]}
    for training in arms:
        groups.setdefault(training.arm, []).append(training)
    summaries = []
    for choice in ("last", "selected"):
        baseline = [getattr(t, choice).accuracy for t in groups.get("baseline", [])]
        level = sum(baseline) / len(baseline) if baseline else None
        summaries += [summarise(a, choice, ts, teacher, level) for a, ts in groups.items()]
    return summaries


def make_samples(classes, count, students):
    rng = random.Random(3)
    samples = []
    for index in range(count):
        label = rng.randrange(classes)
        teacher = [rng.gauss(0, 3) + 11 * (c == label) for c in range(classes)]
        logits = {"teacher": teacher}
        for name in students:
            logits[name] = [0.6 * z + rng.gauss(0, 1.5) for z in teacher]
        samples.append(SoftTargetSample(17 * index, label, draw_png(rng), logits))
    return samples


def make_verdict(choice, seeds):
    return Verdict(
        word="helped" if choice == "selected" else "no evidence",
        difference=0.0154 if choice == "selected" else 0.0061,
        low=0.0048 if choice == "selected" else -0.0032,
        high=0.0262 if choice == "selected" else 0.0151,
        level=0.95,
        num_seeds=seeds,
        num_samples=497,
        sentence="Distillation helped: accuracy 96.17 % against 94.63 %, +1.54 points (+0.48 to "
        "+2.62)."
        if choice == "selected"
        else "No evidence that distillation changed accuracy: +0.61 points (-0.32 to +1.51).",
    )


def build_record(
    *, seeds=3, students=("baseline", "distilled"), classes=10, epochs=20, is_validated=True
):
    """A record with the given shape."""
    shape = {"classes": classes, "epochs": epochs, "is_validated": is_validated}
    teacher = make_training("teacher", 0, **shape)
    arms = [make_training(arm, seed, **shape) for seed in range(seeds) for arm in students]
    has_baseline = "baseline" in students
    return RunRecord(
        name="digits",
        version="0.1.0",
        command="tutelage run digits seed=0",
        recipe={
            "task": "classification",
            "data": {"kind": "digits", "batch_size": 64},
            "objective": {"task_weight": 0.1, "terms": [{"loss": "kd", "temperature": 4.0}]},
        },
        class_names=[str(i) for i in range(classes)],
        splits={"train": 1000, "valid": 300, "test": 497},
        temperature=4.0,
        teacher=teacher,
        arms=arms,
        summaries=make_summaries(teacher, arms),
        verdicts={c: make_verdict(c, seeds) for c in ("selected", "last")} if has_baseline else {},
        sizes=[
            SizeRow("teacher", 1_486_810, 1_484_800, 5_951_234),
            SizeRow("student", 12_730, 12_600, 53_411),
        ],
        latencies=[
            LatencyRow("teacher", "onnxruntime", 1, 1, 0.2314, 0.2789, 4310.0, 500),
            LatencyRow("student", "onnxruntime", 1, 1, 0.0123, 0.0167, 80123.0, 500),
        ],
        parity=[ParityRow("student", "student.onnx", 3.1e-6, 1.0, 256)],
        samples=make_samples(classes, 4, students),
        cache=CacheRow("float16", 1000, 25, 500_000, 20.0, 2.3e-7, 1.9),
        notes=["The test set is small: differences below 1 point are noise."],
        seconds={"data": 0.4, "teacher": 6.1, "cache": 1.9, "arms": 75.2, "assistants": 0.0},
        machine="PyTorch 2.9.1, 1 thread on 2 cores",
        confusion=Confusion(0, make_confusions(classes)),
    )


def make_confusions(classes):
    """Fifty items a class, of which the next class gets some, and the first one more."""
    cells = []
    for label in range(classes):
        cells += [(label, label, 46 - label % 5), (label, (label + 1) % classes, 3 + label % 5)]
        cells.append((label, (label + 2) % classes, 1))
    return cells


@pytest.fixture
def record() -> RunRecord:
    return build_record()


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    return build_record


@pytest.fixture
def hostile_record(record) -> RunRecord:
    """Every name tries to leave its place."""
    bad = '</script><script>window.stolen=1</script><img src=x onerror="window.stolen=2">\'"{{7*7}}'
    classes = [f"{bad}{i}" for i in range(10)]
    samples = [replace(s, image_png='x" onerror="window.stolen=3') for s in record.samples]
    samples = [replace(s, logits={**s.logits, bad: s.logits["teacher"]}) for s in samples]
    return replace(
        record,
        name=bad,
        command=bad,
        class_names=classes,
        samples=samples,
        recipe={bad: [bad, {"deeper": bad}]},
        notes=[bad],
        seconds={bad: 1.0},
        splits={bad: 3},
        sizes=[replace(record.sizes[0], name=bad), *record.sizes],
        verdicts={
            "selected": replace(record.verdicts["selected"], sentence=bad, word=bad),
        },
    )
