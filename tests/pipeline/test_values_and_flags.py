"""Regression and multi-label data from Python: trained, judged, exported, resumed."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import tutelage
from tutelage.errors import ConfigError, DataError, ShapeError, SignalError
from tutelage.models.rescaled import Rescaled

SAMPLES, WIDTH = 240, 6


def _inputs() -> torch.Tensor:
    return torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0))


def _prices(inputs: torch.Tensor) -> torch.Tensor:
    """Numbers around 4,000, half a thousand apart."""
    return 4000 + 500 * (inputs[:, 0] + inputs[:, 1] * inputs[:, 2])


class Knowing(nn.Module):
    """Gives the prices."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return _prices(inputs)[:, None]


class Flagging(nn.Module):
    """Gives logits that say which of the first inputs are above 0."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 4 * inputs[:, :3]


def _net(width: int, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, width))


def _taught(teacher: nn.Module, student: nn.Module, labels: object, **others: object):
    settings = {"epochs": 30, "batch_size": 32, "lr": 1e-2} | others
    return tutelage.distill(teacher, student, (_inputs(), labels), **settings)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Distilled:
    out = tmp_path_factory.mktemp("priced") / "run"
    return _taught(
        Knowing(), _net(1), _prices(_inputs()), task="regression", baseline=True, out=out
    )


def test_a_student_learns_prices_in_their_own_units(priced) -> None:
    assert priced.metrics["r2"] > 0.6
    given = priced.student(_inputs()).detach()
    assert 3500 < float(given.mean()) < 4500
    assert isinstance(priced.student, Rescaled)
    assert priced.record.metric.name == "mae"
    assert {metric.name for metric in priced.record.metrics} == {"mae", "rmse", "r2", "spearman"}


def test_the_verdict_is_about_the_metric_in_its_units(priced) -> None:
    assert "mean absolute error" in priced.verdict.sentence
    assert "than the baseline's" in priced.verdict.sentence
    assert priced.verdict.num_samples == 24


def test_the_report_shows_no_percent_of_an_error(priced, tmp_path) -> None:
    page = priced.report(tmp_path / "report.html").read_text()
    assert "Mean absolute error" in page
    assert f"{priced.metrics['mae']:.3f}" in page


def test_the_exported_file_gives_prices(priced, tmp_path) -> None:
    row = priced.export(tmp_path / "student.onnx")
    assert row.agreement == 1
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    (given,) = session.run(None, {session.get_inputs()[0].name: _inputs()[:5].numpy()})
    expected = priced.student(_inputs()[:5]).detach().numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-4)


def test_the_same_call_goes_on_where_it_was(priced) -> None:
    again = _taught(
        Knowing(), _net(1), _prices(_inputs()), task="regression", baseline=True, out=priced.out
    )
    assert again.record.arms == priced.record.arms


@pytest.mark.parametrize("metric", ["rmse", "r2", "spearman"])
def test_any_metric_of_the_task_can_lead(metric) -> None:
    found = _taught(
        Knowing(), _net(1), _prices(_inputs()), task="regression", metric=metric, epochs=2
    )
    assert found.record.metric.name == metric
    with pytest.raises(ConfigError, match="Unknown metric 'f1'"):
        _taught(Knowing(), _net(1), _prices(_inputs()), task="regression", metric="f1")


def test_a_student_that_knows_the_prices_already_is_left_as_it_is() -> None:
    class Nearly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.tensor(100.0))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return _prices(inputs)[:, None] + self.offset

    found = _taught(Knowing(), Nearly(), _prices(_inputs()), task="regression", epochs=1)
    assert isinstance(found.student, Nearly)
    assert found.metrics["mae"] < 101


def test_several_values_and_their_spread_are_learned() -> None:
    inputs = _inputs()
    labels = torch.stack([_prices(inputs), inputs[:, 3]], dim=1)

    class Sure(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            means = torch.stack([_prices(inputs)[:], inputs[:, 3]], dim=1)
            return torch.cat([means, torch.tensor([10.0, -3.0]).expand(len(inputs), -1)], dim=1)

    found = _taught(Sure(), _net(4), labels, task="gaussian_regression")
    assert found.metrics["r2"] > 0.5
    assert 0 <= found.metrics["coverage_90"] <= 1


def test_two_teachers_of_values_teach_their_mean(tmp_path) -> None:
    class Other(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return _prices(inputs)[:, None] + 200

    found = _taught([Knowing(), Other()], _net(1), _prices(_inputs()), task="regression", epochs=1)
    assert found.record.teacher.selected.values["mae"] == pytest.approx(100, rel=1e-3)


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Distilled:
    labels = (_inputs()[:, :3] > 0).long()
    out = tmp_path_factory.mktemp("flagged") / "run"
    return _taught(
        Flagging(), _net(3), labels, task="multi_label", baseline=True, codec="float32", out=out
    )


def test_a_student_learns_several_labels_at_once(flagged) -> None:
    assert flagged.metrics["average_precision"] > 0.9
    assert flagged.metrics["micro_f1"] > 0.8
    assert flagged.record.cache.kl_to_live == 0
    assert "points of average precision" in flagged.verdict.sentence


def test_one_logit_answers_a_yes_or_no_question() -> None:
    class Yes(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 4 * inputs[:, :1]

    found = _taught(Yes(), _net(1), _inputs()[:, 0] > 0, task="multi_label", metric="auroc")
    assert found.metrics["auroc"] > 0.95


REFUSED = {
    "text": ({"labels": ["a"] * SAMPLES}, DataError, r"labels are <U1, as .* Give one real number"),
    "NaN": (
        {"labels": [1.0] * 7 + [float("nan")] * (SAMPLES - 7)},
        DataError,
        r"sample 7 has the label nan\. Leave such samples out",
    ),
    "constant": ({"labels": [2.5] * SAMPLES}, DataError, r"value 0 of every label is 2.5"),
    "ragged": ({"labels": [[1.0], [1.0, 2.0]] * 120}, DataError, r"lists of different lengths"),
    "kd": (
        {"objective": tutelage.KD(4)},
        SignalError,
        r"Loss 'kd' is for logits, but the networks give values",
    ),
    "codec": (
        {"codec": "topk:4"},
        ConfigError,
        r"topk:4 keeps some classes of many, and values have none. Allowed: float32, float16",
    ),
    "width": ({"student": _net(2)}, ShapeError, r"student: .* \(1|student.*is needed, one number"),
    "flags": (
        {"task": "multi_label"},
        DataError,
        r"sample 0 has the label .* Give 0 or 1 for each label",
    ),
    "task": ({"task": "ranking"}, ConfigError, r"Unknown task 'ranking'. .*Known: .*regression"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_values_is_refused_by_name(case) -> None:
    changes, kind, message = REFUSED[case]
    given = {"labels": _prices(_inputs()), "student": _net(1), "task": "regression"} | changes
    labels, student = given.pop("labels"), given.pop("student")
    with pytest.raises(kind, match=message):
        _taught(Knowing(), student, labels, **given)


def test_a_network_that_ends_in_a_sigmoid_is_refused_for_labels_too() -> None:
    ending = nn.Sequential(_net(3), nn.Sigmoid())
    labels = (_inputs()[:, :3] > 0).float()
    with pytest.raises(tutelage.errors.ModelError, match="ends in a sigmoid"):
        _taught(Flagging(), ending, labels, task="multi_label")


def test_values_between_0_and_1_are_not_taken_for_a_sigmoids() -> None:
    class Share(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs[:, :1].abs().clamp(max=1)

    found = _taught(Share(), _net(1), _inputs()[:, 0].abs().clamp(max=1), task="regression")
    assert not any("sigmoid" in note for note in found.record.notes)


def test_labels_of_items_are_read_as_values() -> None:
    inputs, prices = _inputs(), _prices(_inputs())
    items = [(row.numpy(), float(price)) for row, price in zip(inputs, prices, strict=True)]
    found = tutelage.distill(Knowing(), _net(1), items, task="regression", epochs=1)
    assert found.record.teacher.selected.values["mae"] == pytest.approx(0, abs=0.01)
    assert Path(found.out).is_dir()


def test_the_report_shows_values_and_labels_in_words(priced, flagged, tmp_path) -> None:
    page = priced.report(tmp_path / "report.html").read_text()
    assert "What the networks give for real samples" in page
    worst = [sample for sample in priced.record.shown if sample.is_worst]
    assert len(worst) == 4
    assert worst[0].outputs["distilled"] in page
    assert float(worst[0].label) == pytest.approx(float(worst[0].outputs["teacher"]))
    (first, *_) = flagged.record.shown
    assert all(
        part.endswith("%") for part in first.outputs["teacher"].split(", ") if part != "none"
    )


def test_a_network_that_drops_the_last_axis_is_told_to_keep_it() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = _net(1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.inside(inputs)[:, 0]

    with pytest.raises(ShapeError, match=r"returned shape \(\d+,\) .* keep the last axis"):
        _taught(Knowing(), Flat(), _inputs()[:, 0], task="regression")


def test_one_output_without_a_task_is_pointed_to_the_task() -> None:
    with pytest.raises(tutelage.TutelageError, match=r"One output .* is task: multi_label"):
        _taught(_net(1), _net(1), (_inputs()[:, 0] > 0).long())
