import copy
import inspect
import re

import pytest
import torch
from torch import nn

import tutelage
from tutelage.data.forms import as_source
from tutelage.engine.events import StageDone
from tutelage.errors import ConfigError, DataError, ExportError, ModelError, TutelageError
from tutelage.models.nets import mlp
from tutelage.pipeline.classes import classes_of
from tutelage.records import RunRecord, load_record


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(120, 1, 8, 8, generator=generator)
    return inputs, (inputs.mean(dim=(1, 2, 3)) > 0.5).long() + (inputs[:, 0, 0, 0] > 0.5).long()


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return mlp(3, image_size=8, hidden=(32,)), mlp(3, image_size=8, hidden=(4,))


def test_three_lines_teach_a_student_and_leave_both_networks_alone(data, networks, tmp_path):
    teacher, student = networks
    teacher.train()
    before = copy.deepcopy((teacher.state_dict(), student.state_dict()))
    result = tutelage.distill(teacher, student, data, baseline=True, epochs=2, out=tmp_path)
    parity = result.export(tmp_path / "student.onnx")
    report = result.report(tmp_path / "report.html")
    assert parity.agreement == 1.0
    assert report.stat().st_size > 1000
    assert result.verdict is not None
    assert 0 <= result.metrics["accuracy"] <= 1
    assert teacher.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    for network, state in zip((teacher, student), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert load_record(tmp_path / "results.json", RunRecord) == result.record
    assert torch.__version__.partition("+")[0] in result.record.machine
    assert f"{torch.get_num_threads()} thread" in result.record.machine or torch.cuda.is_available()
    shown = f"{100 * result.metrics['accuracy']:.2f}"
    assert shown in repr(result)
    assert len(repr(result)) < 250 + len(str(tmp_path))
    assert result.verdict.word in repr(result)
    assert f"<td>distilled</td><td>{shown}" in result._repr_html_()
    assert result.verdict.sentence.split(":")[0] in result._repr_html_()


def test_a_second_call_keeps_what_is_there(data, networks, tmp_path):
    first = tutelage.distill(*networks, data, epochs=2, codec="float16", out=tmp_path)
    events = []
    again = tutelage.distill(
        *networks, data, epochs=2, codec="float16", out=tmp_path, listener=events.append
    )
    kept = {e.name: e.was_there for e in events if isinstance(e, StageDone)}
    assert kept["teacher cache"]
    assert kept["distilled, seed 0"]
    assert again.metrics == first.metrics


def test_test_samples_that_were_trained_on_are_told(data, networks, tmp_path):
    (inputs, labels), told = data, "Test samples that are also training data (or transfer data): "
    parts = {"valid_data": (inputs[80:100], labels[80:100]), "epochs": 1}
    test = (inputs[90:], labels[90:])
    apart = tutelage.distill(
        *networks, (inputs[:80], labels[:80]), test_data=test, out=tmp_path / "1", **parts
    )
    mixed = tutelage.distill(
        *networks, (inputs[:95], labels[:95]), test_data=test, out=tmp_path / "2", **parts
    )
    assert not any(told in note for note in apart.record.notes)
    assert any(note.startswith(f"{told}5 of 30.") for note in mixed.record.notes)


def test_another_temperature_trains_again(data, networks, tmp_path):
    tutelage.distill(*networks, data, epochs=1, out=tmp_path)
    events = []
    tutelage.distill(
        *networks, data, epochs=1, temperature=2.0, out=tmp_path, listener=events.append
    )
    kept = {e.name: e.was_there for e in events if isinstance(e, StageDone)}
    assert kept["distilled, seed 0"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_data": []}, "is empty"),
        ({"train_data": "folder"}, "got the path"),
        ({"student": nn.Linear(3, 3)}, "student: Linear failed on inputs"),
        ({"student": mlp(5, image_size=8, hidden=(4,))}, "student: Sequential returned shape"),
        ({"teacher": nn.Linear(3, 3)}, "teacher: Linear failed"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"codec": "zip"}, "unknown codec 'zip'"),
    ],
)
def test_wrong_arguments_are_one_clear_error(data, networks, tmp_path, change, message):
    teacher, student = networks
    call = {"teacher": teacher, "student": student, "train_data": data, "out": tmp_path} | change
    with pytest.raises(TutelageError, match=message):
        tutelage.distill(**call)


def test_a_label_out_of_range_names_its_sample(data, networks, tmp_path):
    inputs, labels = data
    labels[17] = 9
    with pytest.raises(
        (DataError, ModelError), match=r"Sample \d+ has label 9; allowed are 0 to 2"
    ):
        tutelage.distill(*networks, (inputs, labels), epochs=1, out=tmp_path)


