from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from tutelage.evidence import (
    correct,
    gap_closed,
    judge,
    paired_interval,
    retention,
    summarise,
)
from tutelage.metrics import evaluate
from tutelage.records import Evaluation, Metric, TrainingRecord


def arms(rng, effect, seeds=5, samples=200, seed_spread=0.0, sample_spread=0.0):
    """Right and wrong answers of both arms; the effect varies by seed and by sample.

    The baseline is right with a chance of its own for each sample; the distilled student's chance
    differs by `effect` on average, over all seeds and samples that there might have been.
    """
    chance = rng.uniform(0.3, 0.7, size=(1, samples))
    shift = (
        effect
        + seed_spread * rng.standard_normal((seeds, 1))
        + sample_spread * rng.choice([-1.0, 1.0], size=(1, samples))
    )
    baseline = rng.random((seeds, samples)) < chance
    distilled = rng.random((seeds, samples)) < np.clip(chance + shift, 0, 1)
    return torch.from_numpy(distilled), torch.from_numpy(baseline)


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "sample_spread"),
    [(5, 0.0, 0.0), (5, 0.02, 0.0), (5, 0.0, 0.2), (5, 0.02, 0.2), (3, 0.02, 0.1)],
)
def test_the_interval_holds_the_truth_about_as_often_as_it_says(seeds, seed_spread, sample_spread):
    rng = np.random.default_rng(0)
    effect, trials = 0.04, 600
    hits = 0
    for _ in range(trials):
        found = paired_interval(
            *arms(rng, effect, seeds, seed_spread=seed_spread, sample_spread=sample_spread)
        )
        hits += found.low <= effect <= found.high
    # 600 trials at 95 % have a standard error of 0.9 points. It may be cautious, never rash.
    assert 0.93 <= hits / trials <= 0.995


def test_an_interval_over_samples_alone_is_the_paired_t_interval():
    distilled, baseline = arms(np.random.default_rng(3), 0.1, seeds=1)
    difference = (distilled.double() - baseline.double())[0].numpy()
    wanted = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    found = paired_interval(distilled, baseline)
    assert (found.low, found.high) == pytest.approx(wanted)
    assert found.mean == pytest.approx(difference.mean())


