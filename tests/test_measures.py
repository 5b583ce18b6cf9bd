"""Metrics and their pseudo-values, against scikit-learn and leaving out by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from tutelage.metrics import CLASS_MEASURES

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
