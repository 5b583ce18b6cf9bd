from dataclasses import replace

import pytest
import torch

from tutelage.deploy import proposing
from tutelage.deploy.budgets import Budget, Needs
from tutelage.deploy.proposing import Form, Predictor, propose
from tutelage.errors import ConfigError, ExportError, UnknownNameError
from tutelage.models import propose as candidates
from tutelage.models.load import make_model
from tutelage.models.propose import Facts, Original, find_candidates

FACTS = Facts(num_classes=3, in_channels=1, image_size=8)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    monkeypatch.setattr(candidates, "WIDTHS", (1.0, 0.5, 0.25, 0.1))


def original(name="cnn", *, is_trained=False, **settings):
    torch.manual_seed(0)
    network = make_model(name, settings, **FACTS.as_arguments()).eval()
    return Original(name, settings, network, is_trained)


def true_needs(candidate, scheme=None):
    """Files of 4 bytes a weight (or 1) and 100 a layer; times of 1 us a layer and 1 ns a MAC."""
    layers = proposing.num_layers(candidate)
    size = float(candidate.weight_bytes / (1 if scheme is None else 4) + 100 * layers)
    return Needs(size, 1e-3 * layers + 1e-6 * candidate.macs, candidate.memory_bytes + 5e5)


@pytest.fixture
def pretend(monkeypatch):
    """Measures without exporting; notes what was measured."""
    asked = []

    def measure(candidates, facts, *, seconds, form):
        asked.append([candidate.name for candidate in candidates])
        return {candidate.name: true_needs(candidate, form.scheme) for candidate in candidates}, {}

    monkeypatch.setattr(proposing, "try_needs", measure)
    return asked


@pytest.mark.parametrize("scheme", [None, "minmax"])
def test_two_measurements_predict_a_third(pretend, scheme):
    candidates = find_candidates(original(width=32), FACTS)
    first, middle, last = candidates[0], candidates[len(candidates) // 2], candidates[-1]
    needs = {candidate.name: true_needs(candidate, scheme) for candidate in (first, last)}
    predicted = Predictor.fit(first, last, needs).predict(middle)
    wanted = true_needs(middle, scheme)
    assert predicted.size_bytes == pytest.approx(wanted.size_bytes, rel=0.01)
    assert predicted.latency_ms == pytest.approx(wanted.latency_ms, rel=0.01)
    assert predicted.memory_bytes == pytest.approx(wanted.memory_bytes, rel=0.01)


def test_candidates_are_smaller_and_no_two_are_equal():
    whole = original(width=8)
    found = find_candidates(whole, FACTS)
    limit = sum(p.numel() for p in whole.network.parameters())
    assert all(candidate.parameters < limit for candidate in found)
    assert len({(c.macs, c.parameters) for c in found}) == len(found)
    assert {c.model for c in found} == {"cnn", "slice"}
    assert [c.macs for c in found] == sorted((c.macs for c in found), reverse=True)


def test_candidates_can_be_made_again_from_what_a_recipe_says():
    for candidate in find_candidates(original("vit", width=8, heads=2), FACTS):
        again = make_model(candidate.model, candidate.settings, **FACTS.as_arguments())
        again.load_state_dict(candidate.network.state_dict())


def test_slices_of_a_trained_teacher_start_from_it():
    whole = original("vit", is_trained=True, width=8, heads=2)
    found = find_candidates(whole, FACTS)
    half = next(c for c in found if c.name == "slice-w100-d50")
    assert half.from_teacher
    assert torch.equal(half.network.head.weight, whole.network.head.weight)
    assert not any(c.from_teacher for c in found if c.model != "slice")


def test_all_proposals_fit_and_the_largest_comes_first(pretend):
    budget = Budget(size_bytes=4000.0, latency_ms=0.05)
    found = propose(original(width=16), FACTS, budget, count=3)
    assert len(found) == 3
    assert all(p.fits and budget.excess(p.measured) == p.excess <= 1 for p in found)
    assert [p.candidate.macs for p in found] == sorted(
        (p.candidate.macs for p in found), reverse=True
    )
    names = [p.candidate.name for p in found]
    assert set(names) <= set(pretend[1])
    missed = [c for c in find_candidates(original(width=16), FACTS) if c.name not in pretend[1]]
    larger = [c for c in missed if c.macs > found[0].candidate.macs]
    assert not any(budget.excess(true_needs(c)) <= 1 for c in larger)


def test_where_those_that_might_have_fitted_do_not_smaller_ones_are_measured(monkeypatch):
    def measure(candidates, facts, *, seconds, form):
        factor = 1.0 if seconds == proposing.REFERENCE_S else 1.2
        needs = {c.name: true_needs(c) for c in candidates}
        grown = {n: replace(one, size_bytes=factor * one.size_bytes) for n, one in needs.items()}
        return grown, {}

    monkeypatch.setattr(proposing, "try_needs", measure)
    monkeypatch.setattr(candidates, "_slices", lambda *_: iter(()))
    whole, budget = original(width=16), Budget(size_bytes=13_000.0)
    maybe = [c for c in find_candidates(whole, FACTS) if true_needs(c).size_bytes <= 1.3 * 13_000]
    assert all(1.2 * true_needs(c).size_bytes > 13_000 for c in maybe[:3])
    (found,) = propose(whole, FACTS, budget, count=1)
    assert found.fits
    assert found.candidate.name == maybe[3].name


def test_a_budget_in_eight_bits_lets_larger_students_in_than_one_in_float(pretend):
    budget = Budget(size_bytes=4000.0)
    found = [
        propose(original(width=16), FACTS, budget, count=2, form=Form("onnx", scheme))
        for scheme in (None, "minmax")
    ]
    floats, eights = ([p.candidate.parameters for p in proposals] for proposals in found)
    assert max(eights) > 2 * max(floats)
    assert all(p.measured == true_needs(p.candidate, "minmax") for p in found[1])


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (Form("onx"), UnknownNameError, r"Unknown target 'onx'\. Did you mean 'onnx'"),
        (Form("onnx", "entropy"), UnknownNameError, "int8 scheme of onnx 'entropy'"),
        (Form("torch_export", "minmax"), ExportError, "torch_export has no int8 files"),
    ],
)
def test_what_no_student_can_be_delivered_as_is_refused(form, error, message):
    with pytest.raises(error, match=message):
        propose(original(width=16), FACTS, Budget(size_bytes=4000.0), form=form)


