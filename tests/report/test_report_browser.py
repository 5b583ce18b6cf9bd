"""The page in a real browser, without a network: the slider's bars are those that Python gives."""

from dataclasses import replace

import pytest
import torch

from tutelage.losses.divergences import soften
from tutelage.report import write_report

READ_BARS = """() => [...document.querySelectorAll('td[data-class]')].map((cell) => ({
  sample: Number(cell.closest('[data-sample]').dataset.sample),
  network: cell.dataset.network,
  index: cell.dataset.class,
  value: Number(cell.querySelector('.value').textContent),
  width: cell.querySelector('.fill').getBoundingClientRect().width
    / cell.querySelector('.track').getBoundingClientRect().width,
}))"""


@pytest.fixture(scope="module")
def open_report(browser, tmp_path_factory):
    """Open a record's report; note console messages, page errors and requests outside."""

    def open_(record, width=1280):
        path = tmp_path_factory.mktemp("report") / "report.html"
        write_report(record, path)
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints = []

        def refuse_outside(route):
            if route.request.url.startswith(("file:", "data:")):
                return route.continue_()
            complaints.append(f"asked for {route.request.url}")
            return route.abort()

        page.route("**/*", refuse_outside)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html.charts-drawn", state="attached")
        return page, complaints

    return open_


@pytest.fixture(scope="module")
def opened(open_report, make_record):
    """One ordinary report, opened once: record, page, complaints."""
    record = make_record()
    return record, *open_report(record)


def set_slider(page, temperature):
    page.locator("#temperature").evaluate(
        "(slider, value) => { slider.value = value;"
        " slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        str(temperature),
    )


def check_bars(page, record, temperature):
    bars = page.evaluate(READ_BARS)
    assert bars
    for bar in bars:
        logits = torch.tensor(record.samples[bar["sample"]].logits[bar["network"]])
        probabilities = soften(logits, temperature).tolist()
        if bar["index"] != "rest":
            expected = probabilities[int(bar["index"])]
        else:
            shown = {b["index"] for b in bars if b["sample"] == bar["sample"]} - {"rest"}
            expected = 1 - sum(probabilities[int(index)] for index in shown)
        assert bar["value"] == pytest.approx(expected, abs=1e-3)
        assert bar["width"] == pytest.approx(expected, abs=1e-3)


def test_the_bars_start_at_the_runs_temperature(opened):
    record, page, complaints = opened
    assert page.locator("#temperature-value").text_content() == "4"
    check_bars(page, record, 4.0)
    assert page.locator("[data-chart] svg.main-svg").count() >= 8
    assert complaints == []


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_moving_the_slider_recomputes_every_bar(opened, temperature):
    record, page, complaints = opened
    set_slider(page, temperature)
    assert float(page.locator("#temperature-value").text_content()) == temperature
    check_bars(page, record, temperature)
    assert complaints == []


def test_the_slider_moves_by_keyboard_and_says_its_value(opened):
    record, page, complaints = opened
    set_slider(page, 4.0)
    page.get_by_label("Temperature", exact=True).press("ArrowRight")
    assert page.locator("#temperature-value").text_content() == "4.1"
    assert page.locator("#temperature").get_attribute("aria-valuetext") == "temperature 4.1"
    check_bars(page, record, 4.1)
    assert complaints == []


def test_entropy_grows_to_that_of_an_even_guess(opened):
    _, page, _ = opened
    cell = page.locator("td[data-network=teacher][data-fact=entropy]").first
    page.get_by_role("button", name="1", exact=True).click()
    sharp = float(cell.text_content())
    page.get_by_role("button", name="20", exact=True).click()
    assert sharp < float(cell.text_content()) <= 2.303


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen(opened, width):
    _, page, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_many_classes_fit_a_phone_and_the_rest_is_one_bar(open_report, make_record):
    record = make_record(classes=120, seeds=2)
    page, complaints = open_report(record, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    check_bars(page, record, 4.0)
    assert complaints == []


def test_a_bare_run_draws_without_error(open_report, make_record):
    record = make_record(classes=2, seeds=1, students=("distilled",), is_validated=False, epochs=1)
    page, complaints = open_report(record)
    assert page.locator("[data-chart] svg.main-svg").count() > 0
    assert complaints == []


def test_hostile_names_run_nothing_and_load_nothing(open_report, hostile_record):
    page, complaints = open_report(hostile_record)
    assert page.evaluate("window.stolen") is None
    assert complaints == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("classes", [10, 30])
def test_links_on_top_lead_to_sections_and_a_matrix_scrolls_in_its_own_frame(
    open_report, make_record, width, classes
):
    record = make_record(classes=classes)
    names = ["<i>a</i> class with a long name", *record.class_names[1:]]
    page, complaints = open_report(replace(record, class_names=names), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator('nav a[href="#confusion"]').click()
    heading = page.locator("h2#confusion")
    assert 0 <= heading.evaluate("(e) => e.getBoundingClientRect().top") < 900
    assert page.locator(".matrix tbody tr").count() == classes
    assert page.locator(".matrix i").count() == 0
    assert complaints == []
    page.close()
