"""Settings of a training: optimizer, schedule, length, precision."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from tutelage.engine import schedules
from tutelage.engine.dot import DOT
from tutelage.engine.optimizers import check_other, make_other
from tutelage.errors import ConfigError, find
from tutelage.sharding import is_shard
from tutelage.types import PRECISIONS

OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "dot": DOT,
}


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Which optimizer, and its settings.

    Attributes:
        kind: "sgd", "adam", "adamw" or "dot" (SGD with two momenta; see `DOT`); another class of
            `torch.optim` by its name; or a class of one's own, itself or as module:Class.
        lr: Peak learning rate, above 0.
        momentum: For sgd and dot.
        weight_decay: 0 or more.
        nesterov: For sgd alone.
        delta: For dot alone: how far the two momenta lie from `momentum`.
        options: Keyword arguments of another class.
    """

    kind: str | type[Optimizer] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    delta: float = 0.075
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.kind not in OPTIMIZERS:
            check_other(self.kind, self.options, others=self._others)
        elif self.options:
            raise ConfigError(
                f"optimizer.options: {self.kind!r} takes none; its settings are keys of optimizer."
            )
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"optimizer.lr must be above 0, got {self.lr}. Usual: 0.001 to 0.1.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optimizer.weight_decay must be 0 or more, got {self.weight_decay}.")
        for name in ("momentum", "delta"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"optimizer.{name} must be 0 or more and below 1, got {getattr(self, name)}."
                )
        if self.nesterov and self.kind == "sgd" and self.momentum == 0:
            raise ConfigError("optimizer.nesterov needs a momentum above 0, got 0. Usual: 0.9.")

    @property
    def _others(self) -> dict[str, Any]:
        """Settings of built-in optimizers that were given, for the message that refuses them."""
        usual = OptimizerSettings.__dataclass_fields__
        names = ("momentum", "nesterov", "delta")
        return {n: getattr(self, n) for n in names if getattr(self, n) != usual[n].default}

    def build(self, parameters: Iterable[Tensor]) -> Optimizer:
        """The optimizer for these parameters.

        Raises:
            ConfigError: It cannot be made for them.
        """
        optimizer = self._built(list(parameters))
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return optimizer

    def _built(self, parameters: list[Tensor]) -> Optimizer:
        if self.kind not in OPTIMIZERS:
            return make_other(
                self.kind, parameters, self.options, lr=self.lr, weight_decay=self.weight_decay
            )
        settings: dict[str, float | bool] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.kind == "sgd":
            settings |= {"momentum": self.momentum, "nesterov": self.nesterov}
        if self.kind == "dot":
            settings |= {"momentum": self.momentum, "delta": self.delta}
            return DOT(parameters, **settings)
        factory: Callable[..., Optimizer] = OPTIMIZERS[str(self.kind)]
        is_fused = not any(is_shard(p) for p in parameters)  # SGD has no rule for pieces
        optimizer = factory(parameters, fused=is_fused, **settings)
        if self.kind == "sgd" and self.momentum:
            optimizer.register_step_pre_hook(_with_momenta)
        return optimizer


