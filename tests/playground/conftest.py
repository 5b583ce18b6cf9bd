"""A finished run in miniature, its playground, and a browser."""

import os
from dataclasses import replace

import pytest
import yaml

from tutelage.config import build_job, read_recipe
from tutelage.errors import MissingExtraError
from tutelage.job import MeasureSettings
from tutelage.pipeline import run_job
from tutelage.playground import find_runtime

MEASURE = MeasureSettings(batch_sizes=(1,), seconds=0.1, int8="minmax")


@pytest.fixture(scope="session")
def run(make_job, tmp_path_factory):
    """A run with exported networks, the student in int8 too."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_job(make_job(out, seeds=(0,), has_baseline=False, codec=None, measure=MEASURE))
    return out


@pytest.fixture(scope="session")
def runtime():
    """ONNX Runtime Web, brought once by npm."""
    try:
        return find_runtime()
    except MissingExtraError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the playground in a browser: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def text_run(tmp_path_factory):
    """A run on texts with exported networks, the student in int8 too."""
    texts = pytest.importorskip("texts")
    folder = tmp_path_factory.mktemp("texts")
    for part, count, first in (("train", 48, 0), ("valid", 12, 200), ("test", 20, 300)):
        texts.write_csv(folder / f"data/{part}.csv", texts.snippets(count, first))
    bert = f"hf:{texts.save_transformer(folder / 'bert', layers=1)}"
    recipe = {
        "data": {"kind": "text", "path": str(folder / "data"), "max_length": 8},
        "teacher": {"model": bert, "training": {"train": {"epochs": 1, "batch_size": 8}}},
        "student": {"model": "text_cnn", "settings": {"width": 8, "filters": 4}},
        "train": {"epochs": 1, "batch_size": 8},
        "seeds": [0],
        "baseline": False,
        "measure": {"batch_sizes": [1], "seconds": 0.1, "int8": "dynamic"},
        "output": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run_job(replace(build_job(read_recipe(folder / "recipe.yaml")), has_report=False))
    return folder / "run"


@pytest.fixture(scope="session")
def open_page(browser):
    """Opens an address, waits until the networks run, and notes whatever goes wrong."""

    def open_(address, width=1280):
        page = browser.new_page(viewport={"width": width, "height": 800})
        complaints = []

        def refuse_outside(route):
            if route.request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
                return route.continue_()
            complaints.append(f"asked for {route.request.url}")
            return route.abort()

        page.route("**/*", refuse_outside)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("html[data-state=ready], html[data-state=failed]", timeout=60_000)
        return page, complaints

    return open_
