"""A whole run in miniature, for the tests of runs and of the doctor."""

import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.data.sources import Source, Splits, TensorSource
from tutelage.data.views import Shift
from tutelage.deploy import own
from tutelage.engine import OptimizerSettings, TrainSettings
from tutelage.inputs import ImageInputs
from tutelage.job import Job, TeacherPlan
from tutelage.losses import KD, CrossEntropy
from tutelage.models.nets import mlp
from tutelage.problem import Problem

MakeJob = Callable[..., Job]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_configure() -> None:
    """Hear Ctrl-C where the tests run in the background, for which shells let it be ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright third: left, middle or right is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 160, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    for number, label in enumerate(labels.tolist()):
        images[number, :, :, 2 * label : 2 * label + 2] += 60
    return images, labels


def source(count: int, seed: int) -> Source:
    return TensorSource(*pictures(count, seed))


def settings(**changes: object) -> TrainSettings:
    chosen = {"epochs": 2, "batch_size": 16, "optimizer": OptimizerSettings(lr=0.01)}
    return TrainSettings(**(chosen | changes))


@pytest.fixture(scope="session", autouse=True)
def _notes_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests export is not noted as this user's own."""
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "_notes", lambda: folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_table_of_operators() -> Iterator[None]:
    """PyTorch's table of ONNX operators is made once, not for every export: half a second each."""
    module = pytest.importorskip("torch.onnx._internal.exporter._registration")
    with pytest.MonkeyPatch.context() as patch:
        table = functools.cache(module.ONNXRegistry.from_torchlib)
        patch.setattr(module.ONNXRegistry, "from_torchlib", staticmethod(table))
        yield


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with tiny data sets and models in the place of those from registries."""
    from homes import make_home  # needs the extra "text"

    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """Makes a job of a trained teacher, a cache and two seeds, with any part replaced."""

    def make(out: Path, **changes: object) -> Job:
        parts = {
            "name": "tiny",
            "out": out,
            "splits": Splits(
                train=source(60, 0),
                valid=source(30, 1),
                test=source(45, 2),
                class_names=("left", "middle", "right"),
                inputs=ImageInputs((0.4,), (0.3,)),
            ),
            "teacher": TeacherPlan(
                make=lambda: mlp(3, image_size=6, hidden=(24,), dropout=0.2), train=settings()
            ),
            "make_student": lambda: mlp(3, image_size=6, hidden=(4,)),
            "objective": 0.1 * CrossEntropy() + 0.9 * KD(temperature=4),
            "settings": settings(),
            "views": Shift(1),
            "seeds": (0, 1),
            "measure": None,
            "has_report": False,
        }
        given = parts | changes
        splits = given.pop("splits")
        problem = given.pop("problem", None) or Problem.of_classes(splits)
        return Job(problem=problem, **given)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, one for all tests: its driver can be started once in a process."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None and os.environ.get("CI"):
        pytest.fail("Chromium is not installed, and CI must look at the pages in a browser.")
    if path is None:
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()
