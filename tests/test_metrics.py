import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax as slow_log_softmax
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from tutelage.metrics import (
    accuracy_by_class,
    calibration_bins,
    confusions,
    evaluate_classes,
    expected_calibration_error,
)

COUNT, CLASSES = 300, 5


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    student = 2 * torch.randn(COUNT, CLASSES, generator=generator)
    teacher = 2 * torch.randn(COUNT, CLASSES, generator=generator)
    teacher[torch.arange(COUNT), labels] += 2
    return student + teacher, teacher, labels


def slow_ece(probabilities, labels, num_bins=15):
    """The definition, sample by sample; bins are [i/n, (i+1)/n), the last one closed."""
    bins = [[] for _ in range(num_bins)]
    for row, label in zip(probabilities, labels, strict=True):
        bins[min(int(max(row) * num_bins), num_bins - 1)].append((max(row), row.argmax() == label))
    return sum(
        abs(np.mean([c for c, _ in inside]) - np.mean([hit for _, hit in inside])) * len(inside)
        for inside in bins
        if inside
    ) / len(labels)


def test_accuracy_nll_and_class_accuracy_are_scikit_learns(scores):
    logits, teacher, labels = scores
    found = evaluate_classes(logits, labels, teacher)
    picked = logits.argmax(dim=1).numpy()
    probabilities = np.exp(slow_log_softmax(logits.double().numpy(), axis=1))
    assert found.accuracy == pytest.approx(accuracy_score(labels, picked), abs=1e-12)
    assert found.nll == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    by_class = recall_score(labels, picked, average=None)
    assert found.per_class_accuracy == pytest.approx(by_class.tolist(), abs=1e-12)
    assert found.count == COUNT


def test_agreement_and_kl_are_the_slow_ones(scores):
    logits, teacher, labels = scores
    found = evaluate_classes(logits, labels, teacher)
    same = np.argmax(logits.numpy(), 1) == np.argmax(teacher.numpy(), 1)
    p, q = (slow_log_softmax(t.double().numpy(), axis=1) for t in (teacher, logits))
    assert found.agreement == pytest.approx(same.mean(), abs=1e-12)
    assert found.kl_to_teacher == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-5)


def test_calibration_error_is_the_slow_one(scores):
    logits, teacher, labels = scores
    for tensor in (logits, teacher, 0.1 * logits, 10 * logits):
        probabilities = np.exp(slow_log_softmax(tensor.double().numpy(), axis=1))
        wanted = slow_ece(probabilities, labels.numpy())
        assert evaluate_classes(tensor, labels).ece == pytest.approx(wanted, abs=1e-6)


def test_calibration_error_by_hand():
    # Two samples at 0.75 of which one is right, two at 0.9 of which both are.
    chances = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.1, 0.9], [0.1, 0.9]])
    bins = calibration_bins(chances.log(), torch.tensor([0, 1, 1, 1]), num_bins=10)
    assert [(b.accuracy, b.count) for b in bins] == [(0.5, 2), (1.0, 2)]
    assert [b.confidence for b in bins] == pytest.approx([0.75, 0.9])
    assert expected_calibration_error(bins) == pytest.approx((0.25 * 2 + 0.1 * 2) / 4)


def test_a_calibrated_network_has_hardly_any_calibration_error():
    generator = torch.Generator().manual_seed(1)
    chances = torch.softmax(torch.randn(20_000, 4, generator=generator), dim=1)
    labels = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    assert evaluate_classes(chances.log(), labels).ece < 0.015
    assert evaluate_classes(3 * chances.log(), labels).ece > 0.1


def test_a_perfect_network_and_one_that_knows_nothing():
    labels = torch.arange(40) % 4
    perfect = evaluate_classes(100 * torch.eye(4)[labels], labels, torch.eye(4)[labels])
    assert (perfect.accuracy, perfect.agreement) == (1.0, 1.0)
    assert (perfect.nll, perfect.ece) == pytest.approx((0.0, 0.0), abs=1e-6)
    even = evaluate_classes(torch.zeros(40, 4), labels, torch.zeros(40, 4))
    assert even.accuracy == 0.25
    assert even.nll == pytest.approx(math.log(4))
    assert even.ece == pytest.approx(0, abs=1e-6)
    assert even.kl_to_teacher == 0


def test_the_teacher_has_no_agreement_with_itself(scores):
    _, teacher, labels = scores
    found = evaluate_classes(teacher, labels)
    assert (found.agreement, found.kl_to_teacher) == (None, None)


def test_a_class_without_samples_has_no_accuracy():
    correct, labels = torch.tensor([True, False, True]), torch.tensor([0, 0, 2])
    assert accuracy_by_class(correct, labels, 4) == [0.5, None, 1.0, None]


def test_confusions_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(200, 5, generator=generator)
    labels = torch.randint(4, (200,), generator=generator)  # the last class has no samples
    table = np.zeros((5, 5), dtype=int)
    for label, picked, count in confusions(logits, labels):
        assert count > 0
        table[label, picked] += count
    expected = confusion_matrix(labels, logits.argmax(dim=1), labels=range(5))
    assert (table == expected).all()


def test_bins_count_every_sample_once_lowest_confidence_first(scores):
    logits, _, labels = scores
    found = evaluate_classes(logits, labels)
    assert sum(b.count for b in found.calibration) == COUNT
    confidences = [b.confidence for b in found.calibration]
    assert confidences == sorted(confidences)