def failing(monkeypatch, is_bad):
    """Measures without exporting; some cannot be."""

    def measure(candidates, facts, *, seconds, form):
        bad = {c.name: "scale must be above 0" for c in candidates if is_bad(c)}
        return {c.name: true_needs(c) for c in candidates if c.name not in bad}, bad

    monkeypatch.setattr(proposing, "try_needs", measure)
    skipped = {}
    whole, budget = original(width=16), Budget(size_bytes=9000.0)
    return propose(whole, FACTS, budget, count=2, on_skip=skipped.__setitem__), skipped


def test_candidates_that_cannot_be_measured_are_told_of_and_left_out(monkeypatch, pretend):
    budget = Budget(size_bytes=9000.0)
    usual = propose(original(width=16), FACTS, budget, count=2)
    smallest = find_candidates(original(width=16), FACTS)[-1].name
    bad = {usual[0].candidate.name, smallest}
    found, skipped = failing(monkeypatch, lambda c: c.name in bad)
    assert skipped == dict.fromkeys(bad, "scale must be above 0")
    assert found
    assert not bad & {proposal.candidate.name for proposal in found}


def test_a_teacher_or_all_that_cannot_be_measured_are_one_clear_error(monkeypatch):
    with pytest.raises(ExportError, match="The teacher cannot be measured: scale must be"):
        failing(monkeypatch, lambda c: c.name == "teacher")
    with pytest.raises(ExportError, match="No proposed student can be measured"):
        failing(monkeypatch, lambda c: c.name != "teacher")


def test_a_network_that_cannot_be_written_is_a_problem_of_its_own(monkeypatch):
    def write(candidate, *_):
        raise ExportError(f"{candidate.name}: a scale of 0")

    monkeypatch.setattr(proposing, "_write", write)
    two = find_candidates(original(width=16), FACTS)[:2]
    needs, problems = proposing.try_needs(two, FACTS, seconds=0.1, form=Form())
    assert needs == {}
    assert problems.keys() == {c.name for c in two}


def test_where_nothing_fits_the_nearest_come(pretend):
    found = propose(original(width=16), FACTS, Budget(size_bytes=10.0), count=2)
    assert [p.fits for p in found] == [False, False]
    smallest = min(true_needs(c).size_bytes for c in find_candidates(original(width=16), FACTS))
    assert found[0].measured.size_bytes == smallest


def test_a_teacher_that_nothing_is_smaller_than_is_refused():
    with pytest.raises(ConfigError, match=r"no known network is smaller\. Name a larger teacher"):
        propose(original("cnn", width=1, stages=1), FACTS, Budget(1e6))


@pytest.mark.parametrize("scheme", [None, "minmax"])
def test_real_files_are_measured(scheme):
    candidates = find_candidates(original(width=64), FACTS)[:1]
    form = Form("onnx", scheme)
    needs = proposing.measure_needs(candidates, FACTS, seconds=0.2, form=form)[candidates[0].name]
    share = needs.size_bytes / candidates[0].weight_bytes
    assert 1 < share < 1.2 if scheme is None else 0.25 < share < 0.6
    assert 0 < needs.latency_ms < 100
    assert 0 < needs.memory_bytes < 1e8


def test_a_fresh_network_is_measured_with_all_its_tensors():
    network = make_model("cnn", {"width": 4}, **FACTS.as_arguments()).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rows = [t.tolist() for t in proposing._as_if_trained(network).state_dict().values() if t.ndim]
    assert len({str(row) for row in rows}) == len(rows)
    assert len({str(t.tolist()) for t in before.values() if t.ndim}) < len(rows)
    assert all(torch.equal(network.state_dict()[name], t) for name, t in before.items())
