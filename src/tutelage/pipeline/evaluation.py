"""Evaluation: every network on the test data, summaries, verdicts, samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.data.overlap import judged_on
from tutelage.data.sources import Source
from tutelage.job import Job
from tutelage.metrics import confusions
from tutelage.pipeline.training import TrainedModel
from tutelage.records import (
    Confusion,
    ShownSample,
    SoftTargetSample,
    Summary,
    TrainingRecord,
    Verdict,
)
from tutelage.significance import CHOICES, compare_arms, summarise
from tutelage.tasks import Predictions, Task
from tutelage.tasks.predicting import predict_data
from tutelage.types import HiddenStates

NUM_SAMPLES = 8
MAX_CHOICE, MAX_TEXT = 20_000, 400


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Result of the evaluation on the test data."""

    teacher: TrainingRecord
    arms: list[TrainingRecord]
    summaries: list[Summary]
    verdicts: dict[str, Verdict]
    samples: list[SoftTargetSample]
    shown: list[ShownSample]
    confusion: Confusion | None


@dataclass(frozen=True, slots=True)
class _Predictions:
    """Predictions of one network for the test data, after its last and its selected epoch."""

    trained: TrainedModel
    last: Predictions
    selected: Predictions


def predict_test(
    job: Job, model: nn.Module, device: torch.device, task: Task | None = None
) -> Predictions:
    """Predictions of a network for the test data; the teacher may have its own task."""
    return predict_data(
        task or job.task,
        model.to(device),
        job.test_reader,
        batch_size=job.most_rows,
        device=device,
        workers=job.settings.workers,
    )


def evaluate_stage(
    job: Job, teacher: TrainedModel, arms: Sequence[TrainedModel], device: torch.device, shown: int
) -> EvaluationResult:
    """Evaluate every network and compare the arms; samples come from one seed."""
    task = job.task
    teacher_said = _ask(job, teacher, device, job.teacher_task)
    teacher_record = _record(task, teacher_said, None)
    said = [_ask(job, trained, device) for trained in arms]
    records = [_record(task, one, teacher_said.selected) for one in said]
    of_seed = [one for one in said if one.trained.seed == shown]
    by_arm = {
        name: [one for one in said if one.trained.arm == name]
        for name in dict.fromkeys(trained.arm for trained in arms)
    }
    return EvaluationResult(
        teacher=teacher_record,
        arms=records,
        summaries=_summaries(job, teacher_record, records, list(by_arm)),
        verdicts=_verdicts(task, by_arm, judged_on(job.splits)),
        samples=_samples(job, teacher_said, of_seed),
        shown=_shown(job, teacher_said, of_seed),
        confusion=_confusion(said, records, shown),
    )


def _confusion(
    said: Sequence[_Predictions], records: Sequence[TrainingRecord], shown: int
) -> Confusion | None:
    """Confusions of one seed's distilled student; None if items have no classes."""
    for one, record in zip(said, records, strict=True):
        if (record.arm, record.seed) == ("distilled", shown) and record.selected.per_class_accuracy:
            return Confusion(shown, confusions(one.selected.logits, one.selected.labels))
    return None


def _ask(
    job: Job, trained: TrainedModel, device: torch.device, task: Task | None = None
) -> _Predictions:
    last = predict_test(job, trained.last, device, task)
    if trained.selected is trained.last:
        return _Predictions(trained, last, last)
    return _Predictions(trained, last, predict_test(job, trained.selected, device, task))


def _record(task: Task, said: _Predictions, teacher: Predictions | None) -> TrainingRecord:
    progress = said.trained.progress
    return TrainingRecord(
        arm=said.trained.arm,
        seed=said.trained.seed,
        curve=progress.curve,
        last=task.evaluate(said.last, teacher),
        selected=task.evaluate(said.selected, teacher),
        selected_epoch=progress.best_epoch,
        steps=progress.step,
        seconds=progress.seconds,
    )


def _summaries(
    job: Job, teacher: TrainingRecord, records: Sequence[TrainingRecord], arms: Sequence[str]
) -> list[Summary]:
    metric, summaries = job.task.metric, []
    compared = teacher.selected if job.problem.teacher_task is None else None  # else of other items
    for choice in CHOICES:
        baseline: float | None = None
        for arm in arms:
            trainings = [record for record in records if record.arm == arm]
            found = summarise(arm, choice, trainings, compared, baseline, metric)
            if arm == "baseline":
                baseline = found.mean[metric.name]
            summaries.append(found)
        summaries.append(summarise("teacher", choice, [teacher], teacher.selected, None, metric))
    return summaries


