"""A teacher that answers in bfloat16: faster, the same to its rounding, told apart."""

import pytest
import torch

from tutelage.config import build_job, read_recipe
from tutelage.errors import ConfigError, UnknownNameError
from tutelage.models.nets import mlp
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch


def batch(count: int) -> Batch:
    images = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(count)
    return Batch(inputs=images, labels=None, sample_ids=ids, view_ids=torch.zeros_like(ids))


def teacher(precision: str, layers: tuple[str, ...] = ()) -> ModuleTeacher:
    torch.manual_seed(0)
    network = mlp(3, image_size=6, hidden=(64, 64))
    task = Classification(num_classes=3)
    return ModuleTeacher(network, task, chunk=4, precision=precision, layers=layers)


def test_answers_are_float32_and_equal_to_rounding_alone():
    layers = tuple(name for name, _ in teacher("float32").network.named_children())[:1]
    single, half = (teacher(precision, layers)(batch(10)) for precision in ("float32", "bf16"))
    for ours, theirs in (
        (half.logits, single.logits),
        (half.features[layers[0]], single.features[layers[0]]),
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)
    assert not torch.equal(half.logits, single.logits)


def test_an_answer_depends_on_no_other_sample():
    half = teacher("bf16")
    assert torch.equal(half(batch(10)).logits[:3], half(batch(3)).logits)


def test_the_fingerprint_tells_the_precision():
    assert teacher("bf16").fingerprint == teacher("float32").fingerprint + " bf16"


def test_an_unknown_precision_is_refused():
    with pytest.raises(UnknownNameError, match=r"Known: (bf16|float32)"):
        teacher("half")


def test_a_recipe_says_it_for_all_teachers():
    job = build_job(read_recipe("digits", ["teacher.precision=bf16"]))
    assert job.teacher.precision == "bf16"
    second = "co_teachers=[{model: cnn, training: {train: {epochs: 1}}}]"
    with pytest.raises(ConfigError, match=r"co_teachers\[0\]\.precision: float32 .* the same"):
        build_job(read_recipe("digits", ["teacher.precision=bf16", second]))