class Noisy(torch.utils.data.Dataset):
    """Inputs under a random transform, as torchvision's training sets have them."""

    def __init__(self, data, draw=torch.rand):
        self.data, self.draw = data, draw

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, number):
        inputs, label = self.data[0][number], int(self.data[1][number])
        return inputs + self.draw(inputs.shape), label


@pytest.mark.parametrize("codec", ["float32", "float16", "topk:2"])
def test_random_data_are_refused_for_a_cache_with_what_to_do(data, networks, tmp_path, codec):
    with pytest.raises(DataError, match=r"differs from call to call.*views=SeededViews\("):
        tutelage.distill(*networks, Noisy(data), epochs=1, codec=codec, out=tmp_path)


def test_a_live_training_on_random_data_goes_on_and_says_that_they_are_random(
    data, networks, tmp_path
):
    def call(events):
        return tutelage.distill(
            *networks,
            Noisy(data),
            valid_data=data,
            test_data=data,
            epochs=1,
            out=tmp_path,
            listener=events.append,
        )

    first, events = call([]), []
    again = call(events)
    kept = {e.name: e.was_there for e in events if isinstance(e, StageDone)}
    assert kept["distilled, seed 0"]
    assert again.metrics == first.metrics
    assert any(note.startswith("The training data are random") for note in again.record.notes)


def test_random_data_are_judged_on_with_fixed_draws_or_refused(data, networks, tmp_path):
    call = {"epochs": 1, "out": tmp_path / "1"}
    result = tutelage.distill(*networks, Noisy(data), test_data=Noisy(data), **call)
    notes = [note for note in result.record.notes if "each item's draw was fixed" in note]
    assert len(notes) == 2
    again = tutelage.distill(*networks, Noisy(data), test_data=Noisy(data), **call)
    assert again.metrics == result.metrics
    own = torch.Generator()
    noisy = Noisy(data, lambda shape: torch.rand(shape, generator=own))
    for name in ("valid_data", "test_data"):
        with pytest.raises(DataError, match=f"^{name}: Noisy: its items differ from call to call"):
            tutelage.distill(*networks, data, **{name: noisy}, **call)
    with pytest.raises(DataError, match=r"^train_data: Noisy: its items differ"):
        tutelage.distill(*networks, noisy, **call)


def test_views_that_cannot_be_replayed_are_refused_for_a_cache(data, networks, tmp_path):
    own = torch.Generator()
    views = tutelage.SeededViews(
        lambda x: x + torch.rand((), generator=own), num_views=2, version="own"
    )
    with pytest.raises(DataError, match="the same sample in the same view differs from call"):
        tutelage.distill(*networks, data, views=views, codec="float32", out=tmp_path)


def test_data_of_a_loader_are_taken_and_the_record_says_so(data, networks, tmp_path):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=7)
    result = tutelage.distill(*networks, loader, epochs=1, out=tmp_path)
    assert any("train_data was given as a DataLoader" in note for note in result.record.notes)


@pytest.mark.parametrize("part", ["train_data", "valid_data", "test_data"])
def test_a_sample_that_is_not_a_number_is_found_before_the_first_step(
    data, networks, tmp_path, part
):
    inputs, labels = data
    wrong = inputs.clone()
    wrong[100, 0, 3, 3] = torch.nan
    events = []
    parts = {"train_data": data, "valid_data": data, "test_data": data} | {part: (wrong, labels)}
    name = part.removesuffix("_data")
    with pytest.raises(DataError, match=f"{name} data: sample 100 holds NaN"):
        tutelage.distill(*networks, **parts, out=tmp_path, listener=events.append)
    assert not any(isinstance(event, StageDone) for event in events)


def test_numbers_of_validation_data_are_called_so_wherever_they_stand(data, networks, tmp_path):
    result = tutelage.distill(*networks, data, baseline=True, epochs=1, out=tmp_path)
    assert result.record.judged_on == "validation"
    assert "12 validation samples" in result.verdict.sentence
    page = result.report(tmp_path / "report.html").read_text("utf-8").partition("<script>")[0]
    assert "measured on the validation data unless" in page
    assert "12 validation samples" in page
    assert not re.search(r"[Tt]est sample|the test data ", page)
    inputs, labels = data
    own = tutelage.distill(
        *networks, data, test_data=(inputs[:30], labels[:30]), baseline=True, epochs=1
    )
    assert own.record.judged_on == "test"
    cells = own.record.confusion.cells
    assert sum(count for _, _, count in cells) == 30
    right = sum(count for label, picked, count in cells if label == picked)
    assert right / 30 == own.metrics["accuracy"]
    assert "30 test samples" in own.verdict.sentence


