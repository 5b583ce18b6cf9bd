"""Validation of the arguments of built-in networks."""

from collections.abc import Sequence
from numbers import Integral, Real

from tutelage.errors import ConfigError


def check_sizes(network: str, *, least: int = 1, **sizes: object) -> None:
    """Refuse widths and counts that give no trainable network.

    Args:
        network: Its name, for the message.
        least: What each must be at least.
        **sizes: Whole numbers, or lists of one or more of them; None is left to the network.

    Raises:
        ConfigError: One is none, or too small; the message names it.
    """
    for name, size in sizes.items():
        is_list = isinstance(size, Sequence) and not isinstance(size, str)
        values: Sequence[object] = size if is_list else [size]  # type: ignore[assignment]
        if size is None or (values and all(_is_size(value, least) for value in values)):
            continue
        kind = "whole numbers" if is_list else "a whole number"
        raise ConfigError(f"{network}: {name} must be {kind}, {least} or more, got {size!r}.")


def check_shares(network: str, **shares: object) -> None:
    """Refuse dropout probabilities outside of 0 to below 1.

    Args:
        network: Its name, for the message.
        **shares: From 0 to below 1.

    Raises:
        ConfigError: One is no such share; the message names it.
    """
    for name, share in shares.items():
        if not (isinstance(share, Real) and 0 <= float(share) < 1):
            raise ConfigError(f"{network}: {name} must be 0 or more and below 1, got {share!r}.")


def _is_size(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
