"""The parts of the report: numbers as text, recipes as YAML, pooled bins, the slider's range."""

from dataclasses import replace

import pytest
import yaml

from tutelage.records import METHOD, CalibrationBin
from tutelage.report import formatting, headline
from tutelage.report.card import write_card
from tutelage.report.charts import pool_bins
from tutelage.report.confusion import matrix, worst_pairs
from tutelage.report.headline import pick_figures
from tutelage.report.page import render
from tutelage.report.recipe_text import write_recipe
from tutelage.report.remarks import MORE, TRY, remarks
from tutelage.report.soft_targets import make_slider
from tutelage.report.tables import cost_table, quality_tables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.percent(0.97224), "97.22"),
        (formatting.percent(None), "\u2013"),
        (formatting.percent(float("nan")), "\u2013"),
        (formatting.points(0.0154), "+1.54"),
        (formatting.points(-0.0154), "\u22121.54"),
        (formatting.significant(0.012345), "0.0123"),
        (formatting.significant(12345.0), "12,300"),
        (formatting.significant(0.0), "0"),
        (formatting.short_count(1_486_810), "1.49 M"),
        (formatting.short_count(999), "999"),
        (formatting.size(5_951_234), "5.95 MB"),
        (formatting.size(12), "12 B"),
        (formatting.duration(75.2), "1 min 15 s"),
        (formatting.duration(7503), "2 h 05 min"),
        (formatting.tiny(0.0), "0"),
        (formatting.tiny(3.1e-6), "3.10e\u221206"),
        (formatting.ratio(10, 4), "2.50\u00d7"),
        (formatting.ratio(10, 0), "\u2013"),
    ],
)
def test_numbers_are_written_as_a_reader_likes_them(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    "recipe",
    [
        {"task": "classification", "seeds": [0, 1, 2], "terms": [{"loss": "kd", "weight": 0.9}]},
        {"nested": {"deeper": {"empty": {}, "none": None, "list": []}}, "lists": [[1, [2]], [3]]},
        {"words": ["yes", "null", "1e5", "0.5", "0x1f", "12:30", "2024-01-01", "a: b", "- a", ""]},
        {"text": "line\nbreak", "quote": 'it\'s "so"', "mark": "#no", "model": "timm:resnet18"},
        {"small": 1e-05, "large": 1e22, "whole": 3.0, "flag": True, "infinite": float("inf")},
        {"path": "/data/my images", "greek": "\u03b1\u03b2", "glob": "*.png", "colon": "a:"},
        {True: 1, 3: "three", "3": "text"},
        {},
    ],
)
def test_yaml_reads_a_written_recipe_back(recipe):
    assert yaml.safe_load(write_recipe(recipe)) == recipe


def test_pooled_bins_keep_counts_and_weigh_by_them():
    bins = [
        CalibrationBin(0.91, 0.8, 10),
        CalibrationBin(0.99, 1.0, 30),
        CalibrationBin(1.0, 1.0, 0),
    ]
    (pooled,) = pool_bins(bins)
    assert (pooled.confidence, pooled.accuracy, pooled.count) == pytest.approx((0.97, 0.95, 40))
    assert [b.count for b in pool_bins([CalibrationBin(1.0, 0.9, 5)])] == [5]


@pytest.mark.parametrize(
    ("temperature", "low", "high"), [(4.0, 0.5, 20.0), (30.0, 0.5, 60.0), (0.1, 0.1, 20.0)]
)
def test_the_slider_holds_the_runs_temperature(temperature, low, high):
    slider = make_slider(temperature)
    assert (slider.low, slider.start, slider.high) == (low, temperature, high)


def test_the_ruler_has_its_zero_in_the_middle(record):
    found = headline.find_verdict(record)
    assert (found.tone, found.choice) == ("good", "Best on the validation data")
    assert found.interval.left > 50


def test_one_verdict_leads_and_the_other_is_a_line(record):
    found = headline.find_verdict(record)
    assert found.sentence == record.verdicts["selected"].sentence
    assert found.other.startswith("For information, after the last epoch: no evidence, +0.61")
    page = render(record)
    assert page.count('class="verdict ') == 1
    assert page.count('class="badge"') == 1


