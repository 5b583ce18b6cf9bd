"""What every kind of input keeps, and what it answers."""

from dataclasses import dataclass

import pytest
import torch

from tutelage.data.views import Identity, Shift
from tutelage.errors import ConfigError, DataError, ExportError
from tutelage.inputs import INPUTS, ArrayInputs, ImageInputs, NamedInputs, TextInputs, kind_of
from tutelage.types import VALID_MASK, by_name, map_tensors

TOKENS = torch.tensor([[3, 4, 5], [6, 7, 0]])
TEXTS = {"input_ids": TOKENS, "attention_mask": (TOKENS > 0).long()}
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8, generator=GENERATOR)
VECTORS = torch.randn(2, 3, generator=GENERATOR)


@dataclass(frozen=True)
class Case:
    """A kind with two raw samples of it."""

    kind: object
    raw: object


CASES = {
    "image": Case(ImageInputs((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), IMAGES),
    "array": Case(ArrayInputs((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), VECTORS),
    "text": Case(TextInputs(), TEXTS),
    "named": Case(NamedInputs(), {"one": VECTORS, "two": VECTORS}),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_every_kind_is_found_by_what_inputs_look_like(case):
    assert type(kind_of(case.raw)) is INPUTS[case.kind.name] is type(case.kind)


def test_files_take_what_devices_have(case):
    taken = case.kind.export_inputs(case.kind.normalise(map_tensors(case.raw, torch.clone)))
    for name, tensor in by_name(case.raw).items():
        given = tensor / 255 if tensor.dtype == torch.uint8 else tensor
        torch.testing.assert_close(by_name(taken)[name], given)


def test_one_view_is_the_sample_as_it_is(case):
    ids = torch.arange(2)
    viewed = case.kind.view(case.raw, Identity(), ids, 0 * ids)
    assert all(torch.equal(by_name(viewed)[n], t) for n, t in by_name(case.raw).items())


@pytest.mark.parametrize("name", ["text", "named"])
def test_views_of_images_are_refused_by_name(name):
    case, ids = CASES[name], torch.arange(2)
    with pytest.raises(ConfigError, match=f"views: shift.*come as {', '.join(case.raw)}"):
        case.kind.view(case.raw, Shift(1), ids, ids)


def test_the_first_axis_of_every_input_may_have_any_size(case):
    axes = case.kind.axes(case.raw)
    assert {*axes} == {*by_name(case.raw)}
    assert all(sizes[0] == "batch" for sizes in axes.values())


def test_tensors_by_name_of_which_nothing_is_known_are_not_exported():
    case = CASES["named"]
    with pytest.raises(ExportError, match=r"onnx: of networks with named inputs .*one \(2, 3\)"):
        case.kind.check_export("onnx", case.raw)


def test_what_only_the_task_needs_is_not_exported():
    with_counts = TEXTS | {VALID_MASK: TOKENS > 0}
    assert {*TextInputs().export_inputs(with_counts)} == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("image", {"in_channels": 3, "image_size": 5}),
        ("array", {"in_channels": 3, "image_size": 1}),
        ("text", {}),
        ("named", {}),
    ],
)
def test_networks_are_told_what_there_is_to_know(name, facts):
    assert CASES[name].kind.facts(CASES[name].raw) == facts


def test_images_alone_have_a_height_a_width_and_a_picture():
    for name, case in CASES.items():
        is_image = name == "image"
        assert (case.kind.image_shape(case.raw) is not None) is is_image
        taken = case.kind.export_inputs(case.kind.normalise(map_tensors(case.raw, torch.clone)))
        assert (case.kind.image_png(taken) is not None) is is_image


@pytest.mark.parametrize("kind", [ArrayInputs, ImageInputs])
def test_a_mean_without_a_std_is_refused(kind):
    with pytest.raises(ConfigError, match="mean and std belong together"):
        kind((0.5,))


def test_named_tensors_among_images_are_refused():
    with pytest.raises(DataError, match=r"by name \(input_ids .*one form"):
        ImageInputs().normalise(TEXTS)
