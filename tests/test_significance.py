from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from tutelage.errors import ModelError
from tutelage.metrics import evaluate_classes
from tutelage.records import Evaluation, Metric, TrainingRecord
from tutelage.significance import (
    SKEWED,
    Components,
    compare_arms,
    components,
    correct,
    gap_closed,
    half_width,
    paired_interval,
    retention,
    summarise,
)
from tutelage.tasks.embedding import RANK_CORRELATION


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


def missed(differences, truth=0.0):
    """Share of the studies whose interval does not hold the truth, of which 5 % may be."""
    found = components(torch.as_tensor(differences, dtype=torch.float64))
    return float(((found.mean - truth).abs() > half_width(found) + 1e-9).double().mean())


# 4,000 simulated studies at 95 % have a standard error of 0.34 points.
MOST = 0.05 + 2.5 * 0.0034

EFFECTS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, shape) / 3**0.5,
}


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_seeds_that_vary_more_than_ten_thousand_samples_give_few_false_verdicts(seeds):
    # Accuracies spread by 0.8 points, arms that disagree on a tenth: a seed's mean over so many
    # samples is normal, and what is known of the samples hardly varies.
    rng = np.random.default_rng(0)
    noise = 0.1 / 10_000
    means = torch.from_numpy(
        0.008 * rng.standard_normal((4000, seeds)) + noise**0.5 * rng.standard_normal((4000, seeds))
    )
    every = torch.full((4000,), noise / seeds, dtype=torch.float64)
    found = Components(
        num_seeds=seeds,
        num_samples=10_000,
        mean=means.mean(dim=1),
        seeds=means.var(dim=1) / seeds,
        samples=every,
        residual=every,
        largest=torch.ones_like(every),
    )
    assert float((found.mean.abs() > half_width(found)).double().mean()) <= MOST


def test_ten_thousand_right_and_wrong_answers_give_few_false_verdicts():
    rng = np.random.default_rng(1)
    shift = 0.008 * rng.standard_normal((200, 3, 1))
    drawn = rng.random((200, 3, 10_000), dtype=np.float32)
    better, worse = drawn < 0.05 + shift.clip(min=0), drawn > 0.95 - (-shift).clip(min=0)
    assert missed(better.astype(np.float32) - worse) <= 0.05 + 2.5 * (0.05 * 0.95 / 200) ** 0.5


@pytest.mark.parametrize("kind", EFFECTS)
@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 10])
def test_the_interval_holds_the_truth_as_often_as_it_says(kind, seeds):
    rng, draw = np.random.default_rng(2), EFFECTS[kind]
    samples = draw(rng, (4000, seeds, 50)) + draw(rng, (4000, 1, 50))
    effects = draw(rng, (4000, seeds, 1)) * (2 / 50) ** 0.5
    ratios = (0, 0.3, 1, 3, 10, 30, 100, 1000) if seeds > 1 else (0,)
    rates = {ratio: missed(samples + effects * ratio**0.5) for ratio in ratios}
    assert max(rates.values()) <= MOST, rates


@pytest.mark.parametrize("gain", [1.0, 2.0, 2.9, 4.5, 7.0, 9.0])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_few_samples_that_one_arm_alone_puts_right_are_not_lost(gain, seeds):
    hits = np.random.default_rng(3).random((4000, 1, 100)) < gain / 100
    assert missed(np.repeat(hits, seeds, axis=1), gain / 100) <= MOST


def test_the_widened_quantiles_are_those_of_exponential_effects():
    rng = np.random.default_rng(4)
    for seeds, factor in SKEWED.items():
        drawn = rng.exponential(size=(40_000, seeds)) - 1
        found = np.abs(drawn.mean(axis=1)) / (drawn.std(axis=1, ddof=1) / seeds**0.5)
        wanted = np.quantile(found, 0.95) / stats.t.ppf(0.975, seeds - 1)
        assert factor == pytest.approx(wanted, rel=0.05)


def test_an_effect_that_every_seed_shows_is_found():
    rng = np.random.default_rng(5)
    effects = 0.02 + 0.003 * rng.standard_normal((200, 5, 1))
    drawn = rng.random((200, 5, 4000), dtype=np.float32)
    found = components(
        torch.from_numpy((drawn < 0.05 + effects).astype(np.float64) - (drawn > 0.95))
    )
    assert float((found.mean > half_width(found)).double().mean()) >= 0.8


def test_many_studies_at_once_are_each_what_it_is_alone():
    drawn = torch.from_numpy(np.random.default_rng(6).standard_normal((3, 4, 30)))
    together = half_width(components(drawn))
    for one, half in zip(drawn, together, strict=True):
        found = paired_interval(one, torch.zeros_like(one), reach=float("inf"))
        assert (found.high - found.low) / 2 == pytest.approx(float(half))


def test_the_interval_is_never_narrower_than_one_over_seeds_or_one_over_samples():
    rng = np.random.default_rng(7)
    for _ in range(50):
        drawn = rng.standard_normal((4, 60)) + rng.choice([0, 1]) * rng.standard_normal((4, 1))
        found = paired_interval(torch.from_numpy(drawn), torch.zeros(4, 60), reach=float("inf"))
        for means in (drawn.mean(axis=0), drawn.mean(axis=1)):
            ends = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
            assert found.low <= ends[0]
            assert ends[1] <= found.high


