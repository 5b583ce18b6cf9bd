"""A remembered teacher says what the live one said, and tells no more than it is asked for."""

import pytest
import torch

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import TensorSource
from tutelage.data.views import Shift
from tutelage.errors import ConfigError
from tutelage.models.nets import cnn
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher, PrecomputedTeacher, Teacher
from tutelage.teachers.base import HasParts
from tutelage.teachers.precomputed import precompute
from tutelage.types import Signal


@pytest.fixture(scope="module")
def live():
    torch.manual_seed(0)
    return ModuleTeacher(
        cnn(3, width=4), Classification(num_classes=3), chunk=8, layers=("stage1", "pool")
    )


@pytest.fixture(scope="module")
def reader():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (21, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return BatchBuilder(TensorSource(inputs, torch.arange(21) % 3))


def test_it_says_what_the_live_one_says_in_any_order(live, reader):
    remembered = precompute(live, reader, batch_size=10)
    ids = torch.tensor([20, 3, 3, 0])
    batch = reader[ids, torch.zeros_like(ids)]
    said, again = live(batch), remembered(batch)
    assert torch.equal(said.logits, again.logits)
    assert said.features.keys() == again.features.keys() == {"stage1", "pool"}
    assert all(torch.equal(said.features[name], again.features[name]) for name in said.features)
    assert remembered.gives == live.gives
    assert remembered.fingerprint == live.fingerprint


def test_it_tells_the_layers_that_are_asked_for(live, reader):
    remembered = precompute(live, reader)
    ids = torch.arange(4)
    batch = reader[ids, torch.zeros_like(ids)]
    assert remembered.only(["pool"])(batch).features.keys() == {"pool"}
    silent = remembered.only([])
    assert silent.gives == {Signal.LOGITS}
    assert not silent(batch).features


def test_it_is_a_teacher_whose_parts_are_at_hand(live, reader):
    remembered = precompute(live, reader)
    assert isinstance(remembered, PrecomputedTeacher)
    assert isinstance(remembered, Teacher)
    assert isinstance(remembered, HasParts)
    assert torch.equal(remembered.part("head").weight, live.model.head.weight)


def test_several_views_are_refused(live, reader):
    with pytest.raises(ConfigError, match=r"shift\(1\) has 9"):
        precompute(live, BatchBuilder(reader.source, Shift(1)))
