"""A recipe as a run folder keeps it: its keys, and the files that its own objects come from."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.config.schema import Recipe

# Keys whose value may be file.py:Name.
NAMED_BY = ("model", "kind", "loss", "task", "codec", "load")


def resolved(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe as plain data; paths of own files are relative to the run folder with its copy."""
    content = recipe.model_dump(mode="json")
    out = os.path.realpath(recipe.output)
    for holder, key, library, name in list(_of_files(content)):
        file = os.path.relpath(os.path.realpath(folder / library), out)
        holder[key] = f"{file}:{name}"
    return content


def own_files(recipe: Recipe, folder: Path) -> tuple[Path, ...]:
    """Files of the user's own that a recipe's objects come from, each once."""
    files = [folder / library for _, _, library, _ in _of_files(recipe.model_dump(mode="json"))]
    return tuple(dict.fromkeys(Path(os.path.realpath(file)) for file in files))


def _of_files(content: Any, key: Any = None) -> Iterator[tuple[Any, Any, str, str]]:
    """Where content names an object of a file: the holder, its key, the file and the name."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for here, value in entries:
        if isinstance(value, dict | list):
            yield from _of_files(value, here)
        elif isinstance(value, str) and (here in NAMED_BY or key == "targets"):
            library, _, name = value.rpartition(":")
            if library.endswith(".py"):
                yield content, here, library, name
