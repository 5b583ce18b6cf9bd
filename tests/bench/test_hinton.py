"""The reproduction goes through whole, small, and keeps what it has trained."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.bench import hinton
from tutelage.bench.lab import CachedViews, ExperimentRunner, FixedView, SubsetTeacher, count_errors
from tutelage.bench.records import Measured, Reproduction, Row, as_markdown
from tutelage.data.sources import Splits, TensorSource
from tutelage.data.views import Elastic, Shift
from tutelage.engine.checkpoint import Progress
from tutelage.engine.events import StageDone
from tutelage.errors import UnknownNameError
from tutelage.inputs import ImageInputs
from tutelage.pipeline.training import TrainedModel
from tutelage.records import load_record
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures() -> Splits:
    """Ten classes that can be told apart, the size of MNIST's images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 10
    inputs = torch.randint(0, 60, (600, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for label in range(10):
        inputs[labels == label, :, 6 + 2 * (label // 5), 6 + 3 * (label % 5)] = 250
    names = tuple("0123456789")
    return Splits(
        train=TensorSource(inputs[:500], labels[:500]),
        valid=None,
        test=TensorSource(inputs[500:], labels[500:]),
        class_names=names,
        inputs=ImageInputs((0.1,), (0.2,)),
    )


@pytest.fixture
def small(monkeypatch, pictures):
    def tiny(num_classes, hidden, dropout=0.0, input_dropout=0.0):
        return hinton_mlp(num_classes, hidden=tuple(min(width, 24) for width in hidden))

    hinton_mlp = hinton.mlp
    monkeypatch.setattr(hinton, "mlp", tiny)
    monkeypatch.setattr(hinton, "load_mnist", lambda valid_fraction: pictures)
    monkeypatch.setattr(hinton, "WIDE_TEMPERATURES", (1.0,))
    monkeypatch.setattr(hinton, "NARROW_TEMPERATURES", (4.0,))
    monkeypatch.setattr(hinton, "SMALL_WIDTHS", (8, 16))
    monkeypatch.setattr(hinton, "ELASTIC", Elastic(4))


def test_every_row_is_measured_and_a_second_call_trains_nothing(small, tmp_path):
    def measure(events):
        return list(
            hinton.reproduce_hinton_mnist(
                tmp_path, num_seeds=2, effort=0.01, listener=events.append
            )
        )

    found = measure([])[-1]
    papers = {row.paper for row in found.rows}
    assert {"67", "146", "74", "206", "133 on threes", "109", "47.3", "13.2"} <= papers
    chosen = [row.name for row in found.rows if "chosen" in row.note]
    for start in ("teacher 2×1200", "the same, biases of 7", "the same, bias of 3 raised, best"):
        assert any(name.startswith(start) for name in chosen), start
    assert {row.name for row in found.rows if "recipe chosen by test errors" in row.note} == {
        row.name for row in found.rows if "the CNN" in row.name or row.name.startswith("CNN")
    }
    assert load_record(tmp_path / "results.json", Reproduction) == found
    assert "| student 2×800, labels only | 146 |" in (tmp_path / "table.md").read_text()
    events = []
    assert measure(events)[-1].rows == found.rows
    assert all(event.was_there for event in events if isinstance(event, StageDone))


def test_a_part_of_the_table_is_measured_alone_in_the_precision_asked_for(small, tmp_path):
    (found,) = hinton.reproduce_hinton_mnist(
        tmp_path,
        num_seeds=2,
        effort=0.01,
        precision="bf16",
        teacher_epochs=100,
        only=["smallest student"],
    )
    assert [row.name.split(",")[0] for row in found.rows] == ["student 2×8", "student 2×16"]
    assert found.command.endswith("--precision bf16 --teacher-epochs 100 --only 'smallest student'")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "cache",
        "small-16",
        "small-8",
        "teacher",
    }


def test_an_unknown_part_is_refused_by_name(small, tmp_path):
    with pytest.raises(UnknownNameError, match=r"'no 4'.*Did you mean 'no 3'"):
        next(hinton.reproduce_hinton_mnist(tmp_path, only=["no 4"]))


def test_the_search_ends_where_the_whole_interval_keeps_enough(pictures, monkeypatch):
    study = hinton._Study(ExperimentRunner(Path(), pictures), (0, 1), 1.0)
    monkeypatch.setattr(hinton._Study, "teacher_errors", 0)
    monkeypatch.setattr(hinton, "KEPT", 0.9)
    found = {16: [9.0, 11.0], 24: [6.0, 12.0], 32: [5.0, 5.2], 48: [0.0, 0.0]}

    def students(self, name, objective, *, hidden, **_):
        return [TrainedModel(name, 0, nn.Linear(1, 1), nn.Linear(1, 1), Progress(), str(hidden[0]))]

    def row(self, name, paper, trainings, note=""):
        return Row(name, "test errors", paper, Measured(found[int(trainings[0].key)]), note)

    monkeypatch.setattr(hinton._Study, "students", students)
    monkeypatch.setattr(hinton._Study, "row", row)
    rows, _ = study.smallest()
    # of 100 samples at most 10 may be wrong: 16 and 24 keep that on the mean alone
    assert [row.name.split(",")[0] for row in rows] == [f"student 2×{w}" for w in (16, 24, 32)]
    assert "keeps 94.90% of the teacher's accuracy, at least 93.63%" in rows[-1].note


def test_the_biases_of_classes_that_were_never_seen_are_mended_both_ways(pictures):
    labels = pictures.test.labels
    logits = 4.0 * torch.nn.functional.one_hot(labels, 10)
    biased = hinton.moved(logits, [3], -5.0)
    study = hinton._Study(ExperimentRunner(Path(), pictures), (0,), 1.0)
    assert count_errors(biased, labels) == int((labels == 3).sum())
    assert count_errors(study.oracle(biased, [3]), labels) == 0
    matched = study.matched(biased, [3])
    assert count_errors(matched, labels) == 0
    share = float((pictures.train.labels == 3).double().mean())
    assert float(matched.softmax(1)[:, 3].mean()) == pytest.approx(share, abs=1e-3)


def test_one_view_is_the_middle_of_the_jitter(pictures):
    inputs, _ = pictures.train.fetch(torch.arange(3))
    ids = torch.arange(3)
    chosen = hinton.PLAIN.choose(ids, epoch=5, seed=1)
    assert torch.equal(hinton.PLAIN.apply(inputs, ids, chosen), inputs)
    assert hinton.PLAIN.num_views == Shift(2).num_views == 25
    assert FixedView(Shift(2), 3).fingerprint != FixedView(Shift(2), 4).fingerprint


def test_a_teacher_of_a_part_is_asked_for_the_samples_of_the_whole(pictures):
    asked = []

    class Whole(ModuleTeacher):
        def __call__(self, batch):
            asked.append(batch.sample_ids.tolist())
            return super().__call__(batch)

    task = ExperimentRunner(Path(), pictures).task
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    teacher = SubsetTeacher(Whole(net, task, chunk=2), torch.tensor([5, 9, 40]))
    rows = torch.tensor([2, 0])
    teacher(Batch(torch.zeros(2, 1, 28, 28), None, rows, torch.zeros_like(rows)))
    assert asked == [[40, 5]]


def test_an_interval_is_students_t_of_the_mean_over_seeds():
    assert str(Measured([4.0])) == "4.0"
    # mean 2, standard deviation 1, t(0.975; 2) = 4.3027
    assert Measured([1.0, 2.0, 3.0]).reach == pytest.approx(4.3027 / 3**0.5, abs=1e-3)


def test_a_row_without_a_number_of_the_paper_shows_a_dash():
    row = Row("beyond", "test errors", "", Measured([1.0, 1.0]))
    page = as_markdown(Reproduction("t", "s", "c", "0", rows=[row]))
    assert "| beyond | – | 1.0 ± 0.0 | test errors |  |" in page


def test_kept_views_are_the_policy_s_and_made_once(monkeypatch):
    policy, made = Elastic(5), []
    apply = Elastic.apply

    def counted(self, inputs, sample_ids, view_ids):
        made.append(len(inputs))
        return apply(self, inputs, sample_ids, view_ids)

    monkeypatch.setattr(Elastic, "apply", counted)
    images = torch.randint(0, 256, (6, 1, 9, 9), dtype=torch.uint8)
    kept = CachedViews(policy, len(images))
    for ids, views in (([0, 3, 5], [4, 0, 0]), ([3, 3, 0], [0, 1, 4]), ([5, 3], [0, 1])):
        samples, numbers = torch.tensor(ids), torch.tensor(views)
        expected = apply(policy, images[samples], samples, numbers)
        assert torch.equal(kept.apply(images[samples], samples, numbers), expected)
    assert made == [3, 1]
    assert kept.fingerprint == policy.fingerprint


def test_the_record_of_the_page_holds_the_figures_of_the_page():
    page = (ROOT / "docs/hinton-mnist.md").read_text("utf-8")
    record = json.loads((ROOT / "docs/hinton-mnist.json").read_text("utf-8"))
    main, *others = tables(page)
    assert [shown(row, record["columns"]) for row in record["rows"]] == main[1:]
    assert [table["cells"] for table in record["other_tables"]] == others
    best = record["errors_by_seed"]["student 2×800, soft targets of the CNN at T=4, 100 epochs"]
    assert str(Measured([float(errors) for errors in best])) == "51.6 ± 3.4"


def tables(page):
    """Cells of the tables of a page, without the line below the headings, marks and bold type."""
    found, inside = [], False
    for line in page.splitlines():
        is_row = line.startswith("|")
        if is_row and not inside:
            found.append([])
        if is_row and set(line) - set("|- "):
            plain = line.replace("**", "").strip().strip("|")
            found[-1].append([cell.strip() for cell in plain.split("|")])
        inside = is_row
    return found


def shown(row, columns):
    """A row of the record as the page shows it."""
    cells = [row["row"], row["paper"] or "–"]
    for column in columns:
        found = row[column]
        if found is None:
            cells.append("–")
        else:
            reach = found["half_interval"]
            cells.append(f"{found['mean']:.1f}" + ("" if reach is None else f" ± {reach:.1f}"))
    return [*cells, row["unit"], row["note"]]
