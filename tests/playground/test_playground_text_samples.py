"""A playground of texts: the browser cuts and answers as Python does."""

import shutil

import numpy as np
import pytest

from tutelage.deploy import open_session, run_session
from tutelage.errors import ConfigError, MissingExtraError, RunFolderError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.playground import write_single_file
from tutelage.playground.content import read_run

pytestmark = pytest.mark.slow  # a run on texts comes first
FILES = {"teacher": "teacher", "distilled": "student", "distilled int8": "student.int8"}
LONG = "good w1 w2 w3 w4 w5 w6 w7 w8 bad"


@pytest.fixture(scope="module")
def opened(text_run, runtime, open_page, tmp_path_factory):
    """The single file, opened as a file."""
    written = write_single_file(text_run, tmp_path_factory.mktemp("page") / "page.html", runtime)
    page, complaints = open_page(written.page.as_uri())
    assert page.locator("#status").text_content() == "Ready. Write a text, or pick a test text."
    return page, complaints


def write(page, text):
    page.get_by_label("Text that the networks read").fill(text)
    page.wait_for_function("() => document.documentElement.dataset.state === 'ready'")


def python_answers(run, tokens):
    ids = np.array([tokens], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    sessions = {n: open_session(run / f"export/{f}.onnx", threads=1) for n, f in FILES.items()}
    return {name: run_session(session, feeds)[0] for name, session in sessions.items()}


@pytest.mark.parametrize(
    "text", ["good", "a bad, bad FILM played unheard w3s!", "  w1\n w2  ", "", LONG]
)
def test_what_is_written_is_cut_and_classified_as_python_does(opened, text_run, text):
    page, complaints = opened
    write(page, text)
    tokens = load_tokenizer(str(text_run / "export/student/tokenizer"))(text)["input_ids"]
    expected = tokens if len(tokens) <= 8 else [*tokens[:7], tokens[-1]]
    assert page.evaluate("() => playground.tokens") == expected
    given = page.evaluate("() => playground.logits")
    for name, logits in python_answers(text_run, expected).items():
        assert given[name] == pytest.approx(logits.tolist(), abs=1e-5)
        pick = page.locator(f'[data-pick="{name}"] strong').text_content()
        assert pick == ("negative", "positive")[int(logits.argmax())]
    is_cut = ", cut to 8" in page.locator("#seen-title").text_content()
    assert is_cut == (len(tokens) > 8)
    assert complaints == []


def test_test_texts_give_the_logits_of_python(opened):
    page, complaints = opened
    assert page.evaluate("() => playground.difference") < 1e-5
    first = page.locator('[data-sample="1"]')
    first.click()
    page.wait_for_selector('[data-sample="1"][aria-pressed=true]')
    assert first.text_content().startswith(page.locator("#text").input_value())
    assert page.locator('tr[data-cost="distilled int8"] .smaller').text_content().endswith("×")
    assert complaints == []


def test_the_page_fits_a_phone(opened):
    page, complaints = opened
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert complaints == []


@pytest.mark.parametrize(
    ("gone", "error", "message"),
    [
        (
            "export/student/tokenizer/tokenizer.json",
            ConfigError,
            r"no tokenizer\.json, so it cannot run in",
        ),
        ("export/student/tokenizer/tokenizer_config.json", RunFolderError, "holds no tokenizer"),
        ("export/student/config.json", RunFolderError, r"or no config\.json"),
    ],
)
def test_a_run_without_its_tokenizer_is_refused(text_run, tmp_path, gone, error, message):
    shutil.copytree(text_run, tmp_path / "run", ignore=shutil.ignore_patterns("arms", "cache"))
    (tmp_path / "run" / gone).unlink()
    with pytest.raises(error, match=message):
        read_run(tmp_path / "run")


def test_the_package_for_texts_is_named_where_it_is_missing(text_run, tmp_path):
    with pytest.raises(MissingExtraError, match=r"tokenizers\.min\.mjs.*@huggingface/tokenizers@"):
        read_run(text_run, tmp_path)
