"""Whole runs on texts, in miniature."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from texts import save_transformer, snippets, write_csv

from tutelage.config import build_job, read_recipe
from tutelage.deploy import open_session, run_session
from tutelage.engine.events import Advanced, StageDone
from tutelage.errors import ConfigError, ExportError, ModelError, RunFolderError, SignalError
from tutelage.pipeline import run_job
from tutelage.pipeline.measuring import import_measurement, kit_networks, measure_run
from tutelage.playground.content import read_run
from tutelage.teachers.module import state_fingerprint

pytestmark = pytest.mark.whole

pytest.importorskip("transformers")
TEXTS = snippets(40)
MEASURE = {"threads": 1, "batch_sizes": [1, 4], "seconds": 0.2, "int8": "dynamic"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts, more texts without labels, and a transformer."""
    folder = tmp_path_factory.mktemp("place")
    write_csv(folder / "data/train.csv", snippets(48))
    write_csv(folder / "data/valid.csv", snippets(12, 200))
    write_csv(folder / "data/test.csv", snippets(20, 300))
    write_csv(folder / "more.csv", [(text,) for text, _ in snippets(32, 500)], header="text")
    save_transformer(folder / "bert", layers=2)
    return folder


def recipe_of(place, out, epochs=8, **changes):
    training = {"train": {"epochs": epochs, "batch_size": 8}, "optimizer": {"lr": 5.0e-3}}
    content = {
        "data": {"kind": "text", "path": str(place / "data"), "max_length": 16},
        "teacher": {"model": f"hf:{place / 'bert'}", "training": training},
        "student": {"model": f"hf:{place / 'bert'}", "settings": {"keep_layers": [1]}},
        "train": {"epochs": 2, "batch_size": 8},
        "optimizer": {"lr": 2.0e-3},
        "seeds": [0, 1],
        "measure": None,
        "output": str(out),
    }
    for key, value in changes.items():
        is_part = isinstance(content.get(key), dict) and isinstance(value, dict)
        content[key] = {**content[key], **value} if is_part else value
    path = out.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_recipe(path)


def test_a_text_classifier_is_distilled_with_texts_that_have_no_labels(place, tmp_path):
    recipe = recipe_of(place, tmp_path / "run", data={"transfer": [str(place / "more.csv")]})
    job = build_job(recipe)
    assert (len(job.splits.train), len(job.splits.labelled)) == (80, 48)
    said = []
    finished = run_job(job, said.append)
    rates = [event.note for event in said if isinstance(event, Advanced) and "tokens" in event.note]
    assert len(rates) == 48 + 20 * 2 + 18 * 2
    assert all(re.fullmatch(r"[\d,]*[1-9][\d,]* tokens/s", rate) for rate in rates)
    record = finished.record
    assert record.class_names == ["negative", "positive"]
    assert record.verdicts["selected"].num_samples == 20
    assert record.teacher.selected.accuracy > 0.8
    assert record.cache.num_samples == 80
    steps = {training.arm: training.steps for training in record.arms}
    # 80 texts twice are 20 steps; the baseline takes as many over its 48 texts, as far as whole
    # epochs reach: 3 of 6 steps.
    assert steps == {"distilled": 20, "baseline": 18}
    assert (job.out / "report.html").is_file()


def test_students_of_a_cached_and_of_a_live_teacher_are_equal_bit_for_bit(place, tmp_path):
    found = []
    for name, cache in (("cached", {"codec": "float32"}), ("live", None)):
        recipe = recipe_of(place, tmp_path / name, 1, cache=cache, seeds=[0], baseline=False)
        student = run_job(replace(build_job(recipe), has_report=False)).student
        found.append(state_fingerprint(student.last))
    assert found[0] == found[1]


def test_one_cache_of_texts_serves_every_batch_size_bit_for_bit(place, tmp_path):
    cache = {"codec": "float32", "path": str(tmp_path / "cache")}
    found = {}
    for name, size, kept in (("first", 8, cache), ("cached", 16, cache), ("live", 16, None)):
        train = {"epochs": 1, "batch_size": size}
        recipe = recipe_of(
            place, tmp_path / name, 1, cache=kept, train=train, seeds=[0], baseline=False
        )
        said = []
        student = run_job(replace(build_job(recipe), has_report=False), said.append).student
        built = [e.was_there for e in said if isinstance(e, StageDone) and "cache" in e.name]
        found[name] = state_fingerprint(student.last), built
    assert found["first"][1] == [False]
    assert found["cached"][1] == [True]
    assert found["cached"][0] == found["live"][0]


