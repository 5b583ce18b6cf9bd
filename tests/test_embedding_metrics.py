import pytest
import torch
from scipy.stats import spearmanr

from tutelage import embedding_metrics
from tutelage.embedding_metrics import (
    jackknife_values,
    pair_correlation,
    rank_correlations,
    shared_neighbours,
)
from tutelage.significance import components


def two_sets(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    wanted = torch.randn(rows, 6, generator=generator)
    return wanted[:, :4] + 0.5 * torch.randn(rows, 4, generator=generator), wanted


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    return unit @ unit.T


def test_rank_correlations_are_those_of_scipy():
    ours, theirs = two_sets(9)
    found = rank_correlations(ours, theirs).tolist()
    for row in range(9):
        others = [other for other in range(9) if other != row]
        pair = (cosines(side)[row][others].numpy() for side in (ours, theirs))
        assert found[row] == pytest.approx(spearmanr(*pair).statistic)


def test_equal_cosines_share_a_rank():
    ours = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1], [1, 1]])
    theirs = two_sets(5)[1]
    found = rank_correlations(ours, theirs)[0]
    pair = (cosines(side)[0][1:].numpy() for side in (ours, theirs))
    assert float(found) == pytest.approx(spearmanr(*pair).statistic)


def test_the_correlation_of_all_pairs_is_that_of_scipy():
    ours, theirs = two_sets(12)
    is_pair = ~torch.eye(12, dtype=torch.bool)
    expected = spearmanr(*(cosines(side)[is_pair].numpy() for side in (ours, theirs))).statistic
    assert pair_correlation(ours, theirs) == pytest.approx(expected)


def test_shared_neighbours_by_hand():
    ours, theirs = two_sets(8)
    shares = []
    for row in range(8):
        order = [
            sorted(set(range(8)) - {row}, key=lambda o, s=s: -cosines(s)[row][o])
            for s in (ours, theirs)
        ]
        shares.append(len(set(order[0][:3]) & set(order[1][:3])) / 3)
    assert shared_neighbours(ours, theirs, 3) == pytest.approx(sum(shares) / 8)


def test_a_set_agrees_with_itself_turned():
    theirs = two_sets(10)[1]
    turned = theirs @ torch.linalg.qr(torch.randn(6, 6)).Q
    assert rank_correlations(turned, theirs).tolist() == pytest.approx([1.0] * 10)
    assert shared_neighbours(turned, theirs) == 1.0


def test_many_samples_are_compared_with_some_others(monkeypatch):
    monkeypatch.setattr(embedding_metrics, "MOST_OTHERS", 4)
    monkeypatch.setattr(embedding_metrics, "ROWS_AT_ONCE", 3)
    ours, theirs = two_sets(9)
    found = rank_correlations(ours, theirs)
    assert found.shape == (9,)
    pair = (cosines(side)[7][:4].numpy() for side in (ours, theirs))
    assert float(found[7]) == pytest.approx(spearmanr(*pair).statistic)
    pair = (cosines(side)[1][[0, 2, 3, 4]].numpy() for side in (ours, theirs))
    assert float(found[1]) == pytest.approx(spearmanr(*pair).statistic)


def test_jackknife_values_are_what_leaving_each_sample_out_changes():
    ours, theirs = two_sets(60)
    mean = rank_correlations(ours, theirs).mean()
    without = [torch.arange(60) != number for number in range(60)]
    means = torch.stack([rank_correlations(ours[k], theirs[k]).mean() for k in without])
    expected = 60 * mean - 59 * means
    found = jackknife_values(ours, theirs)
    assert found.mean() == pytest.approx(float(mean))
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.9999
    assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.02)
    assert float(found.std()) > 1.5 * float(rank_correlations(ours, theirs).std())


def test_samples_beyond_the_others_count_for_themselves_alone(monkeypatch):
    monkeypatch.setattr(embedding_metrics, "MOST_OTHERS", 19)
    ours, theirs = two_sets(50)
    found, plain = jackknife_values(ours, theirs), rank_correlations(ours, theirs)
    assert found[20:].tolist() == pytest.approx(plain[20:].tolist())
    assert found.mean() == pytest.approx(float(plain.mean()))


def test_two_students_that_are_as_good_give_few_false_verdicts():
    generator = torch.Generator().manual_seed(0)
    widths = torch.tensor([3.0, 2, 1, 1, 0.5, 0.5])
    trials, wrong = 150, 0
    for _ in range(trials):
        teacher = torch.randn(50, 6, generator=generator) * widths
        students = [teacher + torch.randn(50, 6, generator=generator) for _ in range(2)]
        values = [jackknife_values(student, teacher) for student in students]
        found = components((values[0] - values[1])[None])
        # The quantile alone, without what unseen samples may add: 27 % by the correlations.
        wrong += bool(found.mean.abs() > 2.01 * found.samples.sqrt())
    assert wrong / trials <= 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5
