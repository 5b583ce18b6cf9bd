import os
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import TensorSource
from tutelage.deploy import export_checked
from tutelage.engine import Arm, OptimizerSettings, TrainingModule, TrainSettings, fit
from tutelage.engine.events import Advanced
from tutelage.engine.fit import CHECKPOINT
from tutelage.engine.interrupt import Interrupted
from tutelage.engine.prepare import prepare
from tutelage.errors import ConfigError, ShapeError, SignalError, UnknownNameError
from tutelage.inputs import ImageInputs
from tutelage.losses import (
    CRD,
    FSP,
    KD,
    OFA,
    SRD,
    AttentionTransfer,
    AuxiliaryHeads,
    CRDMemory,
    CrossEntropy,
    FactorTransfer,
    FitNets,
    ReviewKD,
    SimilarityPreserving,
    SimKD,
    VkD,
)
from tutelage.models.nets import cnn, mlp
from tutelage.objective import Objective
from tutelage.pipeline.api import distill
from tutelage.pipeline.training import save_weights
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers.build import build_cache
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.module import InputAdapter

TASK = Classification(num_classes=4)
CPU = torch.device("cpu")


@pytest.fixture
def reader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (40,), generator=generator)
    return BatchBuilder(
        TensorSource(images, labels), inputs=ImageInputs([0.5], [0.3]), num_classes=4
    )


@pytest.fixture
def batch(reader):
    return reader[torch.arange(16), torch.zeros(16, dtype=torch.long)]


def student():
    torch.manual_seed(1)
    return cnn(4, width=4)


def teacher(objective, model=None):
    torch.manual_seed(7)
    network = model or cnn(4, width=8)
    return ModuleTeacher(network, TASK, chunk=16, layers=objective.teacher_layers)


def prepared(objective, batch, net=None, wise=None):
    wise = wise or teacher(objective)
    net = prepare(net or student(), objective, TASK, batch, teacher=wise, num_samples=40)
    return TrainingModule(net, objective, TASK), wise


MANY = [
    lambda: FitNets("stage1"),
    lambda: CRDMemory("pool", width=8, negatives=12),
    lambda: ReviewKD(("stage1", "stage2", "pool")),
    lambda: VkD("pool"),
    lambda: FactorTransfer("stage2"),
    lambda: OFA(("stage1", "stage2")),
    lambda: AuxiliaryHeads(("stage1",)),
    lambda: SimKD(("pool", "head")),
]
every = pytest.mark.parametrize("make", MANY)


@every
def test_adapters_are_trained_with_the_student(make, batch):
    objective = 0.1 * CrossEntropy() + 1.0 * make()
    trainee, wise = prepared(objective, batch)
    before = {name: p.detach().clone() for name, p in trainee.named_parameters() if p.requires_grad}
    own = [n for n in before if n.startswith("objective.") or "projector" in n]
    assert own
    optimizer = torch.optim.SGD(trainee.parameters(), lr=1.0)
    trainee(batch, wise(batch)).total.backward()
    optimizer.step()
    after = dict(trainee.named_parameters())
    still = [name for name in own if torch.equal(before[name], after[name])]
    assert still == []


@every
def test_the_student_given_is_not_changed(make, batch):
    net = student()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prepared(1.0 * make(), batch, net)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@every
def test_equal_seeds_make_equal_adapters(make, batch):
    first, second = 1.0 * make(), 1.0 * make()
    twins = [prepared(objective, batch)[0].state_dict() for objective in (first, second)]
    assert all(torch.equal(value, twins[1][name]) for name, value in twins[0].items())


def arm(reader, folder, objective, wise, **settings):
    chosen = {"epochs": 3, "batch_size": 16, "optimizer": OptimizerSettings(lr=0.01)} | settings
    return Arm(
        name="distilled",
        seed=3,
        objective=objective,
        task=TASK,
        settings=TrainSettings(**chosen),
        train=reader,
        valid=None,
        teacher=wise,
        folder=folder,
        key="k",
    )


def trained(reader, batch, folder, make, listener=None):
    objective = 0.5 * CrossEntropy() + 1.0 * make()
    trainee, wise = prepared(objective, batch)
    this = arm(reader, folder, objective, wise)
    fitted = fit(trainee.student, this, listener) if listener else fit(trainee.student, this)
    return fitted.last, objective


