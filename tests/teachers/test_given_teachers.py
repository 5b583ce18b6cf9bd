"""A teacher that was trained elsewhere: its classes, its head, and what it is loaded from."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tutelage
from tutelage.config import build_job, read_recipe
from tutelage.doctor import check
from tutelage.engine.events import StageDone
from tutelage.errors import ConfigError, ModelError, UnknownNameError
from tutelage.models.load import class_names_of, make_model, read_state
from tutelage.models.nets import mlp
from tutelage.models.origin import class_names_in, origin_of
from tutelage.pipeline.training import teacher_stage
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.classes import class_order
from tutelage.teachers.module import ClassOrder

DATA = ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (("positive", "neutral", "negative"), DATA),
        (("POSITIVE", " Neutral", "Negative "), DATA),
        (("cafe\u0301", "The", "un  thé"), ("un th\u00e9", "the", "café")),
        (("2", "10", "1"), ("1.0", "2.0", "10.0")),
        (("A", "a", "b"), ("a", "b", "A")),
    ],
)
def test_classes_are_matched_by_name(own, wanted):
    def plain(name):
        return name.strip().casefold().replace("  ", " ").replace("e\u0301", "\u00e9")

    found = [own[place] for place in class_order(own, wanted)]
    for ours, theirs in zip(found, wanted, strict=True):
        assert plain(ours) == plain(theirs) or float(ours) == float(theirs)
    if set(own) == set(wanted):
        assert tuple(found) == wanted


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (("negative", "positive"), "2 classes, the data have 3; the data's 'neutral' it does not"),
        ((*DATA, "mixed"), "4 classes, the data have 3; .* the data lack 'mixed'"),
        (("bad", "neutral", "good"), "the data's 'negative', 'positive' it does not know"),
        (("Neutral", "neutral", "positive"), "the data's 'negative'"),
    ],
)
def test_other_classes_are_refused(own, message):
    with pytest.raises(ConfigError, match=message):
        class_order(own, DATA)


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({"classes": ["a", "b"]}, ("a", "b")),
        ({"class_to_idx": {"b": 0, "a": 1}}, ("b", "a")),
        ({"id2label": {"10": "k", "2": "c"}}, ("c", "k")),
        ({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, None),
        ({"label_names": ["x"], "epoch": 3}, ("x",)),
        ({"epoch": 3}, None),
    ],
)
def test_names_are_read_as_libraries_store_them(facts, names):
    assert class_names_in(facts) == names


@pytest.fixture
def data():
    inputs = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    return inputs, inputs.argmax(dim=1)


@pytest.fixture
def turned():
    """Right about every sample, its classes in the order 1, 2, 0."""
    network = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        network.weight.copy_(4 * torch.eye(3)[[1, 2, 0]])
    return network


def test_a_python_teacher_is_put_in_the_order_of_the_data(turned, data):
    def accuracy(**names):
        result = tutelage.distill(turned, nn.Linear(3, 3), data, valid_data=data, epochs=1, **names)
        return result.record.teacher.selected.accuracy

    own = (DATA[1], DATA[2], DATA[0])
    assert accuracy(class_names=DATA, teacher_class_names=own) == 1
    assert accuracy(class_names=DATA) == 0
    with pytest.raises(ConfigError, match="teacher: class_names: the teacher was trained on 2"):
        accuracy(class_names=DATA, teacher_class_names=own[:2])


def test_labels_that_are_taken_for_the_numbers_of_named_classes_are_noted(turned, data):
    turned.config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "emu"})

    def result(**names):
        return tutelage.distill(turned, nn.Linear(3, 3), data, valid_data=data, epochs=1, **names)

    said = "numbers of its logits: 0 for 'cat', 1 for 'dog', 2 for 'emu'"
    numbered = result()
    assert any(said in note for note in numbered.record.notes)
    assert any(said in finding.text for finding in check(numbered._job))
    named = result(class_names=("emu", "cat", "dog"))
    assert not any("numbers of its logits" in note for note in named.record.notes)


def test_a_part_of_a_reordered_teacher_is_not_handed_out(turned):
    teacher = ModuleTeacher(ClassOrder(nn.Sequential(turned), (2, 0, 1)), Classification(3))
    with pytest.raises(ConfigError, match="another order than the data's"):
        teacher.part("0")


@pytest.fixture
def saved(tmp_path):
    def save(network, form=lambda state: state, name="weights.pt"):
        torch.save(form(network.state_dict()), tmp_path / name)
        return tmp_path / name

    return save


def small(num_classes):
    torch.manual_seed(num_classes)
    return mlp(num_classes, image_size=8, hidden=(4,))


FACTS = {"num_classes": 10, "in_channels": 1, "image_size": 8}
FORMS = {
    "plain": lambda state: state,
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state},
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "both": lambda s: {"state_dict": {f"module._orig_mod.{n}": v for n, v in s.items()}},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_weights_are_taken_in_the_forms_that_programs_save(form, saved):
    network = small(10)
    loaded = make_model("mlp", {"hidden": [4]}, weights=saved(network, form), **FACTS)
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_another_count_of_classes_is_refused_with_what_to_do(saved):
    with pytest.raises(ModelError, match=r"1,000 classes and the data 10, head: new draws"):
        make_model("mlp", {"hidden": [4]}, weights=saved(small(1000)), **FACTS)


def test_a_new_head_keeps_the_body(saved):
    network = small(1000)
    made = make_model("mlp", {"hidden": [4]}, weights=saved(network), head="new", **FACTS)
    drawn = origin_of(made).drawn
    state = network.state_dict()
    assert 0 < len(drawn) < len(state)
    for name, value in made.state_dict().items():
        assert (name in drawn) == (value.shape != state[name].shape)
        assert name in drawn or torch.equal(value, state[name])


def test_names_in_a_checkpoint_or_beside_it_order_a_recipes_teacher(saved, tmp_path):
    names = [str(number) for number in range(10)]
    path = saved(small(10), lambda state: {"state_dict": state, "classes": names[::-1]})
    assert class_names_of(path) == tuple(names[::-1])
    plain = saved(small(10), name="plain.pt")
    (tmp_path / "config.json").write_text('{"labels": ["b", "a"]}')
    assert class_names_of(plain) == ("b", "a")


def recipe(*changes):
    return build_job(read_recipe("digits", ["teacher.training=null", *changes]))


def test_an_explicit_order_in_a_recipe_is_used(saved):
    path = saved(small(10))
    teacher = "teacher={model: mlp, settings: {hidden: [4]}, weights: %s, class_names: [%s]}"
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    job = recipe(teacher % (path, ", ".join(f"'{number}'" for number in order)))
    made = job.new_teacher()
    assert isinstance(made, ClassOrder)
    inputs = torch.rand(2, 1, 8, 8)
    plain = small(10).eval()(inputs)
    assert torch.equal(made.eval()(inputs)[:, order], plain)


def test_a_new_head_is_trained_first_on_a_frozen_body(saved, tmp_path):
    body = small(1000)
    teacher = "teacher={model: mlp, settings: {hidden: [4]}, weights: %s, head: new, training: %s}"
    training = "{head_epochs: 2, train: {epochs: 1}, optimizer: {lr: 0.05}}"
    job = recipe(teacher % (saved(body), training), f"output={tmp_path / 'run'}")
    done = []
    trained = teacher_stage(job, done.append)
    names = [event.name for event in done if isinstance(event, StageDone)]
    assert names[:2] == ["teacher head", "teacher"]
    head = read_state(tmp_path / "run/teacher/head/last.safetensors")
    start, end = body.state_dict(), trained.last.state_dict()
    kept = [name for name, value in head.items() if value.shape == start[name].shape]
    assert kept
    assert all(torch.equal(head[name], start[name]) for name in kept)
    assert not torch.equal(end[kept[0]], start[kept[0]])


def test_training_a_head_alone_needs_one(tmp_path):
    job = recipe("teacher.training={head_epochs: 1}", f"output={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"teacher\.training\.head_epochs: this network has no"):
        teacher_stage(job, [].append)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["teacher={model: mlp, head: new}"], r"teacher\.head: a new head knows nothing yet"),
        (
            ["teacher={model: mlp, training: {}, class_names: [a]}"],
            r"teacher\.class_names: it is trained here",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe(*changes)


def test_a_name_of_a_library_is_suggested_with_the_library():
    with pytest.raises(UnknownNameError, match="Did you mean 'torchvision:resnet18'"):
        make_model("resnet18", **FACTS)


def test_torchvisions_own_weights_need_a_new_head_for_other_classes():
    with pytest.raises(ConfigError, match=r"1000 classes apart, the data have 10\. head: new"):
        make_model("torchvision:resnet18", {"weights": "DEFAULT"}, **FACTS)
