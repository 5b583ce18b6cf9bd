"""What a recipe names besides networks: views, data, codecs and targets, built in or one's own."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.config.data import OwnData
from tutelage.config.making import make
from tutelage.config.schema import Cache, Optimizer, Schedule, Train, Views
from tutelage.data.given import splits_of
from tutelage.data.labels import LabelKind
from tutelage.data.sources import Splits
from tutelage.data.views import VIEWS, ViewPolicy, check_policy
from tutelage.deploy.targets import TARGETS, register_target
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.errors import ConfigError, find
from tutelage.models.own import is_own, own_name, own_object
from tutelage.teachers.codecs import register_codec

OF_A_NUMBER = ("topk", "sampled")  # codecs with a number behind the colon


def target_of(name: str, folder: Path) -> str:
    """The name of a target, which is registered where it is one of the user's own."""
    what = f"export.targets: {name!r}"
    if is_own(name):
        return register_target(make(what, own_object(name, what, folder), {}), what)
    find("export.targets", name, TARGETS)
    return name


def codec_of(cache: Cache | None, folder: Path) -> str | None:
    """The name of the codec, which is registered where it is one of the user's own."""
    if cache is None:
        return None
    name = cache.codec
    if not is_own(name) or name.partition(":")[0] in OF_A_NUMBER:
        return name
    what = f"cache.codec: {name!r}"
    return register_codec(make(what, own_object(name, what, folder), {}), what)


def own_data(data: OwnData, kind: LabelKind, folder: Path) -> Splits:
    """The parts that a user's own function gives."""
    what = f"data kind {data.load!r}"
    found = make(what, own_object(data.load, what, folder), data.options)
    shares = data.model_dump(include={"valid_fraction", "test_fraction", "seed"})
    return splits_of(found, what, kind, **shares)


def views_of(views: Views, facts: Mapping[str, Any], folder: Path) -> ViewPolicy:
    """The view policy that a recipe names."""
    what = f"views {views.kind!r}"
    if is_own(views.kind):
        factory = own_object(views.kind, what, folder)
    else:
        factory = find("views", views.kind, VIEWS)
    settings = dict(views.model_extra or {})
    if "image_size" in inspect.signature(factory).parameters:
        settings.setdefault("image_size", facts.get("image_size"))
    policy = make(what, factory, settings)
    if not isinstance(policy, ViewPolicy):
        raise ConfigError(
            f"{what}: it makes a {type(policy).__name__}, not a tutelage.ViewPolicy. Derive your "
            "class from it, or wrap a pipeline of torchvision in tutelage.SeededViews."
        )
    check_policy(policy, what)
    return policy


def train_settings(
    train: Train, optimizer: Optimizer, schedule: Schedule, folder: Path = Path()
) -> TrainSettings:
    """The engine's settings of a recipe's three parts.

    Args:
        train: Length, batches, precision.
        optimizer: The optimizer.
        schedule: The schedule.
        folder: Where a relative file.py is looked for.
    """
    made = {**optimizer.model_dump(), "kind": own_name(optimizer.kind, folder)}
    course = {**schedule.model_dump(), "kind": own_name(schedule.kind, folder)}
    return TrainSettings(
        **train.model_dump(),
        optimizer=OptimizerSettings(**made),
        schedule=ScheduleSettings(**course),
    )
