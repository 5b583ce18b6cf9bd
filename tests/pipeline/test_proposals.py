"""From a name or a run folder to recipes that run, and a budget that stops a run."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage.config import build_job, read_recipe
from tutelage.deploy import proposing
from tutelage.deploy.budgets import Budget, Needs
from tutelage.deploy.proposing import Form, Proposal
from tutelage.errors import ConfigError, RunFolderError
from tutelage.files import write_text
from tutelage.models import propose as candidates
from tutelage.models.load import make_model
from tutelage.models.propose import find_candidates
from tutelage.pipeline import proposals
from tutelage.pipeline.proposals import (
    check_budget,
    form_of,
    options_of,
    read_request,
    write_proposals,
)

RECIPE = """
data: {{kind: digits}}
teacher:
  model: vit
  settings: {{width: 8, heads: 2}}
  training: {{train: {{epochs: 1}}}}
student: {{model: cnn, settings: {{width: 2}}}}
seeds: [0]
output: {out}
"""


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    monkeypatch.setattr(candidates, "WIDTHS", (1.0, 0.5))
    monkeypatch.setattr(candidates, "_families", lambda *_: iter(()))


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "base.yaml"
    write_text(path, RECIPE.format(out=tmp_path / "run"))
    return path


@pytest.fixture
def run_folder(tmp_path):
    """What a run leaves of its teacher."""
    folder = tmp_path / "run"
    write_text(folder / "recipe.yaml", RECIPE.format(out=folder))
    torch.manual_seed(3)
    facts = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    network = make_model("vit", {"width": 8, "heads": 2}, **facts)
    (folder / "teacher").mkdir()
    save_file(network.state_dict(), folder / "teacher" / "selected.safetensors")
    return folder


def some(question, name):
    candidate = next(
        c for c in find_candidates(question.original, question.facts) if c.name == name
    )
    return Proposal(candidate, Needs(1000.0), None, 0.5)


def test_a_run_s_slice_starts_from_its_teacher_and_its_recipe_runs(run_folder, tmp_path):
    question = read_request(str(run_folder))
    path, *_ = write_proposals(
        question, "50 kB", [some(question, "slice-w100-d50")], tmp_path / "new"
    )
    job = build_job(read_recipe(path), folder=path.parent)
    trained = load_file(run_folder / "teacher" / "selected.safetensors")
    student = job.new_student(0).state_dict()
    assert torch.equal(student["block1.linear1.weight"], trained["block1.linear1.weight"])
    assert "block2.linear1.weight" not in student
    assert torch.equal(job.teacher.make().state_dict()["head.weight"], trained["head.weight"])
    assert job.teacher.train is None
    assert job.budget == Budget(size_bytes=50_000.0)
    assert job.out == run_folder.with_name("run-slice-w100-d50")


def test_a_recipe_delivers_what_was_measured_and_is_held_to_it(run_folder, tmp_path):
    question, form = read_request(str(run_folder)), Form("executorch", "dynamic")
    proposal = some(question, "slice-w100-d50")
    path, *_ = write_proposals(question, "50 kB", [proposal], tmp_path, form)
    job = build_job(read_recipe(path), folder=tmp_path)
    assert (job.export.targets, job.export.int8) == (("executorch",), ("dynamic",))
    assert form_of(job) == form
    assert options_of(form) == " --target executorch --int8 dynamic"


def test_a_teacher_without_weights_is_trained_as_the_base_says(recipe, tmp_path):
    question = read_request("mlp", settings={"hidden": [30, 30]}, base=str(recipe))
    proposal = some(question, "slice-w50-d100")
    assert not proposal.candidate.from_teacher
    path, *_ = write_proposals(question, "9 kB", [proposal], tmp_path)
    job = build_job(read_recipe(path), folder=tmp_path)
    assert job.teacher.train.epochs == 1
    assert job.new_student(0).hidden1[0].out_features == 15


def test_a_network_in_a_file_is_named_so_that_any_folder_finds_it(recipe, tmp_path, monkeypatch):
    nets = "from tutelage.models.nets import mlp\n\ndef make(num_classes, image_size):\n"
    write_text(tmp_path / "nets.py", f"{nets}    return mlp(num_classes, image_size, hidden=(20,))")
    monkeypatch.chdir(tmp_path)
    question = read_request("nets.py:make", base=str(recipe))
    path, *_ = write_proposals(
        question, "9 kB", [some(question, "slice-w50-d100")], tmp_path / "deep" / "er"
    )
    monkeypatch.chdir("/")
    job = build_job(read_recipe(path), folder=path.parent)
    assert job.new_student(0).hidden1[0].out_features == 10


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("RUN", {"base": "digits"}, "a run folder brings its own teacher"),
        (".", {}, "no recipe.yaml in it"),
        ("cnnn", {}, "Unknown model 'cnnn'. Did you mean 'cnn'"),
    ],
)
def test_questions_that_do_not_go_together_are_refused(run_folder, model, options, message):
    with pytest.raises((ConfigError, RunFolderError), match=message):
        read_request(str(run_folder) if model == "RUN" else model, **options)


def test_recipes_need_a_recipe_to_build_on(tmp_path):
    question = read_request("cnn")
    with pytest.raises(ConfigError, match="--write: a recipe needs data and settings"):
        write_proposals(question, "1 MB", [], tmp_path)


def test_a_student_within_the_budget_passes_and_one_outside_stops_the_run(
    recipe, monkeypatch, tmp_path
):
    def measure(candidates, facts, *, seconds, form):
        bits = 1.0 if form.scheme is None else 0.25
        return {c.name: Needs(bits * c.weight_bytes, 0.1, None) for c in candidates}

    monkeypatch.setattr(proposals, "measure_needs", measure)
    monkeypatch.setattr(
        proposing, "try_needs", lambda *given, **form: (measure(*given, **form), {})
    )
    job = build_job(read_recipe(recipe, ["budget=1 MB"]))
    assert "within the budget of 1 MB" in check_budget(job, job.new_student(0))
    eight = ["budget=500 B", "measure={int8: minmax}"]
    job = build_job(read_recipe(recipe, eight))
    assert "(int8 (minmax) in ONNX Runtime): within" in check_budget(job, job.new_student(0))
    job = build_job(read_recipe(recipe, eight[:1]))
    with pytest.raises(ConfigError, match=r"\(float in ONNX Runtime\), allowed are 500 B"):
        check_budget(job, job.new_student(0))
    job = build_job(read_recipe(recipe, ["budget=300 B, 1 ms"]))
    nearest = (
        r"allowed are 300 B, 1 ms \(size [\d.]+ times, latency 0.10 times\). Nearest proposals"
    )
    with pytest.raises(ConfigError, match=nearest):
        check_budget(job, job.new_student(0))


@pytest.mark.parametrize("text", ["1 mb", "fast", "2 ms, 3 ms"])
def test_a_recipe_with_a_wrong_budget_is_refused(recipe, text):
    with pytest.raises(ConfigError, match="budget: Value error, budget"):
        read_recipe(recipe, [f"budget='{text}'"])
