"""Numbers in messages and pages, and counts with their noun in singular or plural."""


def quantity(count: int, noun: str) -> str:
    """A count with its noun, such as "1 image" or "2,000 images".

    Args:
        count: How many there are.
        noun: The noun in the singular; its plural is regular.
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}es" if noun.endswith("s") else f"{count:,} {noun}s"


def plain_number(value: float) -> str:
    """A number with four significant digits; in full from ten thousand to a billion."""
    is_long = 1e4 <= abs(value) < 1e9
    return f"{value:,.0f}" if is_long else f"{value:.4g}"
