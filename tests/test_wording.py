"""Counts read as English."""

import pytest

from tutelage.wording import quantity


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (12_000, "token", "12,000 tokens"),
    ],
)
def test_a_noun_is_in_the_plural_unless_there_is_one(count, noun, text):
    assert quantity(count, noun) == text
