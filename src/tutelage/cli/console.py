"""The terminal. Text from files and command lines is printed verbatim, never interpreted."""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Of terminals, and those that turn the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class PlainConsole(Console):
    """Prints text verbatim: square brackets are no markup, colons no emoji.

    Style is given as objects (`rich.text.Text`). Control characters, which could move the cursor,
    rename the window or hide what was printed before, become a visible mark.
    """

    def __init__(self, **settings: Any) -> None:
        """A console of rich's settings, markup left out."""
        super().__init__(**settings, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with rich, then remove control characters."""
        for segment in super().render(renderable, options):
            if segment.control is None and _CONTROLS.search(segment.text):
                yield Segment(without_controls(segment.text), segment.style)
            else:
                yield segment


def without_controls(text: str) -> str:
    """Replace control characters, all but tab and newline, with a visible mark."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
