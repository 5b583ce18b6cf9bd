"""Every entry of TASKS keeps the promises of `Task`."""

import math

import pytest
import torch
from torch import nn

from tutelage.tasks import TASKS, Task
from tutelage.types import UNLABELLED, VALID_MASK, Batch, Signal

CLASSES, LENGTH = 4, 5
CPU = torch.device("cpu")


class Oracle(nn.Module):
    """Gives the class that its inputs name, as sure as it is told to be."""

    def __init__(self, sureness=20.0):
        super().__init__()
        self.sureness = sureness

    def forward(self, answers):
        return self.sureness * nn.functional.one_hot(answers, CLASSES).float()


class Guess(nn.Module):
    def forward(self, answers):
        generator = torch.Generator().manual_seed(int(answers.sum()))
        return torch.randn(*answers.shape, CLASSES, generator=generator)


def batch_of(name, count, first=0):
    """Samples whose inputs name their label; of tokens some count and some are padding."""
    generator = torch.Generator().manual_seed(first)
    ids = torch.arange(first, first + count)
    if TASKS[name](CLASSES).items_per_sample == 1:
        answers = torch.randint(CLASSES, (count,), generator=generator)
        return Batch({"answers": answers}, answers, ids, torch.zeros_like(ids))
    answers = torch.randint(CLASSES, (count, LENGTH), generator=generator)
    counted = torch.rand(count, LENGTH, generator=generator) < 0.7
    labels = answers.where(counted, UNLABELLED)
    return Batch({"answers": answers, VALID_MASK: counted}, labels, ids, torch.zeros_like(ids))


LABELLED = [name for name, task in TASKS.items() if task(CLASSES).gives == Signal.LOGITS]
every_task = pytest.mark.parametrize("name", list(TASKS))
every_task_of_labels = pytest.mark.parametrize("name", LABELLED)  # others: a file of their own


@every_task
def test_a_task_is_one(name):
    task = TASKS[name](CLASSES)
    assert isinstance(task, Task)
    assert task.width == CLASSES * (2 if task.gives is Signal.GAUSSIANS else 1)
    assert task.metrics[0] == task.metric
    assert task.distillation_loss(4.0).takes >= {task.gives}
    assert task.task_loss().takes >= {task.gives}


@every_task_of_labels
def test_scores_and_items_have_the_same_rows(name):
    task, batch = TASKS[name](CLASSES), batch_of(name, 6)
    items, outputs = task.items(batch), task.run(Oracle(), batch)
    assert len(items.labels) == len(items.sample_ids) == len(outputs.logits)
    assert torch.equal(outputs.logits.argmax(dim=-1), items.labels)


@every_task_of_labels
def test_a_perfect_network_is_told_from_a_random_one(name):
    task = TASKS[name](CLASSES)
    batches = [batch_of(name, 50, first) for first in (0, 50, 100, 150)]
    perfect, random = (task.predict(model, batches, CPU) for model in (Oracle(), Guess()))
    metric, loss = task.validate(perfect)
    assert (metric, loss) == (1.0, pytest.approx(0.0, abs=1e-6))
    worse, higher = task.validate(random)
    assert task.metric.rank(worse) < task.metric.rank(metric)
    if task.metric.is_share:
        assert 0.15 < worse < 0.35
    else:  # perplexity
        assert worse > CLASSES
    assert higher > math.log(CLASSES)


@every_task_of_labels
def test_what_evidence_compares_is_the_metric_by_sample(name):
    task = TASKS[name](CLASSES)
    batches = [batch_of(name, 40), batch_of(name, 9, 40)]
    said = task.predict(Guess(), batches, CPU)
    scores = task.scores(said)
    assert len(scores) == 49
    mean = float(scores.double().mean())
    metric = mean if task.metric.is_share else math.exp(-mean)  # of a perplexity: the likelihood
    assert metric == pytest.approx(task.validate(said)[0])


@every_task_of_labels
def test_an_evaluation_holds_the_metric_and_the_likeness_to_the_teacher(name):
    task = TASKS[name](CLASSES)
    said, teacher = (task.predict(m, [batch_of(name, 40)], CPU) for m in (Guess(), Oracle(3.0)))
    found = task.evaluate(said, teacher).values
    assert found[task.metric.name] == pytest.approx(task.validate(said)[0])
    assert found["kl_to_teacher"] > 0
    itself = task.evaluate(teacher, teacher).values
    assert (itself["agreement"], itself["kl_to_teacher"]) == (1.0, pytest.approx(0.0, abs=1e-6))
    assert "agreement" not in task.evaluate(said).values


@every_task_of_labels
def test_the_task_loss_is_a_mean_over_items(name):
    task, batch = TASKS[name](CLASSES), batch_of(name, 6)
    outputs, items = task.run(Guess(), batch), task.items(batch)
    logs = outputs.logits.double() - outputs.logits.double().logsumexp(dim=-1, keepdim=True)
    wanted = -sum(float(row[label]) for row, label in zip(logs, items.labels, strict=True))
    found = float(task.task_loss()(outputs, None, items))
    assert found == pytest.approx(wanted / len(items.labels), rel=1e-5)
