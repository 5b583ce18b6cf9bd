"""The playground in a real browser: its numbers are those of Python for the same pixels."""

import base64
import io
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.images import decode
from tutelage.deploy import open_session, run_session
from tutelage.losses.divergences import kl_divergence, soften
from tutelage.playground import write_folder, write_single_file
from tutelage.playground.serve import make_server
from tutelage.records import RunRecord, load_record, save_record

SIZE = 6
FILES = {
    "teacher": "teacher.onnx",
    "distilled": "student.onnx",
    "distilled int8": "student.int8.onnx",
}
READ_BARS = """() => [...document.querySelectorAll('#bars td')].map((cell) => ({
  network: cell.dataset.network,
  index: Number(cell.dataset.class),
  value: Number(cell.querySelector('.value').textContent),
  width: cell.querySelector('.fill').getBoundingClientRect().width
    / cell.querySelector('.track').getBoundingClientRect().width,
}))"""
DROP = """async ([encoded, name]) => {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: 'image/png' }));
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
  document.getElementById('paper').dispatchEvent(new DragEvent('drop', options));
}"""
DECODE = """async ([encoded, channels, size]) => {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: 'none' });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
  canvas.drawImage(bitmap, 0, 0);
  const image = canvas.getImageData(0, 0, bitmap.width, bitmap.height);
  return [...toPixels(image, channels, size)];
}"""


@pytest.fixture(scope="module")
def opened(run, runtime, open_page, tmp_path_factory):
    """The single file, opened as a file."""
    written = write_single_file(run, tmp_path_factory.mktemp("page") / "page.html", runtime)
    page, complaints = open_page(written.page.as_uri())
    assert page.locator("#status").text_content().startswith("Ready")
    return page, complaints


def settle(page):
    page.wait_for_function("() => document.documentElement.dataset.state === 'ready'")


def noise(width, height, mode="RGB", seed=0):
    channels = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(content):
    return base64.b64encode(content).decode()


def python_logits(run, pixels):
    inputs = (np.array(pixels, dtype=np.float32) / np.float32(255)).reshape(1, 1, SIZE, SIZE)
    return {
        name: torch.from_numpy(
            run_session(open_session(run / "export" / file, threads=1), inputs)[0]
        )
        for name, file in FILES.items()
    }


def check(page, run, temperature):
    """Bars, picks and divergence against Python's numbers for the pixels that the page shows."""
    expected = python_logits(run, page.evaluate("() => playground.pixels"))
    given = page.evaluate("() => playground.logits")
    bars = page.evaluate(READ_BARS)
    assert len(bars) == 3 * len(FILES)
    for name, logits in expected.items():
        assert given[name] == pytest.approx(logits.tolist(), abs=1e-5)
        probabilities = soften(logits, temperature).tolist()
        own = {bar["index"]: bar for bar in bars if bar["network"] == name}
        for index, probability in enumerate(probabilities):
            assert own[index]["value"] == pytest.approx(probability, abs=6e-4)
            assert own[index]["width"] == pytest.approx(probability, abs=0.02)
        pick = page.locator(f'[data-pick="{name}"] strong').text_content()
        assert pick == ("left", "middle", "right")[int(logits.argmax())]
    shown = page.locator("#facts tr", has_text="KL").locator("td").all_text_contents()
    rows = [expected[name][None] for name in FILES]
    divergence = kl_divergence(rows[1], rows[0], temperature) / temperature**2
    assert float(shown[1]) == pytest.approx(float(divergence), abs=2e-4)


def draw(page, *points):
    page.evaluate("() => scrollTo(0, 0)")
    box = page.locator("#paper").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()
    settle(page)


def set_slider(page, temperature):
    page.locator("#temperature").evaluate(
        "(slider, value) => { slider.value = value;"
        " slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        str(temperature),
    )


def test_test_pictures_give_the_logits_of_python(opened, run):
    page, complaints = opened
    assert page.evaluate("() => playground.difference") < 1e-5
    assert "gives the same logits" in page.locator("#check").text_content()
    for number in range(page.locator("[data-sample]").count()):
        page.locator(f'[data-sample="{number}"]').click()
        page.wait_for_selector(f'[data-sample="{number}"][aria-pressed=true]')
        settle(page)
        check(page, run, page.evaluate("() => playground.temperature"))
    assert complaints == []


def test_a_drawing_is_classified_as_python_does(opened, run):
    page, complaints = opened
    before = page.evaluate("() => playground.pixels")
    draw(page, (0.1, 0.2), (0.15, 0.9))
    after = page.evaluate("() => playground.pixels")
    assert after != before
    assert max(after) > 100
    check(page, run, 4.0)
    draw(page, (0.6, 0.2), (0.9, 0.5))
    assert page.evaluate("() => playground.pixels") != after
    page.get_by_role("button", name="Undo a stroke").click()
    settle(page)
    assert page.evaluate("() => playground.pixels") == after
    page.get_by_role("button", name="Clear").click()
    settle(page)
    assert max(page.evaluate("() => playground.pixels")) == 0
    assert complaints == []


def test_a_drawing_is_scaled_and_moved_like_the_runs_pictures(opened):
    page, _ = opened
    seen = []
    for shift, scale in ((0.0, 1.0), (0.5, 0.3)):
        page.get_by_role("button", name="Clear").click()
        corners = [(0.1, 0.1), (0.8, 0.1), (0.8, 0.9)]
        draw(page, *[(shift + scale * x, shift + scale * y) for x, y in corners])
        seen.append(np.array(page.evaluate("() => playground.pixels"), dtype=float))
    assert np.abs(seen[0] - seen[1]).max() < 40


