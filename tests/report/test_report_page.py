"""The page as text: the record's numbers are in it, nothing is loaded, no name leaves its place."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tutelage.errors import MissingExtraError, RunFolderError
from tutelage.report import write_report
from tutelage.report.page import render


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.words = []
        self.open = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if not self.open:
            self.words.append(data)


def script_data(source):
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', source)
    return json.loads(found.group(1))


@pytest.fixture(scope="module")
def record(make_record):
    return make_record()


@pytest.fixture(scope="module")
def page(record):
    return Page(render(record))


def test_the_verdict_and_the_notes_stand_before_the_tables(page, record):
    places = [
        page.text.index(words)
        for words in (
            record.verdicts["selected"].sentence,
            "For information, after the last epoch",
            record.notes[0],
            "Mean over 3 seeds",
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("choice", ["selected", "last"])
@pytest.mark.parametrize("arm", ["teacher", "baseline", "distilled"])
def test_each_summary_is_in_the_table(page, record, arm, choice):
    summary = record.summary(arm, choice)
    assert f"{100 * summary.mean['accuracy']:.2f}" in page.text
    assert f"{100 * summary.retention:.2f}" in page.text
    assert f"{summary.mean['nll']:.3f}" in page.text


def test_each_seed_is_in_the_folded_table(page, record):
    for training in record.arms:
        assert f"{100 * training.selected.accuracy:.2f}" in page.text
        assert f"{100 * training.last.ece:.2f}" in page.text


@pytest.mark.parametrize(
    "words",
    [
        "1.49 M",
        "12.7 k",
        "5.95 MB",
        "117\u00d7",
        "0.0123",
        "0.0167",
        "3.10e\u221206",
        "2.30e\u221207",
    ],
)
def test_costs_parity_and_cache_are_in_the_page(page, words):
    assert words in page.text


def test_the_page_says_how_to_repeat_the_run(page):
    assert "tutelage run digits seed=0" in page.text
    assert "PyTorch 2.9.1, 1 thread on 2 cores" in page.text
    assert "task_weight: 0.1" in page.text
    assert "Tutelage 0.1.0" in page.text
    assert "1 min 15 s" in page.text
    assert "assistants" not in page.text  # a stage that the run did not have


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            place = attributes.get(name) or "data:"
            assert place.startswith(("data:", "#")), (tag, attributes)


def test_the_page_forbids_itself_the_network(page):
    policies = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policies
    assert policies[0].startswith("default-src 'none'")


def test_the_charts_hold_the_records_numbers(record):
    figures = script_data(render(record))["figures"]
    thick = next(t for t in figures["valid-accuracy"]["data"] if t["name"] == "distilled")
    curves = [t.curve for t in record.arms if t.arm == "distilled"]
    assert thick["y"][-1] == pytest.approx(100 * sum(c[-1].valid_metric for c in curves) / 3)
    assert {t["name"]: t["x"] for t in figures["size"]["data"]}["teacher"] == [5.951234]
    assert figures["latency"]["data"][2]["x"] == [0.0123]


def test_hostile_names_stay_text(hostile_record):
    source = render(hostile_record)
    page = Page(source)
    assert source.count("<script") == Page(source).tags.count(("script", {})) + 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert [a for t, a in page.tags if t == "img"] == []
    assert "window.stolen=1</script>" not in source
    assert "{{7*7}}" in page.text


def test_names_in_charts_are_not_read_as_tags(hostile_record):
    figure = script_data(render(hostile_record))["figures"]["per-class"]
    assert "<" not in json.dumps(figure["layout"]["yaxis"]["ticktext"])


def test_without_a_baseline_the_page_says_what_was_kept(make_record):
    page = Page(render(make_record(students=("distilled",))))
    assert "No baseline was trained" in page.text
    assert "Gap closed, %" not in page.text
    assert "helped" not in page.text


def test_one_seed_has_no_spread(make_record):
    page = Page(render(make_record(seeds=1)))
    assert "One seed" in page.text
    assert "\u00b1 0" not in page.text


def test_without_validation_data_only_the_last_epoch_is_shown(make_record):
    source = render(make_record(is_validated=False))
    page = Page(source)
    assert "nothing was selected" in page.text
    assert "Best on the validation data" not in page.text
    assert "train-loss" in script_data(source)["figures"]


def test_a_record_with_no_costs_no_samples_and_no_curves_still_makes_a_page(make_record):
    record = make_record(seeds=1)
    bare = replace(
        record,
        teacher=replace(record.teacher, curve=[], selected_epoch=None),
        arms=[replace(training, curve=[]) for training in record.arms],
        sizes=[],
        latencies=[],
        parity=[],
        samples=[],
        cache=None,
        notes=[],
        seconds={},
    )
    page = Page(render(bare))
    assert "The teacher ran live" in page.text
    assert "Temperature" not in page.text


def test_a_loaded_teachers_level_comes_from_the_test_data(record):
    loaded = replace(record, teacher=replace(record.teacher, curve=[], selected_epoch=None))
    assert "the teacher, on the test data" in Page(render(loaded)).text


def test_many_classes_show_the_top_ones_and_the_rest_together(make_record):
    page = Page(render(make_record(classes=200)))
    assert re.search(r"\b1(89|9[0-2]) more\b", page.text)
    rows = [a for t, a in page.tags if t == "td" and a.get("data-network") == "teacher"]
    assert len(rows) < 4 * 14
    assert "The 20 classes that keep least" in page.text


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_that_are_none_become_a_dash(record, value):
    arms = [replace(t, last=replace(t.last, nll=value)) for t in record.arms]
    samples = [
        replace(s, logits={**s.logits, "teacher": [value, *s.logits["teacher"][1:]]})
        for s in record.samples
    ]
    source = render(replace(record, arms=arms, samples=samples))
    assert script_data(source)["samples"][0]["teacher"][0] is None
    assert "nan" not in Page(source).text


def test_a_report_is_replaced_whole(record, tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_report(record, path)
    write_report(replace(record, name="second"), path)
    assert "second" in path.read_text("utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_an_unwritable_place_is_one_clear_error(record, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(record, tmp_path / "file" / "report.html")


def test_a_missing_extra_is_named(record, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="'report' extra"):
        render(record)


def test_each_section_has_a_link_on_top_and_each_link_a_section(record, make_record):
    bare = replace(record, samples=[], confusion=None)
    for shown in (record, bare, make_record(is_validated=False, classes=40)):
        page = render(shown).partition("<script>")[0]
        links = re.findall(r'<a href="#([^"]+)">', page)
        assert links == re.findall(r'<h2 id="([^"]+)">', page)
        assert len(set(links)) == len(links)
    assert ("confusion" in render(record), 'id="confusion"' in render(bare)) == (True, False)
