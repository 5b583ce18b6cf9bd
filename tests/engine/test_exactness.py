import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.data.loading import BatchBuilder
from tutelage.data.randomness import draws_as_tensors, seeded_draws, set_draws
from tutelage.data.sources import TensorSource
from tutelage.data.views import Shift
from tutelage.engine import Arm, OptimizerSettings, TrainSettings, fit
from tutelage.engine.events import Advanced
from tutelage.engine.interrupt import Interrupted
from tutelage.errors import CacheError, TrainingError
from tutelage.inputs import ImageInputs
from tutelage.losses import KD, CrossEntropy
from tutelage.models.nets import cnn, mlp
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec

TASK = Classification(num_classes=4)
CPU = torch.device("cpu")


@pytest.fixture
def reader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (70, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (70,), generator=generator)
    return BatchBuilder(
        TensorSource(images, labels), Shift(1), inputs=ImageInputs([0.5], [0.3]), num_classes=4
    )


def _net(kind):
    torch.manual_seed(1)
    return mlp(4, image_size=8, hidden=(16,), dropout=0.2) if kind == "mlp" else cnn(4, width=4)


def _arm(reader, folder, teacher, **settings):
    chosen = {"epochs": 3, "batch_size": 16, "optimizer": OptimizerSettings(lr=0.01)} | settings
    return Arm(
        name="distilled",
        seed=3,
        objective=0.1 * CrossEntropy() + 0.9 * KD(4.0),
        task=TASK,
        settings=TrainSettings(**chosen),
        train=reader,
        valid=replace_views(reader),
        teacher=teacher,
        folder=folder,
        key="k",
    )


def replace_views(reader):
    return BatchBuilder(reader.source, inputs=ImageInputs([0.5], [0.3]), num_classes=4)


def _teacher():
    torch.manual_seed(7)
    return ModuleTeacher(cnn(4, width=8), TASK, chunk=16)


def _same(first: nn.Module, second: nn.Module):
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_training_from_a_float32_cache_equals_live_training_bit_for_bit(reader, tmp_path, kind):
    live = _teacher()
    codec = make_codec("float32")
    build_cache(tmp_path / "cache", live, reader, codec, device=CPU, shard_bytes=4096)
    cached = CachedTeacher(tmp_path / "cache", cache_key(live, reader, codec))
    assert len(cached.manifest.shards) > 1
    first = fit(_net(kind), _arm(reader, tmp_path / "live", live))
    second = fit(_net(kind), _arm(reader, tmp_path / "cached", cached))
    assert _same(first.last, second.last)
    assert not _same(first.last, _net(kind).eval())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mlp", {}),
        ("mlp", {"accumulate": 2}),
        ("mlp", {"accumulate": 4}),
        ("cnn", {"ema": 0.9}),
        ("mlp", {"clip_norm": 0.1}),
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(reader, tmp_path, kind, changes):
    whole = fit(_net(kind), _arm(reader, tmp_path / "whole", _teacher(), **changes))

    def stop(event):
        if isinstance(event, Advanced) and event.done == 7:
            os.kill(os.getpid(), signal.SIGINT)

    arm = _arm(reader, tmp_path / "cut", _teacher(), **changes)
    with pytest.raises(Interrupted, match="state is saved"):
        fit(_net(kind), arm, stop)
    resumed = fit(_net(kind), arm)
    assert _same(whole.last, resumed.last)
    assert _same(whole.selected, resumed.selected)
    assert [p.train_loss for p in whole.progress.curve] == [
        p.train_loss for p in resumed.progress.curve
    ]


class _Drops(nn.Module):
    """Leaves a block out now and then, by NumPy's numbers: the tests' type checks draw Python's."""

    def __init__(self):
        super().__init__()
        self.net, self.block = _net("mlp"), nn.Linear(4, 4)

    def forward(self, inputs):
        logits = self.net(inputs)
        if not self.training or np.random.rand() < 0.5:  # noqa: NPY002
            logits = logits + self.block(logits)
        return logits * (1 + 0.01 * np.random.randn()) if self.training else logits  # noqa: NPY002


def _dropping():
    torch.manual_seed(2)
    return _Drops()


def test_draws_of_numpy_are_seeded_resumed_and_left_alone(reader, tmp_path):
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    whole = fit(_dropping(), _arm(reader, tmp_path / "whole", _teacher()))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002

    def stop(event):
        if isinstance(event, Advanced) and event.done == 7:
            os.kill(os.getpid(), signal.SIGINT)

    arm = _arm(reader, tmp_path / "cut", _teacher())
    with pytest.raises(Interrupted, match="state is saved"):
        fit(_dropping(), arm, stop)
    assert _same(whole.last, fit(_dropping(), arm).last)


def test_draws_go_on_from_tensors_where_they_stood():
    with seeded_draws(4):
        random.gauss(0, 1), np.random.randn()  # noqa: NPY002 - half of a pair is kept each
        kept = draws_as_tensors()
        wanted = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]  # noqa: NPY002
        set_draws(kept)
        again = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]  # noqa: NPY002
    assert again == wanted


def test_a_loss_that_is_not_finite_stops_the_training(reader, tmp_path):
    arm = _arm(reader, tmp_path, _teacher(), optimizer=OptimizerSettings(kind="sgd", lr=1e30))
    with pytest.raises(TrainingError, match=r"distilled, seed 3: the loss is .* in epoch"):
        fit(_net("mlp"), arm)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_teacher_does_not_change(reader):
    teacher = _teacher()
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    batch = reader[torch.arange(20), torch.arange(20) % 9]
    first, second = teacher(batch).logits, teacher(batch).logits
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in teacher.model.state_dict().items())


def test_a_cache_of_something_else_or_a_flipped_byte_is_refused(reader, tmp_path):
    live, codec = _teacher(), make_codec("float16")
    build_cache(tmp_path, live, reader, codec, device=CPU)
    wanted = cache_key(live, reader, codec)
    for name in ("teacher", "data", "views", "codec"):
        with pytest.raises(CacheError, match=f"another {name}"):
            CachedTeacher(tmp_path, replace(wanted, **{name: "other"}))
    shard = next(tmp_path.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheError, match="damaged"):
        CachedTeacher(tmp_path, wanted)


def test_topk_keeps_the_tail_mass(reader, tmp_path):
    live, codec = _teacher(), make_codec("topk:2")
    manifest = build_cache(tmp_path, live, reader, codec, device=CPU)
    batch = reader[torch.arange(30), torch.arange(30) % 9]
    kept = torch.softmax(CachedTeacher(tmp_path)(batch).logits, dim=-1)
    exact = torch.softmax(live(batch).logits, dim=-1)
    best = exact.topk(2).indices
    torch.testing.assert_close(kept.gather(1, best), exact.gather(1, best), rtol=3e-3, atol=1e-4)
    assert manifest.kl_to_live >= 0