def test_the_slider_moves_the_bars(opened, run):
    page, complaints = opened
    draw(page, (0.5, 0.1), (0.5, 0.9))
    for temperature in (0.5, 7.3, 20.0):
        set_slider(page, temperature)
        assert float(page.locator("#temperature-value").text_content()) == temperature
        check(page, run, temperature)
    page.get_by_role("button", name="this run's 4").click()
    check(page, run, 4.0)
    assert complaints == []


def test_a_dropped_picture_is_read_as_the_training_data_are(opened, run, tmp_path):
    page, complaints = opened
    content = noise(37, 23)
    (tmp_path / "noise.png").write_bytes(content)
    page.evaluate(DROP, [encoded(content), "noise.png"])
    page.wait_for_function(
        "() => document.getElementById('seen-title').textContent === 'noise.png'"
    )
    settle(page)
    expected = decode(tmp_path / "noise.png", SIZE, 1).flatten().tolist()
    assert page.evaluate("() => playground.pixels") == expected
    check(page, run, page.evaluate("() => playground.temperature"))
    page.get_by_label("Swap light and dark").check()
    settle(page)
    assert page.evaluate("() => playground.pixels") == [255 - value for value in expected]
    page.get_by_label("Swap light and dark").uncheck()
    assert complaints == []


def test_what_is_no_picture_is_said_so(opened):
    page, complaints = opened
    page.evaluate(DROP, [encoded(b"no image"), "notes.png"])
    page.wait_for_selector("#status.problem")
    assert "notes.png cannot be read as an image" in page.locator("#status").text_content()
    assert complaints == []


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("width", "height", "size"), [(28, 28, 28), (200, 131, 28), (9, 14, 32), (640, 641, 64)]
)
def test_pictures_are_resized_byte_for_byte(opened, tmp_path, channels, width, height, size):
    page, _ = opened
    content = noise(width, height, seed=width)
    (tmp_path / "noise.png").write_bytes(content)
    expected = decode(tmp_path / "noise.png", size, channels).flatten().tolist()
    assert page.evaluate(DECODE, [encoded(content), channels, size]) == expected


def test_everything_can_be_done_by_keyboard(opened, run):
    page, complaints = opened
    page.locator("#clear").focus()
    reached = []
    for _ in range(20):
        reached.append(
            page.evaluate(
                "() => document.activeElement.id || document.activeElement.dataset.sample"
            )
        )
        if reached[-1] == "1":
            page.keyboard.press("Enter")
        if reached[-1] == "temperature":
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
    assert reached[:4] == ["clear", "undo", "file", "swap"]
    assert reached.index("swap") < reached.index("0") < reached.index("temperature")
    assert "measure" in reached
    settle(page)
    assert page.locator('[data-sample="1"]').get_attribute("aria-pressed") == "true"
    assert page.locator("#temperature").get_attribute("aria-valuetext") == "temperature 4.1"
    check(page, run, 4.1)
    assert complaints == []


def test_the_answer_is_told_to_screen_readers_once_it_is_still(opened):
    page, _ = opened
    page.locator('[data-sample="0"]').click()
    settle(page)
    place = page.locator("#answer")
    assert place.get_attribute("aria-live") == "polite"
    pick = page.locator('[data-pick="teacher"] strong').text_content()
    page.wait_for_function(
        "(text) => document.getElementById('answer').textContent.startsWith(text)",
        arg=f"Teacher: {pick}, ",
    )
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, input, canvas')].filter((element) =>"
        " !(element.ariaLabel || element.textContent.trim() || element.labels?.length"
        " || element.querySelector('img')?.alt)).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_fits_the_screen(opened, width):
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    paper, picks = (page.locator(name).bounding_box() for name in ("#paper", ".picks"))
    assert picks["y"] + picks["height"] - paper["y"] < 800
    page.set_viewport_size({"width": 1280, "height": 800})


def test_size_and_latency_of_all_networks_are_shown(opened, run):
    page, _ = opened
    page.get_by_role("button", name="Measure again").click()
    page.wait_for_selector("#measure:enabled")
    for name, file in FILES.items():
        cells = page.locator(f'[data-cost="{name}"] td').all_text_contents()
        size = (run / "export" / file).stat().st_size
        assert float(cells[0].split()[0]) == pytest.approx(size / 1e3, rel=0.01)
        assert float(cells[2].removesuffix(" ms")) > 0


def test_the_folder_works_from_a_server_and_says_why_not_from_a_file(
    run, runtime, open_page, tmp_path
):
    record = load_record(run / "results.json", RunRecord)
    written = write_folder(run, tmp_path / "page", runtime)
    with make_server(written.page.parent, written.names) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, complaints = open_page(f"http://127.0.0.1:{server.server_port}/", width=375)
        server.shutdown()
    assert page.locator("h1").text_content() == record.name
    check(page, run, page.evaluate("() => playground.temperature"))
    assert complaints == []
    page, _ = open_page(written.page.as_uri())
    assert "--single-file" in page.locator("#status").text_content()


def test_hostile_names_run_nothing(run, runtime, open_page, tmp_path):
    bad = "</script><script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>"
    record = load_record(run / "results.json", RunRecord)
    shutil.copytree(run / "export", tmp_path / "export")
    hostile = replace(record, name=bad, class_names=[bad, "middle", "right"])
    save_record(tmp_path / "results.json", hostile)
    written = write_single_file(tmp_path, tmp_path / "page.html", runtime)
    page, complaints = open_page(written.page.as_uri())
    assert page.evaluate("() => window.stolen") is None
    assert page.locator("h1").text_content() == bad
    assert complaints == []
