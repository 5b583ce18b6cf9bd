"""Whole runs on sentence embeddings, in miniature."""

import io
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml
from texts import save_sentence_encoder, snippets, write_csv

from tutelage.cli.console import PlainConsole
from tutelage.cli.results import print_results
from tutelage.config import build_job, read_recipe
from tutelage.config.data import BuiltinData
from tutelage.doctor import OK, check, preflight
from tutelage.errors import ConfigError, SignalError
from tutelage.pipeline import run_job
from tutelage.pipeline.reopen import reopen
from tutelage.records import RunRecord, load_record
from tutelage.teachers.module import state_fingerprint

pytestmark = pytest.mark.whole

library = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts without labels, and a sentence encoder."""
    folder = tmp_path_factory.mktemp("place")
    for part, count, first in (("train", 240, 0), ("valid", 16, 600), ("test", 24, 700)):
        texts = [(text,) for text, _ in snippets(count, first)]
        write_csv(folder / f"data/{part}.csv", texts, header="text")
    save_sentence_encoder(folder / "encoder", layers=3, width=12)
    return folder


def recipe_of(place, out, **changes):
    content = {
        "task": "embedding",
        "data": {"kind": "text", "path": str(place / "data"), "max_length": 16},
        "teacher": {"model": f"sentence:{place / 'encoder'}"},
        "student": {
            "model": f"sentence:{place / 'encoder'}",
            "settings": {"keep_layers": [0, 2], "dropout": 0.0},
        },
        "objective": {"task_weight": 0, "terms": [{"loss": "embedding_mse", "weight": 1}]},
        "train": {"epochs": 1, "batch_size": 16},
        "optimizer": {"lr": 2.0e-3},
        "seeds": [0],
        "measure": None,
        "output": str(out),
    }
    for key, value in changes.items():
        is_part = isinstance(content.get(key), dict) and isinstance(value, dict)
        content[key] = {**content[key], **value} if is_part else value
    path = out.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_recipe(path)


def texts_of(place, part):
    return (place / f"data/{part}.csv").read_text().splitlines()[1:]


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """A whole run, and its job."""
    out = tmp_path_factory.mktemp("whole") / "run"
    job = build_job(recipe_of(place, out, train={"epochs": 6}))
    return run_job(job), job


def test_layers_of_an_encoder_are_distilled(run):
    record = run[0].record
    assert record == load_record(run[1].out / "results.json", RunRecord)
    teacher, student = record.teacher.selected.values, record.arms[1].selected.values
    assert teacher["rank_correlation"] == pytest.approx(1.0)
    assert student["rank_correlation"] > record.arms[0].selected.values["rank_correlation"] + 0.1
    assert student["pair_correlation"] > 0.45
    assert 0.5 < student["shared_neighbours"] <= 1
    verdict = record.verdicts["selected"]
    assert verdict.num_samples == 24
    assert verdict.difference > 0.1  # of one seed and few texts, so the interval is wide
    assert verdict.low < verdict.difference < verdict.high
    assert record.cache.num_samples == 240


def test_report_and_terminal_say_what_embeddings_are_judged_by(run):
    finished, job = run
    page = (job.out / "report.html").read_text()
    assert "test 24. Every number" in page  # nothing of classes
    assert "Pair correlation" in page
    assert "difference from the teacher&#39;s of the cosines" in page
    printed = PlainConsole(width=120, record=True, file=io.StringIO())
    print_results(printed, finished.record, job.out)
    text, student = printed.export_text(), finished.record.arms[1].selected.values
    assert f"{student['pair_correlation']:.3f}" in text
    assert f"{student['shared_neighbours']:.3f}" in text
    assert "NLL" not in text  # it means nothing here


def test_what_is_delivered_says_what_was_judged(run, place):
    finished, job = run
    encoder = library.SentenceTransformer(str(job.out / "student"), device="cpu")
    assert len(encoder[0].auto_model.encoder.layer) == 2
    texts = texts_of(place, "test")
    said = encoder.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    batch = job.test_reader[torch.arange(24), torch.zeros(24, dtype=torch.long)]
    torch.testing.assert_close(said, finished.student.selected(**batch.inputs))
    whole = library.SentenceTransformer(str(place / "encoder"), device="cpu")
    wanted = whole.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(batch.labels, wanted)
    cosine = finished.record.arms[1].selected.values["cosine"]
    assert float(F.cosine_similarity(said, wanted).mean()) == pytest.approx(cosine)


def test_a_finished_run_is_opened_again(run):
    finished, job = run
    again = state_fingerprint(reopen(job.out).student.selected)
    assert again == state_fingerprint(finished.student.selected)


def test_a_narrower_table_of_tokens_is_distilled(place, tmp_path):
    student = {"model": f"static:{place / 'encoder'}", "settings": {"width": 6}}
    train = {"epochs": 4}
    job = build_job(
        recipe_of(place, tmp_path / "run", student=student, baseline=False, train=train)
    )
    finished = run_job(replace(job, has_report=False))
    found = finished.record.arms[0]
    batch = job.test_reader[torch.arange(24), torch.zeros(24, dtype=torch.long)]
    said = job.task.predict(job.new_student(0), [batch], torch.device("cpu"))
    first = job.task.evaluate(said).values
    assert found.last.values["pair_correlation"] > first["pair_correlation"]
    assert "cosine" not in found.last.values  # other widths
    encoder = library.SentenceTransformer(str(job.out / "student"), device="cpu")
    assert encoder.encode(["good film"], show_progress_bar=False).shape == (1, 6)


def test_a_student_of_a_cached_and_of_a_live_teacher_are_equal_bit_for_bit(place, tmp_path):
    found = []
    for name, cache in (("cached", {"codec": "float32"}), ("live", None)):
        recipe = recipe_of(place, tmp_path / name, cache=cache, baseline=False)
        student = run_job(replace(build_job(recipe), has_report=False)).student
        found.append(state_fingerprint(student.last))
    assert found[0] == found[1]


def test_every_loss_of_embeddings_can_be_named_in_a_recipe(place, tmp_path):
    losses = ("embedding_mse", "embedding_cosine", "margin_mse", "similarity_kl")
    terms = [{"loss": loss, "weight": 0.25} for loss in losses]
    student = {"model": f"static:{place / 'encoder'}", "settings": {"width": 6}}
    objective = {"task_weight": 0.1, "terms": terms}
    recipe = recipe_of(place, tmp_path / "run", student=student, objective=objective)
    finished = run_job(replace(build_job(recipe), has_report=False))
    parts = finished.record.arms[1].curve[0].train_parts
    assert set(parts) == {"simcse", *losses}
    encoder = library.SentenceTransformer(str(tmp_path / "run/student"), device="cpu")
    assert len(encoder) == 2  # what SimCSE wraps around it is not delivered


def test_the_checks_find_nothing_wrong_with_texts_without_labels(place, tmp_path):
    findings = check(build_job(recipe_of(place, tmp_path / "run")))
    texts = {finding.text: finding.level for finding in findings}
    assert texts["train: 240 samples without labels."] == OK
    assert {finding.level for finding in findings} == {OK}


REFUSED = {
    "data": (
        {"data": {"label_column": "topic"}},
        r"data.label_column: 'topic' would not be read, for embedding",
    ),
    "training": (
        {"teacher": {"training": {"train": {"epochs": 1}}}},
        r"teacher: for embedding it is one network that is trained already",
    ),
    "measure": ({"measure": {"threads": 1}}, "measure: a student of embeddings is written as"),
    "no teacher": (
        {"teacher": {"model": "bag_of_words"}},
        r"data.tokenizer: none is given, and the teacher brings none",
    ),
    "length": ({"data": {"max_length": 99}}, r"data.max_length: 99 is more than the 40 tokens"),
    "no labels": (
        {"task": "classification", "data": {"label_column": None}},
        r"data.label_column: classification needs labels. Name their column",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_with_embeddings_is_said_first(place, tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        build_job(recipe_of(place, tmp_path / "run", **changes))


def test_a_codec_that_keeps_some_classes_of_many_is_refused_before_training(place, tmp_path):
    job = build_job(recipe_of(place, tmp_path / "run", cache={"codec": "topk:4"}))
    with pytest.raises(ConfigError, match=r"codec: topk:4 keeps .* Allowed: float32, float16"):
        preflight(job)


def test_pictures_are_no_texts(place, tmp_path):
    recipe = recipe_of(place, tmp_path / "run")
    digits = recipe.model_copy(update={"data": BuiltinData(kind="digits")})
    message = r"task: embedding does not go with data kind 'digits'. It needs data: \{kind: text"
    with pytest.raises(ConfigError, match=message):
        build_job(digits)


def test_losses_of_logits_and_students_without_dropout_are_refused_before_training(place, tmp_path):
    kd = {"terms": [{"loss": "kd", "weight": 1.0}]}
    with pytest.raises(SignalError, match="kd"):
        run_job(build_job(recipe_of(place, tmp_path / "run", objective=kd)))
    net = "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
    net += "        super().__init__()\n        self.table = torch.nn.Embedding(42, 12)\n\n"
    net += "    def forward(self, input_ids, attention_mask):\n"
    net += "        return (self.table(input_ids) * attention_mask[..., None]).mean(1)\n"
    (tmp_path / "nets.py").write_text(net)
    student = {"model": "nets.py:Net", "settings": {}}
    recipe = recipe_of(place, tmp_path / "run", student=student)
    with pytest.raises(ConfigError, match=r"simcse: Net has no nn.Dropout.*baseline: false"):
        run_job(build_job(recipe, folder=tmp_path))
    assert not (tmp_path / "run" / "arms").exists()
    finished = run_job(replace(build_job(recipe, folder=tmp_path), has_baseline=False))
    assert not (tmp_path / "run" / "student").exists()  # no folder of a library of its own
    assert json.loads((tmp_path / "run/results.json").read_text())["metric"]["name"]
    assert finished.record.verdicts == {}
