"""A language model's run from recipe to student folder, and what is refused before it begins."""

import html

import pytest
import torch
import yaml
from tiny_language import WORDS, make_model, make_tokenizer, save

from tutelage.config import build_job, read_recipe
from tutelage.doctor import preflight
from tutelage.engine.events import Advanced
from tutelage.errors import ConfigError, ShapeError, TutelageError
from tutelage.models.causal import make_causal
from tutelage.pipeline import run_job
from tutelage.pipeline.training import cache_progress
from tutelage.records import RunRecord, load_record


def test_the_shipped_recipe_runs_from_text_to_a_folder_that_transformers_loads(
    shipped, teacher_path
):
    done = shipped
    job_out = done.out
    record = load_record(job_out / "results.json", RunRecord)
    assert record == done.record
    assert record.metric.name == "perplexity"
    assert record.verdicts["selected"].word in {"helped", "no evidence", "hurt"}
    assert "nats a token" in record.verdicts["selected"].sentence
    assert record.cache.codec == "topk:8"
    by_arm = {(s.arm, s.choice): s.mean for s in record.summaries}
    assert by_arm["teacher", "last"]["perplexity"] < by_arm["distilled", "last"]["perplexity"]
    assert by_arm["distilled", "last"]["agreement"] > 0.5
    student = make_causal(str(job_out / "student"))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            student.eval()(input_ids=ids).logits, done.student(input_ids=ids).logits
        )
    again = yaml.safe_load((job_out / "recipe.yaml").read_text())
    assert again["student"]["model"] == f"causal:{teacher_path}"


def test_texts_stand_side_by_side_in_the_record_the_report_and_a_file(shipped):
    texts = (shipped.out / "texts.md").read_text()
    page = (shipped.out / "report.html").read_text()
    names = ["the text itself", "teacher", "baseline", "distilled"]
    assert [list(text.endings) for text in shipped.record.written] == [names] * 4
    for text in shipped.record.written:
        assert f"> {text.beginning}" in texts
        assert html.escape(text.beginning) in page
        for name, ending in text.endings.items():
            assert f"| {name} | {ending} |" in texts
            assert html.escape(ending) in page


def test_a_trained_student_can_start_from_weights_and_from_adapters(write_recipe, tmp_path):
    pytest.importorskip("peft")
    student = yaml.safe_load(write_recipe().read_text())["student"]
    student["settings"] |= {"lora_rank": 2}
    path = write_recipe(student=student, baseline=False, cache=None)
    job = build_job(read_recipe(path))
    done = run_job(job)
    plain = make_causal(str(job.out / "student"))
    assert not any("lora" in name for name, _ in plain.named_parameters())
    weights = tmp_path / "run" / "arms" / "distilled" / "seed-0" / "last.safetensors"
    half = {"model": student["model"], "settings": student["settings"], "weights": str(weights)}
    job = build_job(read_recipe(write_recipe(student=half, output=str(tmp_path / "more"))))
    state = job.new_student(0).state_dict()
    trained = done.arms[-1].last.state_dict()
    assert all(torch.equal(state[name], trained[name]) for name in trained)


@pytest.mark.parametrize(
    ("items", "notes"), [(16, ["", "1,600 tokens/s", "1,600 tokens/s"]), (1, [""] * 3)]
)
def test_a_cache_tells_its_speed_in_tokens(monkeypatch, items, notes):
    clock = iter([10.0, 11.0, 12.5])
    monkeypatch.setattr("tutelage.pipeline.training.time.perf_counter", lambda: next(clock))
    told = []
    tell = cache_progress(told.append, items)
    for done in (300, 400, 550):  # 300 were there before
        tell(done, 600)
    assert told == [Advanced(d, 600, n) for d, n in zip((300, 400, 550), notes, strict=True)]


@pytest.fixture
def other_words(tmp_path):
    words = [*WORDS[5:], *WORDS[:5]]
    return save(tmp_path / "other", make_model(24), make_tokenizer(words))


@pytest.fixture
def few_words(tmp_path):
    """A model without a tokenizer, of a smaller vocabulary."""
    folder = tmp_path / "few"
    make_model(16).save_pretrained(folder)
    make_tokenizer(WORDS).save_pretrained(folder)
    return folder


def test_a_student_with_another_tokenizer_is_refused_with_what_to_do(write_recipe, other_words):
    path = write_recipe(student={"model": f"causal:{other_words}"})
    with pytest.raises(ConfigError, match=r"student: .*another tokenizer.*keep_layers"):
        build_job(read_recipe(path))


def test_a_student_of_a_smaller_vocabulary_is_refused_before_the_first_step(
    write_recipe, few_words
):
    job = build_job(read_recipe(write_recipe(student={"model": f"causal:{few_words}"})))
    with pytest.raises(TutelageError, match="student: "):
        preflight(job)
    with pytest.raises(ShapeError, match="scores 16 words, the tokenizer has 20"):
        job.task._check_width(job.new_student(0), 16)


REFUSED = [
    ({"task": "classification"}, "task: classification does not go with data kind 'corpus'"),
    ({"measure": {}}, "measure: .*Set measure: null"),
    ({"optimizer": {"kind": "dot", "lr": 0.1}}, "optimizer.kind: dot .*Use adamw"),
    ({"teacher": {"model": "mlp", "weights": "x"}}, "data.tokenizer: the teacher 'mlp' is no"),
    ({"data": {"kind": "digits"}}, "does not go with data kind 'digits'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_does_not_go_with_language_models_is_refused(write_recipe, changes, message):
    with pytest.raises(ConfigError, match=message):
        build_job(read_recipe(write_recipe(**changes)))


def test_documents_apart_cannot_be_cached_but_taught_live(write_recipe):
    data = yaml.safe_load(write_recipe().read_text())["data"] | {"is_packed": False}
    job = build_job(read_recipe(write_recipe(data=data)))
    with pytest.raises(ConfigError, match=r"differ in their tokens.*cache: null"):
        preflight(job)
    job = build_job(read_recipe(write_recipe(data=data, cache=None, baseline=False)))
    told = []
    record = run_job(job, told.append).record
    assert record.arms[0].last.values["perplexity"] < 20
    assert any(isinstance(e, Advanced) and e.note.endswith(" tokens/s") for e in told)
