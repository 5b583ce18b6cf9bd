"""The stage that judges: every network on the test data, summaries, verdicts, samples."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.data.loading import in_order, iterate
from tutelage.evidence import CHOICES, correct, judge, summarise
from tutelage.job import Job
from tutelage.metrics import evaluate
from tutelage.pipeline.training import Trained
from tutelage.records import SoftTargetSample, Summary, TrainingRecord, Verdict

NUM_SAMPLES = 8
MAX_CHOICE = 20_000


@dataclass(frozen=True, slots=True)
class Judged:
    """What the test data say."""

    teacher: TrainingRecord
    arms: list[TrainingRecord]
    summaries: list[Summary]
    verdicts: dict[str, Verdict]
    samples: list[SoftTargetSample]


@dataclass(frozen=True, slots=True)
class _Scored:
    """One network's test logits, after its last and its selected epoch."""

    trained: Trained
    last: Tensor
    selected: Tensor


def test_logits(job: Job, model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits and labels of the test data."""
    reader = job.test_reader
    requests = in_order(len(reader), batch_size=job.settings.batch_size)
    batches = iterate(reader, requests, job.settings.workers)
    return job.task.predict(model.to(device), batches, device)


def judge_stage(
    job: Job, teacher: Trained, arms: Sequence[Trained], device: torch.device
) -> Judged:
    """Evaluate every network and compare the arms."""
    teacher_scores, labels = _score(job, teacher, device)
    wanted = teacher_scores.selected
    teacher_record = _record(teacher_scores, labels, None)
    scored = [_score(job, trained, device)[0] for trained in arms]
    records = [_record(scores, labels, wanted) for scores in scored]
    by_arm = {
        name: [scores for scores in scored if scores.trained.arm == name]
        for name in dict.fromkeys(trained.arm for trained in arms)
    }
    return Judged(
        teacher=teacher_record,
        arms=records,
        summaries=_summaries(teacher_record, records, list(by_arm)),
        verdicts=_verdicts(by_arm, labels),
        samples=_samples(job, teacher_scores, by_arm, labels),
    )


def _score(job: Job, trained: Trained, device: torch.device) -> tuple[_Scored, Tensor]:
    """A network's test logits, and the labels."""
    last, labels = test_logits(job, trained.last, device)
    if trained.selected is trained.last:
        return _Scored(trained, last, last), labels
    return _Scored(trained, last, test_logits(job, trained.selected, device)[0]), labels


def _record(scores: _Scored, labels: Tensor, teacher_logits: Tensor | None) -> TrainingRecord:
    progress = scores.trained.progress
    return TrainingRecord(
        arm=scores.trained.arm,
        seed=scores.trained.seed,
        curve=progress.curve,
        last=evaluate(scores.last, labels, teacher_logits),
        selected=evaluate(scores.selected, labels, teacher_logits),
        selected_epoch=progress.best_epoch,
        steps=progress.step,
        seconds=progress.seconds,
    )


def _summaries(
    teacher: TrainingRecord, records: Sequence[TrainingRecord], arms: Sequence[str]
) -> list[Summary]:
    summaries = []
    for choice in CHOICES:
        baseline: float | None = None
        for arm in arms:
            trainings = [record for record in records if record.arm == arm]
            found = summarise(arm, choice, trainings, teacher.selected, baseline)
            if arm == "baseline":
                baseline = found.mean["accuracy"]
            summaries.append(found)
        summaries.append(summarise("teacher", choice, [teacher], teacher.selected, None))
    return summaries


def _verdicts(by_arm: Mapping[str, Sequence[_Scored]], labels: Tensor) -> dict[str, Verdict]:
    if not {"baseline", "distilled"} <= by_arm.keys():
        return {}
    verdicts = {}
    for choice in CHOICES:
        right = {
            arm: torch.stack([correct(getattr(scores, choice), labels) for scores in scored])
            for arm, scored in by_arm.items()
        }
        verdicts[choice] = judge(right["distilled"], right["baseline"])
    return verdicts


def _samples(
    job: Job, teacher: _Scored, by_arm: Mapping[str, Sequence[_Scored]], labels: Tensor
) -> list[SoftTargetSample]:
    """Test samples whose soft targets say most: the teacher's runner-up is likely, all classes."""
    networks = {"teacher": teacher} | {arm: scored[0] for arm, scored in by_arm.items()}
    reader = job.test_reader
    samples = []
    for number in _telling_samples(teacher.selected[:MAX_CHOICE], labels[:MAX_CHOICE]):
        batch = reader[torch.tensor([number]), torch.tensor([0])]
        samples.append(
            SoftTargetSample(
                sample_id=number,
                label=int(labels[number]),
                picture_png=_png(reader.pixels(batch.inputs)[0]),
                logits={name: s.selected[number].tolist() for name, s in networks.items()},
            )
        )
    return samples


def _telling_samples(logits: Tensor, labels: Tensor) -> list[int]:
    best = logits.topk(2, dim=-1).values
    margin = best[:, 0] - best[:, 1]
    doubtful = margin.masked_fill(logits.argmax(dim=-1) != labels, torch.inf).argsort()
    chosen: list[int] = []
    seen: set[int] = set()
    for number in doubtful.tolist():
        if int(labels[number]) not in seen:
            chosen.append(number)
            seen.add(int(labels[number]))
        if len(chosen) == NUM_SAMPLES:
            break
    return chosen


def _png(pixels: Tensor) -> str | None:
    """A picture as base64 PNG; None for inputs that are no pictures."""
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or min(pixels.shape[1:]) < 2:
        return None
    from torchvision.transforms.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(pixels.clamp(0, 1).mul(255).round().byte()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
