"""Effect of temperature in numbers: distributions over temperatures, losses step by step."""

from tutelage.explain.example import ANIMALS, EXAMPLES, TEXTBOOK, Example, from_run
from tutelage.explain.explanation import TEMPERATURES, Explanation, explain

__all__ = [
    "ANIMALS",
    "EXAMPLES",
    "TEMPERATURES",
    "TEXTBOOK",
    "Example",
    "Explanation",
    "explain",
    "from_run",
]
