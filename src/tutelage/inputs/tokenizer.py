"""Tokenizers of `transformers`."""

from typing import Any

from tutelage.errors import ModelError, require
from tutelage.paths import NO_CODE, hub_asked_once, resolve_path


def load_tokenizer(name: str) -> Any:
    """A tokenizer from a folder, from a `tokenizer.json`, or by its name on the hub.

    Raises:
        ModelError: There is none.
        MissingExtraError: transformers is not installed.
    """
    transformers = require("transformers", "text", "Cutting texts into tokens")
    place = resolve_path(name)
    try:
        if place is not None and place.is_file():
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(place))
        with hub_asked_once(name):
            return transformers.AutoTokenizer.from_pretrained(str(place or name), **NO_CODE)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(
            f"data.tokenizer: {name}: cannot be loaded ({reason}). Give a folder with a "
            "tokenizer.json, or a name on the hub."
        ) from error
