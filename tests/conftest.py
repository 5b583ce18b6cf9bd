"""What all tests share. The package is imported only where a test asks for it.

Of the processes that share the tests out, one runs none of them.
"""

import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="session", autouse=True)
def _notes_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests export is not noted as this user's own."""
    from tutelage.deploy import own

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
def make_job() -> Callable[..., Any]:
    """Makes a job of a trained teacher, a cache and two seeds, with any part replaced."""
    from jobs import make

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