class Wrapped(nn.Module):
    """Gives its logits among other things, as transformers' networks do."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, inputs):
        return {"logits": self.inside(inputs), "hidden": inputs}


def test_a_student_that_gives_logits_by_name_is_exported(data, networks, tmp_path):
    teacher, student = networks
    result = tutelage.distill(teacher, Wrapped(student), data, epochs=1, out=tmp_path)
    assert result.export(tmp_path / "student.onnx").agreement == 1.0


class Named(torch.utils.data.Dataset):
    """A data set as torchvision's, which names its classes."""

    classes = ("low", "middle", "high")

    def __init__(self, data):
        self.inputs, self.labels = data

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, number):
        return self.inputs[number], int(self.labels[number])


def test_classes_are_called_as_the_data_set_calls_them(data, networks, tmp_path):
    some = torch.utils.data.Subset(torch.utils.data.Subset(Named(data), range(100)), range(80))
    loader = torch.utils.data.DataLoader(some, batch_size=8)
    assert _names(networks, loader) == ("low", "middle", "high")
    assert _names(networks, torch.utils.data.ConcatDataset([some, some])) == Named.classes
    assert _names(networks, data) == ("0", "1", "2")
    turned = Named(data)
    turned.target_transform = lambda label: 2 - label
    assert _names(networks, turned) == ("0", "1", "2")


def test_classes_are_called_as_the_features_of_datasets_call_them(data, networks):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "x": datasets.Sequence(datasets.Value("float32")),
            "label": datasets.ClassLabel(names=list("abc")),
        }
    )
    rows = {"x": data[0].flatten(1).tolist(), "label": data[1].tolist()}
    one = datasets.Dataset.from_dict(rows, features=features).with_format("torch")
    flat = [nn.Sequential(nn.Unflatten(1, (1, 8, 8)), network) for network in networks]
    assert _names(flat, one) == ("a", "b", "c")


def _names(networks, data):
    return classes_of(None, data, as_source(data, "data"), *networks)


@pytest.mark.parametrize(("wrap", "known"), [(Named, "the data name 3 classes"), (tuple, "is 2")])
def test_a_teacher_of_other_classes_than_the_data_is_told_as_the_one_that_does_not_fit(
    wrap, known, data, networks
):
    teacher = mlp(1000, image_size=8, hidden=(4,))
    with pytest.raises(
        TutelageError, match=rf"^teacher: it gives 1,000 .* student 3, .*{known}"
    ) as told:
        tutelage.distill(teacher, networks[1], wrap(data), epochs=1)
    assert "head: new" in str(told.value)
    with pytest.raises(TutelageError, match=r"^student: Sequential returned shape"):
        tutelage.distill(networks[0], teacher, wrap(data), epochs=1)


@pytest.mark.parametrize("codec", [None, "float32"])
def test_a_batch_larger_than_the_data_is_all_of_them(codec, data, networks, tmp_path):
    call = {"epochs": 2, "baseline": True, "codec": codec}
    huge = tutelage.distill(*networks, data, batch_size=10**9, out=tmp_path / "huge", **call)
    whole = tutelage.distill(*networks, data, batch_size=108, out=tmp_path / "whole", **call)
    assert huge.record.splits["train"] == 108
    assert huge.metrics == whole.metrics


class Pair(nn.Module):
    """Takes two inputs by name."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, image, age):
        return self.one(image) + self.other(age)


class PairSource:
    """Two inputs a sample."""

    fingerprint, in_memory = "pairs", True

    def __len__(self):
        return 40

    def fetch(self, ids):
        rows = torch.arange(160.0).view(40, 4).remainder(7)[ids]
        return {"image": rows, "age": rows[:, :2]}, ids % 3


def test_a_student_of_two_inputs_is_trained_and_its_export_refused_by_name(tmp_path):
    result = tutelage.distill(Pair(), Pair(), PairSource(), epochs=1, out=tmp_path / "run")
    with pytest.raises(ExportError, match=r"those of texts can .* image \(1, 4\), age \(1, 2\)"):
        result.export(tmp_path / "student.onnx")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("epoch", "Did you mean 'epochs'"), ("temprature", "'temperature'"), ("alpha", "task_weight")],
)
def test_a_mistyped_argument_is_told_with_the_nearest_one(wrong, hint, data, networks):
    with pytest.raises(ConfigError, match=rf"Unknown argument of distill '{wrong}'.*{hint}"):
        tutelage.distill(*networks, data, **{wrong: 1})
    assert "epochs: int = 20" in str(inspect.signature(tutelage.distill))