def _check_lengths(settings: "TrainSettings") -> None:
    """Refuse values out of range."""
    for name in ("epochs", "batch_size", "accumulate"):
        value = getattr(settings, name)
        if not (_is_whole(value) and value >= 1):
            raise ConfigError(f"train.{name} must be 1 or more, got {value}. Give a whole number.")
    if not (_is_whole(settings.workers) and settings.workers >= 0):
        raise ConfigError(
            f"train.workers must be 0 or more, got {settings.workers}. Give a whole number."
        )
    for name in ("clip_norm", "max_norm"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ConfigError(f"train.{name} must be above 0, got {value}. None sets no limit.")
    if not settings.checkpoint_s >= 0:
        raise ConfigError(f"train.checkpoint_s must be 0 or more, got {settings.checkpoint_s}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _with_momenta(optimizer: Optimizer, _arguments: Any, _settings: Any) -> None:
    """Give parameters whose first gradient comes late a zero momentum, as fused SGD requires.

    A block that is left out at random, or an expert that no row went to, has none before.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter] if parameter.grad is not None else None
            if state is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """Learning-rate schedule: a pure function of the step, without state.

    Attributes:
        kind: "constant", "cosine" (to 0) or "step"; a class of torch.optim.lr_scheduler;
            transformers:NAME of `transformers.get_scheduler`; or a function of one's own, itself
            or as module:function (see `check_schedule`).
        warmup_steps: Linear rise from 0 at the start.
        milestones: For step: shares of the training (0 to 1) after which the rate drops.
        gamma: For step: factor of each drop.
        options: Keyword arguments of another class or function. Numbers of steps that are the
            whole training's (T_max, total_steps, total_iters) are filled in.
    """

    kind: schedules.Kind = "cosine"
    warmup_steps: int = 0
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    gamma: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        schedules.check_schedule(self.kind, self.options)
        if not (_is_whole(self.warmup_steps) and self.warmup_steps >= 0):
            raise ConfigError(
                f"schedule.warmup_steps must be a whole number, 0 or more, got {self.warmup_steps}."
            )
        if not all(0 <= share <= 1 for share in self.milestones):
            raise ConfigError(
                "schedule.milestones must be shares of the training from 0 to 1, got "
                f"{list(self.milestones)}."
            )
        if not 0 < self.gamma < math.inf:
            raise ConfigError(f"schedule.gamma must be above 0, got {self.gamma}. Usual: 0.1.")

    def factor(self, step: int, total: int) -> float:
        """Share of the peak learning rate at update number `step` (from 0) of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        match self.kind:
            case "cosine":
                return 0.5 * (1 + math.cos(done * math.pi))
            case "step":
                return float(self.gamma ** sum(step >= share * total for share in self.milestones))
            case "constant":
                return 1.0
            case other:
                left, rest = step - self.warmup_steps, total - self.warmup_steps
                return schedules.table_factor(other, self.options, left, rest)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of one training.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples a micro-step.
        accumulate: Micro-steps an optimizer update, also over the end of an epoch; those that are
            left at the end of the training make a last update.
        clip_norm: Largest gradient norm; None clips nothing.
        max_norm: Largest norm of the weights that come into a unit of a linear layer, restored
            after each update; None sets no limit. Goes with dropout.
        precision: "float32", or "bf16" autocast.
        ema: Decay of an exponential moving average of the weights, which is then what is
            validated and kept; None keeps the weights themselves.
        workers: Processes that read data; 0 reads in this one.
        checkpoint_s: Seconds between checkpoints; one more is written at once when the run is
            interrupted, and one at the end of the training.
        tensorboard: Whether to write TensorBoard logs beside the curve.
        shard: Whether several processes hold a piece each of weights, gradients and optimizer
            state, for students whose training fits no single device; one process holds all.
        optimizer: Which optimizer.
        schedule: Schedule of the learning rate.
    """

    epochs: int = 20
    batch_size: int = 128
    accumulate: int = 1
    clip_norm: float | None = None
    max_norm: float | None = None
    precision: str = "float32"
    ema: float | None = None
    workers: int = 0
    checkpoint_s: float = 30.0
    tensorboard: bool = False
    shard: bool = False
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        find("precision", self.precision, PRECISIONS)
        _check_lengths(self)
        if self.clip_norm is not None and self.optimizer.kind == "dot":
            raise ConfigError(
                "train.clip_norm: the optimizer 'dot' needs the gradients as they are. Leave "
                "clip_norm out, or take sgd."
            )
        if self.shard and (self.max_norm is not None or self.optimizer.kind == "dot"):
            name = "train.max_norm" if self.max_norm is not None else "the optimizer 'dot'"
            raise ConfigError(
                f"train.shard: {name} needs each process to hold whole weights. Leave one of them "
                "out."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"train.ema must lie between 0 and 1, got {self.ema}. Usual: 0.999.")

    def most_rows(self, count: int) -> int:
        """Samples of the largest batch, which small data limit.

        Args:
            count: Samples of the training data.
        """
        return min(self.batch_size, count)
