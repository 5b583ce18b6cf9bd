"""A recipe as YAML text, without a YAML library."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*(:[\w./+-]+)*( [\w./+-]+)*", re.ASCII)
RESERVED = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def write_recipe(value: Any, indent: int = 0) -> str:
    """Nested mappings and lists as indented YAML.

    Args:
        value: Mappings, lists and scalars; anything else is written as a string.
        indent: Spaces before each line.
    """
    return "\n".join(" " * indent + line for line in _lines(value))


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, entry in value.items() for line in _entry(_scalar(key), entry)]
    if _is_list(value) and any(_is_nested(item) for item in value):
        return [line for item in value for line in _item(item)]
    return [_scalar(value)]


def _entry(key: str, value: Any) -> list[str]:
    lines = _lines(value)
    if not _is_block(value):
        return [f"{key}: {lines[0]}"]
    return [f"{key}:", *(f"  {line}" for line in lines)]


def _item(value: Any) -> list[str]:
    first, *rest = _lines(value)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_nested(value: Any) -> bool:
    return (isinstance(value, Mapping) or _is_list(value)) and len(value) > 0


def _is_block(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) > 0
    return _is_list(value) and any(_is_nested(item) for item in value)


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return _float(value)
        case Mapping():
            return "{}"
        case _ if _is_list(value):
            return f"[{', '.join(_scalar(item) for item in value)}]"
    return _string(str(value))


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "e" not in text or "." in text else text.replace("e", ".0e")


def _string(text: str) -> str:
    is_plain = PLAIN.fullmatch(text) and text.lower() not in RESERVED and text[0] not in "."
    return text if is_plain else json.dumps(text, ensure_ascii=not text.isprintable())