@every
def test_an_interrupted_training_ends_as_an_uninterrupted_one(make, reader, batch, tmp_path):
    def stop(event):
        if isinstance(event, Advanced) and event.done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    whole, objective = trained(reader, batch, tmp_path / "whole", make)
    with pytest.raises(Interrupted, match="state is saved"):
        trained(reader, batch, tmp_path / "cut", make, stop)
    resumed, again = trained(reader, batch, tmp_path / "cut", make)
    for one, other in ((whole, resumed), (objective, again)):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_adapters_are_in_the_checkpoint_and_not_in_the_student(reader, batch, tmp_path):
    last, _ = trained(reader, batch, tmp_path, lambda: CRDMemory("pool", width=8, negatives=12))
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        names = set(file.keys())
    for part in ("memory", "labels", "scale", "embeddings.student.linear.weight"):
        assert f"trainee/objective.losses.crd_memory.{part}" in names
    save_weights(last, tmp_path / "student.safetensors")
    with safe_open(tmp_path / "student.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(student().state_dict())


def test_the_memory_holds_what_was_seen(reader, batch, tmp_path):
    _, objective = trained(
        reader, batch, tmp_path, lambda: CRDMemory("pool", width=8, negatives=12)
    )
    memory = objective.terms[1].loss
    assert torch.equal(memory.labels, reader.source.fetch(torch.arange(40))[1])
    torch.testing.assert_close(memory.memory.norm(dim=-1), torch.ones(2, 40))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FitNets("stage11"), UnknownNameError, "Did you mean 'stage1"),
        (lambda: FitNets("stage1", "stag2"), UnknownNameError, "Did you mean 'stage2"),
        (lambda: FitNets("stage1", "pool"), ShapeError, "Name two layers that give vectors"),
        (lambda: AttentionTransfer("pool"), ShapeError, "but it takes maps"),
        (lambda: FSP(("stage1", "stage2")), ShapeError, r"\[4, 8\] channels, the teacher's \[8,"),
        (lambda: SimKD("head", "pool"), ShapeError, "parts that take vectors"),
        (lambda: SimKD(("pool", "tail")), UnknownNameError, "Unknown (part|layer) of Sequential"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(make, error, message, batch):
    objective = 1.0 * make()
    with pytest.raises(error, match=message):  # noqa: PT012
        trainee, wise = prepared(objective, batch)
        trainee(batch, wise(batch))


def test_a_teacher_narrower_than_the_student_is_refused_where_it_matters(batch):
    objective = 1.0 * VkD("pool")
    with pytest.raises(ShapeError, match="is 8 wide, the teacher's 4"):
        prepared(objective, batch, wise=teacher(objective, cnn(4, width=2)))


@pytest.mark.parametrize("make", [CRD, SRD, SimilarityPreserving])
def test_batches_of_one_are_refused_where_samples_are_related(make, reader):
    one = reader[torch.arange(1), torch.zeros(1, dtype=torch.long)]
    with pytest.raises(ConfigError, match=r"relates the samples .* a batch holds 1"):
        prepared(1.0 * make("pool"), one)


def test_a_memory_needs_to_know_how_many_samples_there_are(batch):
    objective = 1.0 * CRDMemory("pool")
    with pytest.raises(ConfigError, match="remembers every training sample, but there are 0"):
        prepare(student(), objective, TASK, batch, teacher=teacher(objective))


@every
def test_a_loss_that_was_not_built_says_so(make, batch):
    loss = make()
    objective = 1.0 * loss
    net, wise = student(), teacher(objective)
    with pytest.raises((ConfigError, ShapeError), match=r"no adapters yet|wrap gives"):
        loss(TASK.run(net, batch, loss.student_layers), wise(batch), batch)


def test_a_loss_on_features_without_a_teacher_is_refused(batch):
    with pytest.raises(SignalError, match="'fitnets' needs features of the teacher's layer stage1"):
        prepare(student(), 1.0 * FitNets("stage1"), TASK, batch)


@pytest.mark.parametrize("make", [FitNets, AttentionTransfer, lambda _: SimKD("head")])
def test_a_cached_teacher_is_refused_before_any_training(make, reader, tmp_path):
    live = teacher(1.0 * KD())
    codec = make_codec("float32")
    build_cache(tmp_path / "cache", live, reader, codec, device=CPU)
    with pytest.raises(SignalError, match=r"needs features, but .*Teach live \(cache: null\)"):
        fit(
            student(),
            arm(reader, tmp_path, 1.0 * make("stage1"), CachedTeacher(tmp_path / "cache")),
        )
    assert not list(tmp_path.glob("*.safetensors"))
    inputs, labels = reader.source.fetch(torch.arange(40))
    with pytest.raises(SignalError, match="needs features, but a cached teacher"):
        distill(
            live.model,
            student(),
            (inputs, labels),
            objective=1.0 * make("stage1"),
            codec="float32",
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run" / "arms").exists()


def test_layers_of_a_teacher_that_sees_other_inputs_keep_their_names(batch):
    objective: Objective = 1.0 * FitNets("stage1") + 1.0 * SimKD("head")
    inner = cnn(4, width=8)
    outer = InputAdapter(inner, data_norm=None, own_norm=((0.5,), (0.2,)), image_size=16)
    trainee, wise = prepared(objective, batch, wise=teacher(objective, outer))
    given = wise(batch)
    assert set(given.features) == {"stage1", "head:input"}
    assert given.features["stage1"].shape == (16, 8, 8, 8)
    assert trainee(batch, given).total.isfinite()


def test_features_do_not_depend_on_the_teachers_chunks(batch):
    objective = 1.0 * AttentionTransfer(("stage1", "stage2"))
    whole = teacher(objective)
    parts = ModuleTeacher(whole.model, TASK, chunk=5, layers=objective.teacher_layers)
    for layer, feature in whole(batch).features.items():
        torch.testing.assert_close(parts(batch).features[layer], feature)


# SimKD: what is trained is what is delivered


@pytest.mark.parametrize("parts", ["head", ("pool", "head")])
def test_simkd_delivers_the_teachers_classifier_and_exports(parts, reader, batch, tmp_path):
    objective = 1.0 * SimKD(parts)
    trainee, wise = prepared(objective, batch)
    classifier = {name: p.clone() for name, p in wise.model.head.state_dict().items()}
    last = fit(trainee.student, arm(reader, tmp_path, objective, wise)).last
    delivered = last.get_submodule("head.classifier" if parts == "head" else "head").part
    for name, value in delivered.state_dict().items():
        assert torch.equal(value, classifier[name])
    row = export_checked(last, [batch.inputs], tmp_path / "net.onnx", name="student")
    assert row.agreement == 1.0
    assert row.max_abs_difference < 1e-4


def test_simkd_equals_the_teacher_where_the_features_do(batch):
    objective = 1.0 * SimKD("head")
    trainee, wise = prepared(objective, batch)
    trainee.student.head.projector = nn.Identity()
    trainee.student.stage1, trainee.student.stage2 = wise.model.stage1, wise.model.stage2
    trainee.eval()
    report = trainee(batch, wise(batch))
    assert float(report.total) == 0
    assert torch.equal(TASK.run(trainee.student, batch).logits, wise(batch).logits)


def test_a_batch_norm_among_the_teachers_parts_does_not_learn(batch):
    torch.manual_seed(0)
    tail = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 4))
    model = cnn(4, width=8)
    model.head = tail
    objective = 1.0 * SimKD("head")
    trainee, wise = prepared(objective, batch, wise=teacher(objective, model))
    trainee.train()
    trainee(batch, wise(batch))
    part = trainee.student.head.classifier.part
    assert int(part[0].num_batches_tracked) == 0
    assert not any(parameter.requires_grad for parameter in part.parameters())