def _verdicts(
    task: Task, by_arm: Mapping[str, Sequence[_Predictions]], judged_on: str
) -> dict[str, Verdict]:
    if not {"baseline", "distilled"} <= by_arm.keys():
        return {}
    verdicts = {}
    for choice in CHOICES:
        scores = {
            arm: torch.stack([task.scores(getattr(one, choice)) for one in said])
            for arm, said in by_arm.items()
        }
        verdicts[choice] = compare_arms(
            scores["distilled"], scores["baseline"], metric=task.metric, judged_on=judged_on
        )
    return verdicts


def _samples(
    job: Job, teacher: _Predictions, arms: Sequence[_Predictions]
) -> list[SoftTargetSample]:
    """Test samples with the most informative soft targets: a likely runner-up, all classes."""
    if isinstance(teacher.selected.outputs.scores, HiddenStates):
        return []
    labels = teacher.selected.labels
    if labels.is_floating_point():  # embeddings have no soft targets
        return []
    networks = {"teacher": teacher} | {one.trained.arm: one for one in arms}
    logits = {name: one.selected.logits for name, one in networks.items()}
    reader = job.test_reader
    samples = []
    for number in _telling_samples(logits["teacher"][:MAX_CHOICE], labels[:MAX_CHOICE]):
        sample_id = int(teacher.selected.sample_ids[number])
        batch = reader[torch.tensor([sample_id]), torch.tensor([0])]
        samples.append(
            SoftTargetSample(
                sample_id=sample_id,
                label=int(labels[number]),
                image_png=reader.inputs.image_png(reader.inputs.export_inputs(batch.inputs)),
                logits={name: rows[number].tolist() for name, rows in logits.items()},
                text=_text(reader.source, sample_id, _word(job.task, teacher.selected, number)),
            )
        )
    return samples


def _shown(job: Job, teacher: _Predictions, arms: Sequence[_Predictions]) -> list[ShownSample]:
    """Test samples with outputs in words: half where the student errs most, half from anywhere."""
    task, names = job.task, job.splits.class_names
    students = [one.selected for one in arms if one.trained.arm == "distilled"]
    labels = teacher.selected.labels
    if not students or not task.say_label(labels[0], names):
        return []
    worst = task.scores(students[0]).argsort()[: NUM_SAMPLES // 2].tolist()
    spread = torch.linspace(0, len(labels) - 1, NUM_SAMPLES // 2).long().tolist()
    networks = {"teacher": teacher} | {one.trained.arm: one for one in arms}
    reader = job.test_reader
    samples = []
    for number in dict.fromkeys([*worst, *spread]):
        batch = reader[torch.tensor([number]), torch.tensor([0])]
        rows = {name: one.selected.logits[number] for name, one in networks.items()}
        samples.append(
            ShownSample(
                sample_id=number,
                label=task.say_label(labels[number], names),
                outputs={name: task.say(row, names) for name, row in rows.items()},
                is_worst=number in worst,
                image_png=reader.inputs.image_png(reader.inputs.export_inputs(batch.inputs)),
                text=_text(reader.source, number, None),
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


def _word(task: Task, said: Predictions, number: int) -> tuple[int, int] | None:
    """Number of an item within its sample, and their count; None if an item is a sample."""
    if task.items_per_sample == 1:
        return None
    own = (said.sample_ids == said.sample_ids[number]).nonzero()[:, 0].tolist()
    return own.index(number), len(own)


def _text(source: Source, sample_id: int, word: tuple[int, int] | None) -> str | None:
    """Beginning of a text, or the context of the labelled word; None for other samples."""
    text = source.text(sample_id)
    if text is None:
        return None
    begin = 0
    if word is not None and len(words := text.split(" ")) == word[1]:
        begin = max(0, len(" ".join(words[: word[0] + 1])) - MAX_TEXT // 2)
        words[word[0]] = f"»{words[word[0]]}«"
        text = " ".join(words)
    cut = text[begin : begin + MAX_TEXT]
    return f"{'…' if begin else ''}{cut}{'…' if begin + MAX_TEXT < len(text) else ''}"
