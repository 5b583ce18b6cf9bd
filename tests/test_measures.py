"""Metrics and their pseudo-values, against scikit-learn and leaving out by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from tutelage.flag_measures import FLAG_MEASURES
from tutelage.metrics import CLASS_MEASURES
from tutelage.value_measures import GAUSSIAN_MEASURES, VALUE_MEASURES

MACRO_F1 = CLASS_MEASURES["macro_f1"]


def _classes(count: int = 60, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.multinomial(
        torch.tensor([0.5, 0.3, 0.15, 0.05][:width]), count, True, generator=generator
    )
    logits = torch.randn(count, width, generator=generator)
    logits[torch.arange(count), labels] += 1
    return logits, labels


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    logits, labels = _classes()
    found = CLASS_MEASURES["balanced_accuracy"].value(logits, labels)
    assert found == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


def test_macro_f1_is_that_of_scikit_learn_also_where_a_class_is_absent() -> None:
    logits, labels = _classes()
    logits = torch.cat([logits, torch.full((len(labels), 1), -9.0)], dim=1)
    wanted = f1_score(labels, logits.argmax(1), average="macro")
    assert MACRO_F1.value(logits, labels) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
def test_pseudo_values_are_those_of_leaving_each_sample_out(name: str) -> None:
    logits, labels = _classes()
    measure = CLASS_MEASURES[name]
    whole, count = measure.value(logits, labels), len(labels)
    without = np.array(
        [
            measure.value(logits[torch.arange(count) != n], labels[torch.arange(count) != n])
            for n in range(count)
        ]
    )
    wanted = whole + (count - 1) * (without.mean() - without)
    found = measure.per_sample(logits, labels, torch.arange(count))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
    assert float(found.mean()) == pytest.approx(whole)


def test_pseudo_values_leave_out_all_items_of_a_sample() -> None:
    logits, labels = _classes()
    ids = torch.arange(20).repeat_interleave(3)
    whole = MACRO_F1.value(logits, labels)
    without = torch.tensor(
        [MACRO_F1.value(logits[ids != n], labels[ids != n]) for n in range(20)],
        dtype=torch.float64,
    )
    found = MACRO_F1.per_sample(logits, labels, ids)
    torch.testing.assert_close(found, whole + 19 * (without.mean() - without))


def test_many_classes_are_counted_in_parts_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = _classes()
    ids = torch.arange(30).repeat_interleave(2)
    whole = MACRO_F1.per_sample(logits, labels, ids)
    monkeypatch.setattr("tutelage.measures.AT_ONCE", 50)
    torch.testing.assert_close(MACRO_F1.per_sample(logits, labels, ids), whole)


def test_accuracy_of_samples_is_whether_each_is_right() -> None:
    logits, labels = _classes()
    accuracy = CLASS_MEASURES["accuracy"]
    found = accuracy.per_sample(logits, labels, torch.arange(len(labels)))
    assert torch.equal(found, logits.argmax(dim=1) == labels)
    of_texts = accuracy.per_sample(logits, labels, torch.arange(15).repeat_interleave(4))
    assert float(of_texts.mean()) == pytest.approx(accuracy.value(logits, labels))


def _values(count: int = 40, width: int = 2, decimals: int | None = None):
    generator = torch.Generator().manual_seed(4)
    labels = 300 + 5 * torch.randn(count, width, generator=generator)
    values = labels + 3 * torch.randn(count, width, generator=generator)
    return (
        (values, labels) if decimals is None else (values.round(decimals=decimals), labels.round())
    )


def test_metrics_of_values_are_those_of_scikit_learn_and_scipy() -> None:
    values, labels = _values()
    found = {name: measure.value(values, labels) for name, measure in VALUE_MEASURES.items()}
    flat = labels.flatten(), values.flatten()
    rank = [spearmanr(values[:, n], labels[:, n]).statistic for n in range(2)]
    assert found == {
        "mae": pytest.approx(mean_absolute_error(labels, values), rel=1e-5),
        "rmse": pytest.approx(root_mean_squared_error(*flat), rel=1e-5),
        "r2": pytest.approx(r2_score(labels, values), rel=1e-5),
        "spearman": pytest.approx(np.mean(rank), rel=1e-9),
    }


@pytest.mark.parametrize("name", VALUE_MEASURES)
@pytest.mark.parametrize("decimals", [None, 0])
def test_pseudo_values_of_values_are_those_of_leaving_each_sample_out(name, decimals) -> None:
    values, labels = _values(decimals=decimals)
    measure, keep = VALUE_MEASURES[name], ~torch.eye(40, dtype=torch.bool)
    whole = measure.value(values, labels)
    without = torch.tensor([measure.value(values[k], labels[k]) for k in keep], dtype=torch.float64)
    wanted = whole + 39 * (without.mean() - without)
    sign = 1 if measure.metric.is_higher_better else -1
    found = measure.per_sample(values, labels, torch.arange(40))
    torch.testing.assert_close(sign * found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_explained_variance_of_labels_far_from_zero_is_exact() -> None:
    values, labels = (side.double() + 1.7e9 for side in _values())
    assert VALUE_MEASURES["r2"].value(values, labels) == pytest.approx(r2_score(labels, values))


def test_constant_values_have_no_rank_correlation() -> None:
    _, labels = _values()
    assert VALUE_MEASURES["spearman"].value(torch.zeros_like(labels), labels) == 0


def test_intervals_of_gaussians_cover_what_lies_within_them() -> None:
    labels = torch.tensor([[0.0], [1.6], [1.7], [5.0]])
    scores = torch.zeros(4, 2)
    assert GAUSSIAN_MEASURES["coverage_90"].value(scores, labels) == 0.5


def _flags(count: int = 50, decimals: int | None = None):
    generator = torch.Generator().manual_seed(5)
    labels = (torch.rand(count, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.1])).float()
    logits = 2 * labels - 1 + 1.5 * torch.randn(count, 3, generator=generator)
    return (logits, labels) if decimals is None else (logits.round(decimals=decimals), labels)


@pytest.mark.parametrize("decimals", [None, 0])
def test_metrics_of_flags_are_those_of_scikit_learn(decimals) -> None:
    logits, labels = _flags(decimals=decimals)
    picked = logits > 0
    found = {name: measure.value(logits, labels) for name, measure in FLAG_MEASURES.items()}
    assert found == {
        "average_precision": pytest.approx(average_precision_score(labels, logits)),
        "auroc": pytest.approx(roc_auc_score(labels, logits)),
        "macro_f1": pytest.approx(f1_score(labels, picked, average="macro")),
        "micro_f1": pytest.approx(f1_score(labels, picked, average="micro")),
        "accuracy": pytest.approx(float((picked == labels).double().mean())),
    }


@pytest.mark.parametrize("name", FLAG_MEASURES)
@pytest.mark.parametrize("decimals", [None, 0])
def test_pseudo_values_of_flags_are_those_of_leaving_each_sample_out(name, decimals) -> None:
    logits, labels = _flags(decimals=decimals)
    measure, keep = FLAG_MEASURES[name], ~torch.eye(50, dtype=torch.bool)
    whole = measure.value(logits, labels)
    without = torch.tensor([measure.value(logits[k], labels[k]) for k in keep], dtype=torch.float64)
    found = measure.per_sample(logits, labels, torch.arange(50))
    torch.testing.assert_close(found, whole + 49 * (without.mean() - without))


def test_a_label_that_no_sample_has_is_left_out_of_means() -> None:
    logits, labels = _flags()
    labels[:, 2] = 0
    found = FLAG_MEASURES["auroc"].value(logits, labels)
    assert found == pytest.approx(roc_auc_score(labels[:, :2], logits[:, :2]))