def test_a_small_net_learns_from_a_transformer(place, tmp_path):
    student = {"model": "bag_of_words", "settings": {"width": 8, "embeddings": str(place / "bert")}}
    recipe = recipe_of(place, tmp_path / "run", student=student, seeds=[0], baseline=False)
    job = replace(build_job(recipe), has_report=False)
    assert run_job(job).record.summary("distilled", "last").mean["agreement"] > 0.5


BLOCK = "bert.encoder.layer"
BETWEEN_TRANSFORMERS = [
    {"loss": "tinybert_embedding"},
    {"loss": "tinybert_hidden", "student_layers": f"{BLOCK}.0", "teacher_layers": f"{BLOCK}.1"},
    {"loss": "distilbert_cosine", "student_layers": f"{BLOCK}.0", "teacher_layers": f"{BLOCK}.1"},
    {
        "loss": "tinybert_attention",
        "student_layers": f"{BLOCK}.0.attention.self",
        "teacher_layers": f"{BLOCK}.1.attention.self",
        "heads": 2,
    },
    {
        "loss": "minilm_v2",
        "student_layer": f"{BLOCK}.0.attention.self",
        "teacher_layer": f"{BLOCK}.1.attention.self",
        "heads": 4,
    },
]


@pytest.mark.parametrize(
    "task", ["classification", pytest.param("token_classification", marks=pytest.mark.slow)]
)
def test_a_narrow_transformer_learns_from_a_teachers_layers(place, tmp_path, task):
    small = {"fresh": True, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    student = {"model": f"hf:{place / 'bert'}", "settings": small}
    objective = {"task_weight": 1.0, "terms": BETWEEN_TRANSFORMERS}
    common = {"student": student, "objective": objective, "seeds": [0], "baseline": False}
    if task == "token_classification":
        rows = [{"words": text.split(), "tags": ["A", *"B" * text.count(" ")]} for text, _ in TEXTS]
        path = tmp_path / "words.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        columns = {"text_column": "words", "label_column": "tags"}
        common |= {"task": task, "data": {"path": str(path), **columns}}
    recipe = recipe_of(place, tmp_path / "run", epochs=1, cache=None, **common)
    finished = run_job(replace(build_job(recipe), has_report=False))
    (arm,) = finished.arms
    first, last = (arm.progress.curve[at].train_parts for at in (0, -1))
    for term in BETWEEN_TRANSFORMERS:
        assert 0 < last[term["loss"]] < first[term["loss"]]
    kept = finished.student.last.state_dict()
    assert not [name for name in kept if "adapter" in name]
    cached = recipe_of(place, tmp_path / "other", cache={"codec": "float32"}, **common)
    with pytest.raises((ConfigError, SignalError), match="Teach live"):
        run_job(build_job(cached))


@pytest.fixture(scope="module")
def labelled_words(place, tmp_path_factory):
    """A run on words with labels, exported in int8 too, and its rows."""
    folder = tmp_path_factory.mktemp("words")
    rows = [
        {"words": text.split(), "tags": ["A" if word == "good" else "B" for word in text.split()]}
        for text, _ in snippets(40)
    ]
    for part in ("train", "valid", "test"):
        path = folder / f"words/{part}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in rows))
    data = {"path": str(folder / "words"), "text_column": "words", "label_column": "tags"}
    task = {"task": "token_classification", "data": data, "cache": None, "measure": MEASURE}
    recipe = recipe_of(place, folder / "run", epochs=10, seeds=[0], **task)
    return run_job(build_job(recipe)), rows, folder / "run"


def test_words_get_labels(labelled_words):
    finished, rows, _ = labelled_words
    record = finished.record
    assert record.teacher.selected.count == sum(len(row["words"]) for row in rows)
    assert record.verdicts["last"].num_samples == 40
    share = sum(word == "B" for row in rows for word in row["tags"]) / record.teacher.selected.count
    assert record.teacher.selected.accuracy > share + 0.05


def test_the_report_marks_the_word_that_is_meant(labelled_words):
    finished, rows, out = labelled_words
    for sample in finished.record.samples:
        words, tags = rows[sample.sample_id].values()
        marked = sample.text.split(" ")
        (place,) = [n for n, word in enumerate(marked) if word.startswith("»")]
        assert marked == [*words[:place], f"»{words[place]}«", *words[place + 1 :]]
        assert "AB"[sample.label] == tags[place]
        assert sample.text in (out / "report.html").read_text()


def test_files_that_label_words_are_judged_by_the_words(labelled_words):
    finished, rows, out = labelled_words
    record = finished.record
    assert [row.name for row in record.parity] == ["teacher", "distilled"]
    assert all(row.count == 40 and row.max_abs_difference < 1e-4 for row in record.parity)
    assert all(row.agreement == 1 for row in record.parity)
    (eight,) = record.quantised
    (student,) = [arm for arm in record.arms if arm.arm == "distilled"]
    assert eight.float_metric == pytest.approx(student.selected.accuracy)
    assert (eight.count, eight.calibration) == (40, 0)
    session = open_session(out / "export/student.int8.onnx", threads=1)
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(out / "student")
    right = 0
    for row in rows:
        cut = tokenizer(row["words"], is_split_into_words=True, return_tensors="np")
        feeds = {name: cut[name] for name in ("input_ids", "attention_mask")}
        picks = run_session(session, feeds)[0].argmax(axis=-1)
        places = cut.word_ids(0)
        firsts = [places.index(number) for number in range(len(row["words"]))]
        right += sum("AB"[picks[at]] == tag for at, tag in zip(firsts, row["tags"], strict=True))
    assert right / record.teacher.selected.count == pytest.approx(eight.metric)


def test_the_playground_refuses_networks_that_label_words(labelled_words):
    with pytest.raises(ConfigError, match=r"label every token.*student/example\.py runs"):
        read_run(labelled_words[2])


def test_the_folder_of_a_student_that_labels_words_runs_by_itself(labelled_words):
    _, _, out = labelled_words
    folder = out / "export/student"
    config = json.loads((folder / "config.json").read_text())
    outputs = {"name": "logits", "shape": ["batch", "length", 2], "scores": "logits"}
    assert config["outputs"] == outputs
    assert [one["name"] for one in config["inputs"]] == ["input_ids", "attention_mask"]
    done = subprocess.run(
        [sys.executable, folder / "example.py"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    with np.load(folder / "samples.npz") as samples:
        assert [len(line) for line in lines] == samples["attention_mask"].sum(axis=1).tolist()
    assert {label for line in lines for label in line} <= {"A", "B"}
    assert min(map(len, lines)) < max(map(len, lines))
    assert len(measure_run(out, batch_sizes=(1,), seconds=0.2).measurements[0].rows) == 3


@pytest.fixture(scope="module")
def exported(place, tmp_path_factory):
    """A run that exports, in int8 too."""
    out = tmp_path_factory.mktemp("exported") / "run"
    recipe = recipe_of(place, out, epochs=2, seeds=[0], baseline=False, measure=MEASURE)
    return run_job(build_job(recipe)), out


def test_a_text_student_is_exported_with_its_named_inputs_and_timed(exported):
    finished, out = exported
    record = finished.record
    files = {row.name: row.file for row in record.parity}
    assert files == {"teacher": "teacher.onnx", "distilled": "student.onnx"}
    assert all(row.count == 20 and row.max_abs_difference < 1e-4 for row in record.parity)
    assert all(row.metric == row.network_metric for row in record.parity)
    assert [row.file for row in record.quantised] == ["student.int8.onnx"]
    assert {(row.name, row.batch_size) for row in record.latencies} == {
        (name, size) for name in ("teacher", "distilled", "distilled int8") for size in (1, 4)
    }
    assert any("of texts of 6 tokens, the median" in note for note in record.notes)
    small, large = ({row.name: row for row in record.sizes}[n] for n in ("distilled", "teacher"))
    assert 0 < small.macs < large.macs
    session = open_session(out / "export/student.onnx", threads=1)
    taken = [(one.name, [type(size) for size in one.shape]) for one in session.get_inputs()]
    assert taken == [("input_ids", [str, str]), ("attention_mask", [str, str])]
    network = finished.student.selected.eval()
    for rows, length in ((1, 1), (3, 9), (1, 16)):
        ids = torch.arange(rows * length).view(rows, length) % 30
        mask = torch.ones_like(ids)
        mask[-1, length // 2 + 1 :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        given = run_session(session, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            torch.testing.assert_close(
                torch.from_numpy(given), network(**inputs).logits, rtol=1e-4, atol=1e-5
            )


def test_a_text_run_is_measured_here_and_anywhere(exported, tmp_path):
    _, out = exported
    record = measure_run(out, batch_sizes=(1, 3), seconds=0.3)
    (found,) = record.measurements
    assert {(row.name, row.batch_size) for row in found.rows} == {
        (name, size) for name in ("teacher", "distilled", "distilled int8") for size in (1, 3)
    }
    assert all(file.problem is None and file.size_bytes for file in found.files)
    assert "Every exported file, measured" in (out / "report.html").read_text()
    with np.load(out / "export/sample.npz") as sample:
        assert {name: sample[name].shape for name in sample.files} == {
            "input_ids": (1, 6),
            "attention_mask": (1, 6),
        }
    elsewhere = shutil.copytree(out / "export", tmp_path / "elsewhere")
    script = [sys.executable, "measure.py", "--seconds", "0.1", "--name", "a phone"]
    done = subprocess.run(script, cwd=elsewhere, capture_output=True, check=True)
    (tmp_path / "rows.json").write_bytes(done.stdout)
    record = import_measurement(out, tmp_path / "rows.json")
    assert [one.machine.name for one in record.measurements][1:] == ["a phone"]
    (elsewhere / "sample.npz").rename(tmp_path / "sample.npz")
    shutil.copytree(elsewhere, tmp_path / "older/export")
    with pytest.raises(RunFolderError, match=r"sample\.npz: no such file\. Run the same recipe"):
        kit_networks(tmp_path / "older", record)


def test_a_text_student_lies_in_a_folder_that_transformers_loads(exported):
    finished, out = exported
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out / "student")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "student")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.num_hidden_layers == 1
    given = tokenizer(["w1 good film", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model.eval()(given["input_ids"], given["attention_mask"]).logits
        network = finished.student.selected.eval()
        assert torch.equal(said, network(given["input_ids"], given["attention_mask"]).logits)


def test_the_example_of_a_text_student_runs_and_the_report_shows_texts(exported):
    finished, out = exported
    folder = out / "export/student"
    done = subprocess.run(
        [sys.executable, folder / "example.py"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"negative", "positive"}
    assert len(done.stdout.split()) == 8
    inputs = json.loads((folder / "config.json").read_text())["inputs"]
    assert [one["name"] for one in inputs] == ["input_ids", "attention_mask"]
    assert all(one["shape"] == ["batch", "length"] and one["max_length"] == 16 for one in inputs)
    texts = [sample.text for sample in finished.record.samples]
    assert texts
    page = (out / "report.html").read_text()
    assert all(text and f"<blockquote>{text}</blockquote>" in page for text in texts)


def test_what_cannot_be_run_is_said_before_anything_is_trained(place, tmp_path):
    more = {"transfer": [str(place / "more.csv")]}
    dkd = {"terms": [{"loss": "dkd", "weight": 1.0}]}
    job = build_job(recipe_of(place, tmp_path / "run", data=more, objective=dkd))
    with pytest.raises(SignalError, match="Loss 'dkd' needs a label for every sample"):
        run_job(job)
    with pytest.raises(ConfigError, match=r"cannot be used for token_classification"):
        build_job(recipe_of(place, tmp_path / "run", data=more, task="token_classification"))
    with pytest.raises(ConfigError, match="none is given, and the teacher brings none"):
        build_job(recipe_of(place, tmp_path / "run", teacher={"model": "bag_of_words"}))
    targets = {"measure": {"threads": 1}, "export": {"targets": ["executorch"]}}
    with pytest.raises(ExportError, match="executorch: networks that take one tensor can be"):
        run_job(build_job(recipe_of(place, tmp_path / "run", **targets)))
    views = {"kind": "shift", "pixels": 1}
    with pytest.raises(ConfigError, match="views: shift"):
        run_job(build_job(recipe_of(place, tmp_path / "run", views=views)))
    assert not (tmp_path / "run" / "teacher").exists()


def test_a_labelled_part_is_normal_data_to_every_loss(place, tmp_path):
    recipe = recipe_of(place, tmp_path / "run", data={"transfer": [str(place / "more.csv")]})
    job = build_job(recipe)
    batch = job.labelled_reader[torch.arange(4), torch.zeros(4, dtype=torch.long)]
    assert batch.is_labelled is None
    assert batch.labels.min() >= 0


def test_a_text_longer_than_the_networks_positions_is_found_before_training(place, tmp_path):
    write_csv(tmp_path / "data/train.csv", snippets(24))
    write_csv(tmp_path / "data/valid.csv", snippets(12, 200))
    long = [("w1 " * 300, label) for _, label in snippets(4, 300)]
    write_csv(tmp_path / "data/test.csv", long)
    recipe = recipe_of(place, tmp_path / "run", data={"path": str(tmp_path / "data")})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 300})})
    with pytest.raises(
        ModelError, match=r"^student: it takes no text as long as .*Set data\.max_length to"
    ):
        run_job(build_job(recipe))
    assert not (tmp_path / "run" / "teacher").exists()
