import math

import pytest
import torch

from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.engine.settings import OPTIMIZERS
from tutelage.errors import ConfigError, UnknownNameError

TOTAL = 100


def factors(**settings):
    schedule = ScheduleSettings(**settings)
    return [schedule.factor(step, TOTAL) for step in range(TOTAL)]


def test_a_constant_rate_stays():
    assert set(factors(kind="constant")) == {1.0}


def test_cosine_is_half_a_wave_from_one_to_zero():
    found = factors(kind="cosine")
    wanted = [0.5 * (1 + math.cos(math.pi * step / TOTAL)) for step in range(TOTAL)]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert found[0] == 1
    assert ScheduleSettings("cosine").factor(TOTAL, TOTAL) == pytest.approx(0, abs=1e-7)


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL)
    for factor in factors(kind="cosine"):
        assert factor == pytest.approx(scheduler.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        scheduler.step()


def test_steps_drop_at_their_shares():
    found = factors(kind="step", milestones=(0.5, 0.8), gamma=0.1)
    assert found == pytest.approx([1.0] * 50 + [0.1] * 30 + [0.01] * 20)


@pytest.mark.parametrize("kind", ["constant", "cosine", "step"])
def test_warm_up_rises_in_a_line_and_never_starts_at_zero(kind):
    found = factors(kind=kind, warmup_steps=10)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert max(found) <= 1.0


def test_cosine_after_warm_up_spends_the_rest():
    found = factors(kind="cosine", warmup_steps=20)
    assert found[60] == pytest.approx(0.5, abs=1e-6)
    assert sorted(found[20:], reverse=True) == found[20:]


def test_a_warm_up_longer_than_the_training_only_rises():
    found = [ScheduleSettings("cosine", warmup_steps=50).factor(step, 10) for step in range(10)]
    assert found == pytest.approx([(step + 1) / 50 for step in range(10)])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_is_built_with_its_settings(kind):
    settings = OptimizerSettings(kind, lr=0.5, momentum=0.3, weight_decay=0.1, nesterov=True)
    optimizer = settings.build([torch.nn.Parameter(torch.ones(2))])
    assert type(optimizer) is OPTIMIZERS[kind]
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)
    if kind == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.3, True)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_one_update_goes_down(kind):
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = OptimizerSettings(kind, lr=0.1).build([parameter])
    parameter.square().sum().backward()
    optimizer.step()
    assert (parameter.detach().abs() < torch.tensor([1.0, 2.0])).all()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_parameter_may_have_its_first_gradient_late(kind):
    early, late = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    alone = torch.nn.Parameter(torch.ones(2))
    optimizer = OptimizerSettings(kind, lr=0.1).build([early, late])
    for used in ([early], [early, late], [early, late]):
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in used).backward()
        optimizer.step()
    other = OptimizerSettings(kind, lr=0.1).build([alone])
    for _ in range(2):
        other.zero_grad()
        alone.square().sum().backward()
        other.step()
    assert torch.equal(late, alone)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSettings("adamx"), r"Unknown optimizer 'adamx'\. Did you mean 'adam"),
        (lambda: ScheduleSettings("cosin"), r"Unknown schedule 'cosin'\. Did you mean 'cosine'"),
        (lambda: TrainSettings(precision="fp16"), r"Unknown precision 'fp16'.* bf16, float32"),
        (lambda: OptimizerSettings(lr=0.0), r"optimizer.lr must be above 0, got 0.0"),
        (lambda: OptimizerSettings(lr=math.nan), r"optimizer.lr must be above 0, got nan"),
        (lambda: TrainSettings(epochs=0), r"train.epochs must be 1 or more, got 0"),
        (lambda: TrainSettings(batch_size=-1), r"train.batch_size must be 1 or more, got -1"),
        (lambda: TrainSettings(accumulate=0), r"train.accumulate must be 1 or more"),
        (lambda: TrainSettings(clip_norm=0.0), r"train.clip_norm must be above 0, got 0.0. None"),
        (lambda: TrainSettings(clip_norm=math.nan), r"train.clip_norm must be above 0, got nan"),
        (lambda: TrainSettings(max_norm=-1.0), r"train.max_norm must be above 0, got -1.0"),
        (lambda: TrainSettings(workers=-1), r"train.workers must be 0 or more, got -1"),
        (lambda: TrainSettings(checkpoint_s=-1.0), r"train.checkpoint_s must be 0 or more"),
        (lambda: OptimizerSettings(lr=math.inf), r"optimizer.lr must be above 0, got inf"),
        (lambda: OptimizerSettings(weight_decay=-0.1), r"weight_decay must be 0 or more, got -0.1"),
        (lambda: OptimizerSettings("sgd", momentum=1.0), r"momentum must be 0 or more and below 1"),
        (lambda: OptimizerSettings("dot", delta=-0.1), r"delta must be 0 or more and below 1"),
        (
            lambda: OptimizerSettings("sgd", momentum=0.0, nesterov=True),
            r"optimizer.nesterov needs a momentum above 0",
        ),
        (lambda: ScheduleSettings(warmup_steps=-1), r"warmup_steps must be a whole number, 0 or"),
        (
            lambda: ScheduleSettings(milestones=(30.0,)),
            r"milestones must be .* got \[30.0\]",
        ),
        (lambda: ScheduleSettings(gamma=0.0), r"schedule.gamma must be above 0, got 0.0"),
        (lambda: TrainSettings(ema=1.0), r"train.ema must lie between 0 and 1, got 1.0"),
        (lambda: TrainSettings(ema=0.0), r"train.ema must lie between 0 and 1, got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert isinstance(caught.value, UnknownNameError) == message.startswith("Unknown")
