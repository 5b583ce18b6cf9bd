"""The samples with soft targets on the page, and the classes that get a bar."""

import re
from dataclasses import dataclass, replace

from tutelage.records import RunRecord, ShownSample, SoftTargetSample
from tutelage.report import networks

MOST_BARS = 12
BARS_OF_MANY = 8
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, slots=True)
class Bar:
    """A class that gets a bar for each network."""

    index: int
    name: str
    is_label: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One sample, prepared for the page.

    Attributes:
        title: Which sample it is.
        label: Name of its class.
        image: Base64 PNG, or empty.
        text: The text, or empty.
        networks: Names of the networks with logits.
        picks: Network name to the class that it picks.
        bars: The classes shown, in this order.
        num_rest: Classes left out, shown together.
    """

    title: str
    label: str
    image: str
    text: str
    networks: list[str]
    picks: dict[str, str]
    bars: list[Bar]
    num_rest: int


@dataclass(frozen=True, slots=True)
class Slider:
    """Range of the temperature slider."""

    low: float
    high: float
    start: float


def make_slider(temperature: float) -> Slider:
    """A range from 0.5 to 20, extended to the run's temperature."""
    return Slider(low=min(0.5, temperature), high=max(20.0, 2 * temperature), start=temperature)


def make_cards(record: RunRecord) -> list[Card]:
    """One card per sample."""
    return [_make_card(record, sample) for sample in record.samples if sample.logits]


def without_bad_pictures(record: RunRecord) -> list[ShownSample]:
    """The samples with outputs in words, without images that are no base64."""
    return [
        sample if BASE64.fullmatch(sample.image_png or "") else replace(sample, image_png=None)
        for sample in record.shown
    ]


def _make_card(record: RunRecord, sample: SoftTargetSample) -> Card:
    names = network_names(sample)
    shown = _shown_classes(sample, names)
    image = sample.image_png or ""
    return Card(
        title=f"{networks.capital(record.judged_on)} sample {sample.sample_id}",
        label=networks.class_name(record, sample.label),
        image=image if BASE64.fullmatch(image) else "",
        text=sample.text or "",
        networks=names,
        picks={name: networks.class_name(record, _best(sample.logits[name])) for name in names},
        bars=[
            Bar(index, networks.class_name(record, index), is_label=index == sample.label)
            for index in shown
        ],
        num_rest=len(sample.logits[names[0]]) - len(shown),
    )


def network_names(sample: SoftTargetSample) -> list[str]:
    """The sample's networks: the known arms in order, then others."""
    known = [arm for arm in networks.ARMS if arm in sample.logits]
    return [*known, *(name for name in sample.logits if name not in known)]


def _shown_classes(sample: SoftTargetSample, names: list[str]) -> list[int]:
    logits = sample.logits[names[0]]
    if len(logits) <= MOST_BARS:
        return list(range(len(logits)))
    ranked = sorted(range(len(logits)), key=lambda index: -logits[index])
    kept = {*ranked[:BARS_OF_MANY], sample.label, *(_best(sample.logits[n]) for n in names)}
    return [index for index in ranked if index in kept]


def _best(logits: list[float]) -> int:
    return max(range(len(logits)), key=logits.__getitem__)