def test_an_interval_of_the_older_method_is_said_to_be_one(record):
    assert "older method" in render(record)
    verdicts = {choice: replace(v, method=METHOD) for choice, v in record.verdicts.items()}
    assert "older method" not in render(replace(record, verdicts=verdicts))


def test_a_large_number_has_no_thousandths(record):
    large = [
        replace(s, mean=s.mean | {"nll": 677.0094}, spread=s.spread | {"nll": 26.3191})
        for s in record.summaries
    ]
    table, _ = quality_tables(replace(record, summaries=large))
    (cells,) = [row.cells for row in table.rows if row.label == "NLL, nats"]
    assert (cells[1].value, cells[1].spread) == ("677.0", "\u00b1 26.3")


@pytest.mark.parametrize(
    ("word", "seeds", "expected"),
    [
        ("helped", 3, []),
        ("hurt", 3, [TRY]),
        ("no evidence", 3, [TRY, MORE]),
        ("no evidence", 8, [TRY]),
    ],
)
def test_a_run_that_did_not_help_says_what_to_try(record, word, seeds, expected):
    verdict = replace(record.verdicts["selected"], word=word, num_seeds=seeds)
    found = remarks(replace(record, verdicts={**record.verdicts, "selected": verdict}))
    assert [note for note in found if note in (TRY, MORE)] == expected


def test_a_confusion_matrix_has_counts_and_shares_of_its_rows(record):
    found = matrix(record)
    assert len(found.lines) == len(found.columns) == 10
    first = found.lines[0]
    assert (first.name, first.total) == ("0", "50")
    assert [(e.count, e.percent) for e in first.entries[:4]] == [
        ("46", "92 %"),
        ("3", "6 %"),
        ("1", "2 %"),
        ("", ""),
    ]
    assert [entry.is_right for entry in first.entries[:2]] == [True, False]
    assert first.entries[1].meaning == "0 taken for 1: 3 of 50"


def test_the_worst_pairs_come_first_and_stand_alone_where_classes_are_many(make_record):
    record = make_record(classes=31)
    assert matrix(record) is None
    rows = worst_pairs(record).rows
    assert len(rows) == 20
    assert [cell.value for cell in rows[0].cells] == ["5", "7", "50", "14.0"]
    counts = [int(row.cells[1].value) for row in rows]
    assert counts == sorted(counts, reverse=True)


def test_records_without_counts_have_neither(record):
    old = replace(record, confusion=None)
    assert matrix(old) is None
    assert worst_pairs(old).rows == []


def test_a_latency_within_noise_is_nowhere_a_ratio(record):
    slow = record.latencies[0]
    near = replace(slow, name="student", p50_ms=0.2250, p95_ms=0.2700)
    alike = replace(record, latencies=[slow, near])
    rows = {row.label: row.cells[-1].value for row in cost_table(alike).rows}
    assert rows["Latency p50, ms"] == rows["Latency p95, ms"] == "as fast"
    values = [figure.value for figure in pick_figures(alike, "selected")]
    assert "as fast" in values
    assert "1.03\u00d7" not in render(alike)
    table = {row.label: row.cells[-1].value for row in cost_table(record).rows}
    assert table["Latency p50, ms"] == "18.8\u00d7"


def test_the_card_speaks_of_classes_only_where_there_are_some(record):
    of_classes = write_card(record, {}, seed=0)
    assert "puts inputs into 10 classes" in of_classes
    assert "| ECE, % |" in of_classes
    assert "; its expected calibration error is" in of_classes

    def without(training):
        return replace(training, selected=replace(training.selected, ece=None))

    values = replace(
        record,
        class_names=["price", "weight"],
        teacher=without(record.teacher),
        arms=[without(arm) for arm in record.arms],
    )
    card = write_card(values, {}, seed=0)
    assert "gives 2 outputs (price, weight)" in card
    assert not {"class", "classes", "ECE,"} & {*card.split()}
    assert "calibration error" not in card
