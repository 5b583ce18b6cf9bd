"""A finished run in miniature, its playground, and a browser."""

import os

import pytest

from tutelage.errors import MissingExtraError
from tutelage.job import MeasureSettings
from tutelage.pipeline import run_job
from tutelage.playground import find_runtime

MEASURE = MeasureSettings(batch_sizes=(1,), seconds=0.1, int8="minmax")


@pytest.fixture(scope="session")
def run(make_job, tmp_path_factory):
    """A run with exported networks, the student in eight bits too."""
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
