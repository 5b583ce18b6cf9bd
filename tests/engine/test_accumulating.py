"""Micro-steps together have the gradient of one batch, however many items each has."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tutelage.data.corpus import PaddedSource
from tutelage.data.loading import BatchBuilder
from tutelage.engine import Arm, OptimizerSettings, TrainSettings, fit
from tutelage.engine.distiller import Distiller
from tutelage.engine.dot import DOT
from tutelage.engine.training_module import TrainingModule
from tutelage.losses import KD, CrossEntropy
from tutelage.objective import Objective, Term
from tutelage.tasks import Classification, LanguageModeling
from tutelage.tasks.predicting import predict_data
from tutelage.teachers import ModuleTeacher
from tutelage.types import UNLABELLED, Batch

WORDS = 12
CPU = torch.device("cpu")


class Words(nn.Module):
    """A language model of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 8)
        self.head = nn.Linear(8, WORDS)

    def forward(self, input_ids, attention_mask):
        return self.head(self.table(input_ids).cumsum(dim=1))


def documents(lengths: list[int]) -> BatchBuilder:
    draw = torch.Generator().manual_seed(0)
    made = [torch.randint(0, WORDS, (n + 1,), generator=draw).tolist() for n in lengths]
    return BatchBuilder(PaddedSource(made, max(lengths), 0), num_classes=WORDS)


def batches(reader: BatchBuilder, cuts: list[int]) -> list[Batch]:
    ids = torch.arange(len(reader)).split(cuts)
    return [reader[rows, torch.zeros_like(rows)] for rows in ids]


def learned(task, objective, model, teacher, taught: list[Batch], **settings) -> dict:
    """The weights after one update of plain SGD."""
    optimizer = settings.pop("optimizer", torch.optim.SGD)(model.parameters(), lr=1.0)
    accelerator = Accelerator(gradient_accumulation_steps=settings.pop("accumulate", len(taught)))
    distiller = Distiller(
        TrainingModule(model, objective, task), teacher, optimizer, accelerator, **settings
    )
    distiller.due = len(taught)
    for batch in taught:
        distiller.step(batch)
    return {name: value.clone() for name, value in model.state_dict().items()}


def of_texts(cuts: list[int], lengths: list[int], **settings) -> dict:
    torch.manual_seed(0)
    objective = 0.4 * CrossEntropy() + 0.6 * KD(temperature=2)
    task, taught = LanguageModeling(WORDS), batches(documents(lengths), cuts)
    teacher = ModuleTeacher(Words(), task)
    return learned(task, objective, Words(), teacher, taught, **settings)


def assert_equal(found: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"parts": 2}, {"clip_norm": 0.1}, {"accumulate": 7}])
@pytest.mark.parametrize("cuts", [[2, 2], [1, 3], [1, 1, 1, 1]])
def test_padded_texts_weigh_by_their_tokens(cuts, settings):
    lengths = [1, 2, 20, 9]
    whole = of_texts([4], lengths, **{n: v for n, v in settings.items() if n != "accumulate"})
    assert_equal(of_texts(cuts, lengths, **settings), whole)


def test_a_smaller_last_batch_weighs_by_its_samples():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(7, 3, generator=draw)
    labels = torch.randint(0, 4, (7,), generator=draw)

    def after(cuts: list[int], optimizer=torch.optim.SGD) -> dict:
        torch.manual_seed(0)
        ids = torch.arange(7).split(cuts)
        taught = [Batch(inputs[n], labels[n], n, torch.zeros_like(n)) for n in ids]
        objective = 1.0 * CrossEntropy()
        return learned(
            Classification(4), objective, nn.Linear(3, 4), None, taught, optimizer=optimizer
        )

    assert_equal(after([4, 3]), after([7]))
    assert_equal(after([1, 5, 1]), after([7]))
    assert_equal(after([4, 3], DOT), after([7], DOT))


def test_a_batch_of_which_nothing_counts_changes_nothing():
    found = []
    for is_empty in (False, True):
        torch.manual_seed(0)
        reader = documents([3, 4, 5])
        (taught,) = batches(reader, [3])
        nothing = {**taught.inputs, "counted": torch.zeros_like(taught.inputs["counted"])}
        empty = Batch(nothing, taught.labels, taught.sample_ids, taught.view_ids)
        task, objective = LanguageModeling(WORDS), 1.0 * CrossEntropy()
        steps = [empty, taught] if is_empty else [taught]
        found.append(learned(task, objective, Words(), None, steps))
    assert_equal(found[1], found[0])


def test_batches_of_equal_counts_are_learned_as_if_nobody_had_counted(monkeypatch):
    counted = of_texts([2, 2], [6, 6, 6, 6])
    monkeypatch.setattr(Distiller, "_weigh", lambda *_: 1.0)
    monkeypatch.setattr(Distiller, "_rescale", lambda _: None)
    plain = of_texts([2, 2], [6, 6, 6, 6])
    assert all(torch.equal(counted[name], value) for name, value in plain.items())


def of_partly_labelled(cuts: list[int], **settings) -> dict:
    """Weights after an update on eight samples, of which three have a label."""
    torch.manual_seed(0)
    inputs, has = torch.randn(8, 3), torch.tensor([1, 0, 0, 1, 1, 0, 0, 0]).bool()
    labels = torch.randint(4, (8,)).where(has, UNLABELLED)
    ids = torch.arange(8).split(cuts)
    taught = [Batch(inputs[n], labels[n], n, 0 * n, is_labelled=has[n]) for n in ids]
    task, objective = Classification(4), 0.7 * CrossEntropy() + 0.3 * KD(temperature=2)
    teacher, student = ModuleTeacher(nn.Linear(3, 4), task), nn.Linear(3, 4)
    return learned(task, objective, student, teacher, taught, **settings)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_weigh_by_their_labels_where_some_have_none(parts):
    assert_equal(of_partly_labelled([8], parts=parts), of_partly_labelled([8]))


@pytest.mark.parametrize("cuts", [[4, 4], [2, 6], [3, 2, 3], [1, 4, 3]])
def test_micro_steps_weigh_by_their_labels_where_some_have_none(cuts):
    whole = of_partly_labelled([8])
    assert_equal(of_partly_labelled(cuts, labelled_share=3 / 8), whole)
    assert_equal(of_partly_labelled(cuts, labelled_share=3 / 8, parts=2), whole)
    by_samples = of_partly_labelled(cuts)
    assert not torch.allclose(by_samples["weight"], whole["weight"], atol=1e-3)


def test_the_loss_of_an_epoch_is_a_mean_over_its_tokens(tmp_path):
    torch.manual_seed(0)
    task, reader, model = LanguageModeling(WORDS), documents([1, 2, 30, 9, 3, 4]), Words()
    expected = task.validate(predict_data(task, model, reader, batch_size=6, device=CPU))[1]
    settings = TrainSettings(epochs=1, batch_size=2, optimizer=OptimizerSettings("sgd", lr=1e-9))
    arm = Arm(
        name="baseline",
        seed=0,
        objective=Objective([Term(CrossEntropy(), 1.0, "cross_entropy")]),
        task=task,
        settings=settings,
        train=reader,
        valid=None,
        teacher=None,
        folder=tmp_path,
        key="k",
    )
    (point,) = fit(model, arm).progress.curve
    assert point.train_loss == pytest.approx(expected, rel=1e-5)
    assert point.train_parts["cross_entropy"] == pytest.approx(expected, rel=1e-5)