def test_a_wider_level_is_a_wider_interval():
    pair = arms(np.random.default_rng(4), 0.1)
    narrow, wide = paired_interval(*pair, level=0.8), paired_interval(*pair, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.mean == narrow.mean


def test_pairing_matters():
    # The distilled student is right wherever the baseline is, and on 8 samples more.
    baseline = torch.rand(4, 200, generator=torch.Generator().manual_seed(0)) < 0.5
    distilled = baseline.clone()
    for row in distilled:
        row[(~row).nonzero().squeeze(1)[:8]] = True
    shuffled = baseline[:, torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    paired, unpaired = judge(distilled, baseline), judge(distilled, shuffled)
    assert (paired.word, unpaired.word) == ("helped", "no evidence")
    assert unpaired.high - unpaired.low > 2 * (paired.high - paired.low)


@pytest.mark.parametrize(
    ("effect", "word", "lead"),
    [
        (0.15, "helped", "Distillation helped: +"),
        (-0.15, "hurt", "Distillation hurt: -"),
        (0.0, "no evidence", "There is no evidence that distillation changed anything: "),
    ],
)
def test_the_verdict_is_computed_from_the_interval(effect, word, lead):
    found = judge(*arms(np.random.default_rng(5), effect, samples=400))
    assert found.word == word
    assert found.sentence.startswith(lead)
    assert f"{100 * found.low:+.2f} to {100 * found.high:+.2f}" in found.sentence
    assert "5 pairs of trainings, 400 test samples" in found.sentence
    assert (found.num_seeds, found.num_samples, found.level) == (5, 400, 0.95)


def test_swapping_the_arms_turns_the_verdict_round():
    distilled, baseline = arms(np.random.default_rng(6), 0.15)
    there, back = judge(distilled, baseline), judge(baseline, distilled)
    assert (there.word, back.word) == ("helped", "hurt")
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_a_false_alarm_is_as_rare_as_the_level_says():
    rng = np.random.default_rng(7)
    words = [judge(*arms(rng, 0.0, seed_spread=0.02)).word for _ in range(400)]
    assert sum(word != "no evidence" for word in words) / len(words) <= 0.07


def test_one_seed_says_nothing_of_other_seeds():
    found = judge(*arms(np.random.default_rng(8), 0.3, seeds=1))
    assert "1 pair of trainings" in found.sentence
    assert found.sentence.endswith("One seed says nothing of other seeds.")


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_arms_that_answer_alike_are_no_evidence(seeds):
    answers, _ = arms(np.random.default_rng(9), 0.0, seeds=seeds)
    found = judge(answers, answers)
    assert (found.word, found.difference, found.low, found.high) == ("no evidence", 0, 0, 0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_tiny_tests_give_a_verdict_without_nan(shape):
    for distilled in (torch.ones(shape, dtype=torch.bool), torch.eye(*shape).bool()):
        found = judge(distilled, torch.zeros(shape, dtype=torch.bool))
        assert np.isfinite([found.low, found.difference, found.high]).all()
        assert found.low <= found.difference <= found.high


def test_one_test_sample_is_no_evidence():
    right = torch.ones(3, 1, dtype=torch.bool)
    assert judge(right, ~right).word == "no evidence"


PERPLEXITY = Metric("perplexity", "perplexity", False, False, "nats a token", "e to the mean.")


def test_a_metric_where_less_is_better_turns_what_is_kept_round():
    assert retention(20.0, 10.0, PERPLEXITY) == 0.5
    assert retention(0.4, 0.8) == 0.5
    assert gap_closed(15.0, 20.0, 10.0, PERPLEXITY) == 0.5
    assert gap_closed(15.0, 10.0, 20.0, PERPLEXITY) is None


def test_a_verdict_of_scores_that_are_no_shares_is_in_their_unit():
    rng = np.random.default_rng(10)
    baseline = torch.from_numpy(-3 + rng.standard_normal((4, 50)))
    found = judge(baseline + 1.5, baseline, metric=PERPLEXITY)
    assert found.word == "helped"
    assert found.sentence.startswith("Distillation helped: +1.5000 nats a token over the baseline")
    assert found.high == pytest.approx(1.5)  # a share would be cut off at 1


def test_a_summary_goes_by_its_metric():
    def evaluation(perplexity):
        others = {"perplexity": perplexity}
        return Evaluation(None, 1.0, None, None, None, [], [], 9, others)

    trainings = [training("distilled", seed, evaluation(p)) for seed, p in enumerate((18.0, 22.0))]
    found = summarise("distilled", "last", trainings, evaluation(10.0), 25.0, PERPLEXITY)
    assert found.mean == {"nll": 1.0, "perplexity": 20.0}
    assert found.retention == 0.5
    assert found.gap_closed == pytest.approx(1 / 3)


def training(arm, seed, last, selected=None):
    return TrainingRecord(arm, seed, [], last, selected or last, None, 0, 0.0)


@pytest.fixture
def evaluations():
    """A teacher right on 8 of 10, students right on 6 and on 7."""
    labels = torch.arange(10) % 2
    teacher_logits = 4 * torch.eye(2)[labels]
    made = []
    for wrong in (2, 4, 3):
        answers = labels.clone()
        answers[:wrong] = 1 - answers[:wrong]
        made.append(evaluate(4 * torch.eye(2)[answers], labels, teacher_logits))
    teacher, *students = made
    return replace(teacher, agreement=None, kl_to_teacher=None), students


def test_a_summary_is_of_the_numbers_that_were_chosen(evaluations):
    teacher, (worse, better) = evaluations
    trainings = [training("distilled", seed, worse, better) for seed in (0, 1)]
    last = summarise("distilled", "last", trainings, teacher, 0.5)
    selected = summarise("distilled", "selected", trainings, teacher, 0.5)
    assert (last.mean["accuracy"], selected.mean["accuracy"]) == pytest.approx((0.6, 0.7))
    assert (last.retention, selected.retention) == pytest.approx((0.75, 0.875))
    assert selected.gap_closed == pytest.approx((0.7 - 0.5) / (0.8 - 0.5))
    assert selected.spread["accuracy"] == 0


def test_a_summary_is_the_mean_and_spread_over_seeds(evaluations):
    teacher, students = evaluations
    trainings = [training("distilled", seed, one) for seed, one in enumerate(students)]
    found = summarise("distilled", "last", trainings, teacher, None)
    for name in ("accuracy", "nll", "ece", "agreement", "kl_to_teacher"):
        values = [getattr(one, name) for one in students]
        assert found.mean[name] == pytest.approx(np.mean(values))
        assert found.spread[name] == pytest.approx(np.std(values, ddof=1))
    # By class the teacher has 4 of 5 each; the students 3 and 3, and 3 and 4.
    assert found.per_class_retention == pytest.approx([0.75, 0.875])
    assert found.gap_closed is None


def test_a_summary_of_one_seed_has_no_spread(evaluations):
    teacher, (one, _) = evaluations
    found = summarise("teacher", "last", [training("teacher", 0, teacher)], teacher, None)
    assert set(found.spread.values()) == {None}
    assert "agreement" not in found.mean
    single = summarise("distilled", "last", [training("distilled", 0, one)], teacher, None)
    assert single.mean["agreement"] == one.agreement


def test_retention_of_a_class_without_samples_or_without_a_right_teacher_is_undefined(evaluations):
    teacher, (one, _) = evaluations
    hollow = replace(teacher, accuracy=0.0, per_class_accuracy=[0.0, None])
    student = replace(one, per_class_accuracy=[0.5, None])
    found = summarise("distilled", "last", [training("distilled", 0, student)], hollow, 0.1)
    assert found.per_class_retention == [None, None]
    assert found.retention == 0
    assert found.gap_closed is None


def test_gap_closed_means_nothing_beside_a_teacher_that_is_no_better():
    assert gap_closed(0.8, 0.7, 0.9) == pytest.approx(0.5)
    assert gap_closed(0.95, 0.7, 0.9) == pytest.approx(1.25)
    assert gap_closed(0.6, 0.7, 0.9) == pytest.approx(-0.5)
    assert gap_closed(0.8, 0.7, 0.7) is None
    assert gap_closed(0.8, None, 0.9) is None


def test_correct_is_where_the_label_is_picked():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert correct(logits, torch.tensor([1, 1, 1])).tolist() == [True, False, True]


def test_an_interval_stays_within_what_accuracies_can_differ():
    rows = torch.tensor([[True, True, False], [False, False, True]])
    found = paired_interval(rows, ~rows)
    assert (found.low, found.high) == (-1.0, 1.0)
