"""A recipe as a run folder keeps it: its keys, and the files that its networks come from."""

import os
from pathlib import Path
from typing import Any

from tutelage.config.schema import Recipe


def resolved(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe as plain data; paths of own files are relative to the run folder with its copy."""
    content = recipe.model_dump(mode="json")
    out = os.path.realpath(recipe.output)
    networks = (content["teacher"], content["student"])
    for network in (*networks, *content["co_teachers"], *content["assistants"]):
        library, _, name = network["model"].rpartition(":")
        if library.endswith(".py"):
            file = os.path.relpath(os.path.realpath(folder / library), out)
            network["model"] = f"{file}:{name}"
    return content


def own_files(recipe: Recipe, folder: Path) -> tuple[Path, ...]:
    """Files of the user's own that networks come from, each once."""
    networks = (recipe.teacher, recipe.student, *recipe.co_teachers, *recipe.assistants)
    libraries = [network.model.rpartition(":")[0] for network in networks]
    files = [folder / library for library in libraries if library.endswith(".py")]
    return tuple(dict.fromkeys(Path(os.path.realpath(file)) for file in files))
