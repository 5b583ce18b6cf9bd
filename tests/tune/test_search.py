"""A search in miniature: resumed, pruned, blind to the test data, and its recipe runs."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from tutelage.config import build, build_job, read_recipe
from tutelage.data.scan import scan
from tutelage.data.sources import Source, SubsetSource
from tutelage.engine.events import Advanced, EpochDone
from tutelage.errors import ConfigError, MissingExtraError, RunFolderError
from tutelage.files import write_text
from tutelage.pipeline.training import TrainedModel
from tutelage.records import ACCURACY, MetricPoint
from tutelage.tune import Search, search_space, tune
from tutelage.tune.page import write_page
from tutelage.tune.records import TrialRow
from tutelage.tune.search import TUNING_SEED, _front, _Pruned, _Report, _Study
from tutelage.tune.space import applied
from tutelage.tune.students import Students

pytest.importorskip("optuna")

RECIPE = """
data: {{kind: digits}}
teacher:
  model: mlp
  settings: {{hidden: [16]}}
  training: {{train: {{epochs: 1, batch_size: 256}}, optimizer: {{lr: 0.03}}}}
student: {{model: mlp, settings: {{hidden: [4]}}}}
train: {{epochs: 3, batch_size: 256}}
optimizer: {{lr: 0.02}}
output: {out}
"""


def recipe_in(tmp_path, *overrides):
    path = tmp_path / "recipe.yaml"
    write_text(path, RECIPE.format(out=tmp_path / "run"))
    return read_recipe(path, overrides)


FEW = 8


def scan_inside(source, *arguments, **settings):
    """The look at every sample for values that are not finite, which chooses nothing."""
    scan(getattr(source, "inside", source), *arguments, **settings)


class Unseen(Source):
    """Test data of which a few samples may be looked at, to see whether networks take them."""

    in_memory = True

    def __init__(self, inside):
        self.inside = inside
        self.fingerprint = inside.fingerprint

    def __len__(self):
        return len(self.inside)

    def fetch(self, ids):
        assert len(ids) <= FEW, "the test data were looked at"
        return self.inside.fetch(ids)


@pytest.fixture(autouse=True)
def small_digits(monkeypatch):
    load = build.load_data
    monkeypatch.setattr("tutelage.pipeline.run.scan", scan_inside)

    def load_few(data, kind, folder):
        splits = load(data, kind, folder)
        few = SubsetSource(splits.train, torch.arange(300))
        return replace(splits, train=few, test=Unseen(splits.test))

    monkeypatch.setattr(build, "load_data", load_few)


def test_a_stopped_search_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = tune(Search(recipe_in(tmp_path / "whole"), trials=8, confirm=1, top=2))
    search = Search(recipe_in(tmp_path / "stopped"), trials=8, confirm=1, top=2)
    steps = 0

    def stop(event):
        nonlocal steps
        steps += isinstance(event, Advanced)
        if steps == 25:  # in the middle of a trial
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(search, stop)
    resumed = tune(search)
    assert resumed.trials == whole.trials
    assert (resumed.best, resumed.confirmed) == (whole.best, whole.confirmed)
    assert whole.trials[0].settings == {s.key: s.default for s in search_space(search.recipe)}
    assert len({str(row.settings) for row in whole.trials}) == 8

    means = {c.number: c.mean for c in whole.confirmed}
    assert means[whole.best] == max(means.values()) >= means[0]
    assert sum(whole.importance.values()) == pytest.approx(1.0, abs=1e-6)

    best = search.out / "best.yaml"
    job = build_job(read_recipe(best))
    assert job.settings.optimizer.lr == pytest.approx(
        whole.trial(whole.best).settings["optimizer.lr"]
    )
    assert job.out.name == "run-best"
    check_page(resumed, best, tmp_path / "tune.html")


def check_page(tuned, best, path):
    write_page(tuned, best.read_text(encoding="utf-8"), path)
    page = path.read_text(encoding="utf-8")
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:)', own)
    assert page.count('data-chart="') >= 3
    assert "the test data were not looked at" in page


def test_more_trials_go_on_and_another_recipe_does_not(tmp_path):
    first = tune(Search(recipe_in(tmp_path), trials=2, confirm=0, groups=["temperature"]))
    more = tune(Search(recipe_in(tmp_path), trials=3, confirm=0, groups=["temperature"]))
    assert more.trials[:2] == first.trials
    with pytest.raises(RunFolderError, match="belongs to a search with another recipe"):
        tune(Search(recipe_in(tmp_path, "train.epochs=2"), trials=3, groups=["temperature"]))


def test_a_poor_trial_is_given_up():
    class Poor:
        def __init__(self):
            self.told = []

        def report(self, value, step):
            self.told.append((value, step))

        def should_prune(self):
            return len(self.told) == 2

    trial, heard = Poor(), []
    report = _Report(heard.append, trial, ACCURACY)
    point = MetricPoint(1, 10, 1.0, {}, 0.3, 1.0, 0.1, 1.0)
    report(EpochDone(point))
    with pytest.raises(_Pruned, match="given up after epoch 2"):
        report(EpochDone(replace(point, epoch=2)))
    assert trial.told == [(0.3, 1), (0.3, 2)]
    _Report(heard.append, None, ACCURACY)(EpochDone(point))
    assert heard == []


def test_students_and_latency_are_searched_together(tmp_path):
    recipe = recipe_in(tmp_path)
    small = {"model": "mlp", "settings": {"hidden": [2]}}
    own = recipe.student.model_dump(mode="json")
    students = Students({"own": own, "small": small}, {"own": 2.0, "small": 1.0})
    tuned = tune(Search(recipe, trials=5, groups=["temperature"], students=students))
    rows = {row.number: row for row in tuned.trials}
    assert {row.settings["student"] for row in tuned.trials} == {"own", "small"}
    assert all(
        row.latency_ms == students.latencies_ms[row.settings["student"]] for row in rows.values()
    )
    for number in tuned.front:
        row = rows[number]
        assert not any(
            o.latency_ms <= row.latency_ms and o.score > row.score
            for o in rows.values()
            if o.state == "complete"
        )
    front = read_recipe(recipe.output / "tune" / "front-1.yaml")
    chosen = rows[tuned.front[0]].settings["student"]
    assert front.student.settings == students.parts[chosen]["settings"]


@pytest.mark.parametrize(("fresh", "best"), [(0.79, 0), (0.8, 0), (0.81, 1)])
def test_the_recipe_stays_as_it_is_unless_beaten_under_seeds_that_chose_nothing(
    tmp_path, monkeypatch, fresh, best
):
    search = Search(recipe_in(tmp_path), trials=2, confirm=2, groups=["temperature"])
    default = {s.key: s.default for s in search.space}

    def train(self, chosen, seed, trial=None):
        score = 0.8 if chosen == default else 0.99 if seed == TUNING_SEED else fresh
        return Mock(TrainedModel, progress=SimpleNamespace(best_metric=score, curve=[1]))

    monkeypatch.setattr(_Study, "_train", train)
    tuned = tune(search)
    assert [row.score for row in tuned.trials] == [0.8, 0.99]
    assert tuned.best == best
    written = read_recipe(search.out / "best.yaml").objective
    assert (written == applied(search.recipe, search.space, default).objective) == (best == 0)


def test_the_front_leaves_out_what_is_beaten():
    def row(number, accuracy, latency):
        return TrialRow(number, "complete", {}, accuracy, 1, latency)

    rows = [
        row(0, 0.9, 2.0),
        row(1, 0.8, 1.0),
        row(2, 0.7, 1.5),
        row(3, 0.9, 3.0),
        row(4, 0.95, 4.0),
    ]
    assert _front(rows, ACCURACY) == [1, 0, 4]
    assert _front([TrialRow(0, "complete", {}, 0.5, 1, None)], ACCURACY) == []


def test_tuning_needs_validation_data_and_optuna(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="tuning needs validation data"):
        tune(Search(recipe_in(tmp_path, "data.valid_fraction=0"), trials=1))
    with pytest.raises(ConfigError, match="trials must be 1 or more, got 0"):
        tune(Search(recipe_in(tmp_path), trials=0))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="Tuning needs the 'tune' extra"):
        tune(Search(recipe_in(tmp_path), trials=1))