def test_simkd_runs_from_the_short_call_to_the_delivered_network(reader, tmp_path):
    inputs, labels = reader.source.fetch(torch.arange(40))
    done = distill(
        cnn(4, width=8),
        student(),
        (inputs, labels),
        objective=1.0 * SimKD(("pool", "head")),
        codec=None,
        epochs=1,
        seeds=(0,),
        out=tmp_path,
    )
    assert "head.part.weight" in done.student.state_dict()
    assert np.isfinite(done.student(batch_of(inputs)).detach().numpy()).all()


def batch_of(inputs):
    return inputs[:4].float() / 255


def test_unlike_architectures_meet_on_vectors_and_logits(reader, batch):
    torch.manual_seed(0)
    objective = 1.0 * SRD("hidden1", "pool") + 1.0 * OFA(("hidden1", "hidden2"))
    net = mlp(4, image_size=8, hidden=(12, 10))
    trainee, wise = prepared(objective, batch, net)
    trainee(batch, wise(batch)).total.backward()
    assert net.flatten is not None
    assert all(p.grad is not None for p in trainee.parameters())


def test_adapters_fit_the_network_that_is_trained_whatever_the_order(batch):
    # SimKD replaces the pool, so that it gives the teacher's width.
    for terms in (
        (SimKD(("pool", "head")), FitNets("pool")),
        (FitNets("pool"), SimKD(("pool", "head"))),
    ):
        objective = 1.0 * terms[0] + 1.0 * terms[1] + 1.0 * CRDMemory("pool", negatives=5)
        trainee, wise = prepared(objective, batch)
        assert trainee(batch, wise(batch)).total.isfinite()