def test_an_interval_over_samples_alone_is_nearly_the_paired_t_interval():
    distilled, baseline = arms(np.random.default_rng(3), 0.1, seeds=1, samples=5000)
    difference = (distilled.double() - baseline.double())[0].numpy()
    wanted = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    found = paired_interval(distilled, baseline)
    unseen = 4 / 5000
    half = ((wanted[1] - wanted[0]) ** 2 / 4 + unseen**2) ** 0.5
    assert found.mean == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_a_wider_level_is_a_wider_interval():
    pair = arms(np.random.default_rng(4), 0.1)
    narrow, wide = paired_interval(*pair, level=0.8), paired_interval(*pair, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.mean == narrow.mean


def test_pairing_matters():
    # The distilled student is right wherever the baseline is, and on 10 samples more.
    baseline = torch.rand(4, 500, generator=torch.Generator().manual_seed(0)) < 0.5
    distilled = baseline.clone()
    for row in distilled:
        row[(~row).nonzero().squeeze(1)[:10]] = True
    shuffled = baseline[:, torch.randperm(500, generator=torch.Generator().manual_seed(1))]
    paired, unpaired = compare_arms(distilled, baseline), compare_arms(distilled, shuffled)
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
    found = compare_arms(*arms(np.random.default_rng(5), effect, samples=400))
    assert found.word == word
    assert found.sentence.startswith(lead)
    assert f"{100 * found.low:+.2f} to {100 * found.high:+.2f}" in found.sentence
    assert "5 pairs of trainings, 400 test samples, one teacher" in found.sentence
    assert (found.num_seeds, found.num_samples, found.level) == (5, 400, 0.95)


def test_swapping_the_arms_turns_the_verdict_round():
    distilled, baseline = arms(np.random.default_rng(6), 0.3)
    there, back = compare_arms(distilled, baseline), compare_arms(baseline, distilled)
    assert (there.word, back.word) == ("helped", "hurt")
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_one_seed_says_nothing_of_other_seeds():
    found = compare_arms(*arms(np.random.default_rng(8), 0.3, seeds=1))
    assert "1 pair of trainings" in found.sentence
    assert found.sentence.endswith("One seed says nothing of other seeds.")


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_arms_that_answer_alike_are_no_evidence_but_no_certainty_either(seeds):
    answers, _ = arms(np.random.default_rng(9), 0.0, seeds=seeds)
    found = compare_arms(answers, answers)
    assert (found.word, found.difference) == ("no evidence", 0)
    # Of 200 samples none differed: four more might have.
    assert (found.low, found.high) == pytest.approx((-0.02, 0.02))


@pytest.mark.parametrize("constant", [0.0, -3.0])
def test_scores_that_are_all_alike_do_not_give_an_interval_without_width(constant):
    scores = torch.full((3, 40), constant)
    found = compare_arms(scores, scores, metric=PERPLEXITY)
    assert found.low < 0 < found.high < float("inf")


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_tiny_tests_give_a_verdict_without_nan(shape):
    for distilled in (torch.ones(shape, dtype=torch.bool), torch.eye(*shape).bool()):
        found = compare_arms(distilled, torch.zeros(shape, dtype=torch.bool))
        assert np.isfinite([found.low, found.difference, found.high]).all()
        assert found.low <= found.difference <= found.high


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("arm", ["distilled", "baseline"])
def test_a_score_that_is_not_finite_is_refused_by_arm_training_and_sample(arm, value):
    scores = {name: torch.rand(3, 20) for name in ("distilled", "baseline")}
    scores[arm][1, 7] = value
    with pytest.raises(ModelError, match=f"{arm}: the score of sample 7 by training 2 of 3 is"):
        compare_arms(**scores)


def test_an_interval_of_correlations_reaches_beyond_1():
    # 5 trainings from -0.9 to 0.9, which never spread: only a bound could cut the interval off.
    worst, best = torch.full((5, 40), -0.9), torch.full((5, 40), 0.9)
    found = compare_arms(best, worst, metric=RANK_CORRELATION)
    assert found.difference == pytest.approx(1.8)
    assert found.low < 1.8 < found.high <= 2
    assert found.low > 1.5
    assert compare_arms(best, worst).high == 1


def test_the_sentence_names_the_kind_of_samples():
    distilled, baseline = arms(np.random.default_rng(11), 0.1, seeds=2)
    assert "200 test samples" in compare_arms(distilled, baseline).sentence
    said = compare_arms(distilled, baseline, judged_on="validation").sentence
    assert "200 validation samples" in said
    assert "test" not in said


def test_one_test_sample_is_no_evidence():
    right = torch.ones(3, 1, dtype=torch.bool)
    assert compare_arms(right, ~right).word == "no evidence"


PERPLEXITY = Metric("perplexity", "perplexity", False, False, "nats a token", "e to the mean.")


def test_a_metric_where_less_is_better_turns_what_is_kept_round():
    assert retention(20.0, 10.0, PERPLEXITY) == 0.5
    assert retention(0.4, 0.8) == 0.5
    assert retention(0.5, 0.0) is None  # a teacher that is never right keeps no share
    assert gap_closed(15.0, 20.0, 10.0, PERPLEXITY) == 0.5
    assert gap_closed(15.0, 10.0, 20.0, PERPLEXITY) is None


def test_a_verdict_of_scores_that_are_no_shares_is_in_their_unit():
    rng = np.random.default_rng(10)
    baseline = torch.from_numpy(-3 + rng.standard_normal((4, 50)))
    found = compare_arms(baseline + 1.5, baseline, metric=PERPLEXITY)
    assert found.word == "helped"
    assert found.sentence.startswith("Distillation helped: +1.5000 nats a token over the baseline")
    assert found.high == pytest.approx(1.5 + 4 * 1.5 / 50)  # a share would be cut off at 1


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
        made.append(evaluate_classes(4 * torch.eye(2)[answers], labels, teacher_logits))
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
    assert found.retention is None
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
