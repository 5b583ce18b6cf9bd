"""A user's own objects that a recipe names: module:Name, or path/to/file.py:Name."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError, ModelError, TutelageError, one_line
from tutelage.files import file_sha256, fingerprint
from tutelage.models.strangers import check_code

NOT_OWN = (
    "accelerate", "builtins", "cloudpickle", "datasets", "dill", "fsspec", "huggingface_hub",
    "joblib", "numpy", "onnx", "onnxruntime", "pandas", "PIL", "pip", "pydantic", "requests",
    "safetensors", "scipy", "setuptools", "sklearn", "torch", "transformers", "yaml",
)  # fmt: skip
_IMPORTED: dict[Path, tuple[str, Any]] = {}


def is_own(name: str) -> bool:
    """Whether a name in a recipe is that of a user's own object."""
    return ":" in name


def own_name(name: str, folder: Path) -> str:
    """A name with the full path of its file, where it is one of a relative file.py."""
    library, _, attribute = name.rpartition(":")
    if not library.endswith(".py"):
        return name
    return f"{(folder / library).absolute()}:{attribute}"


def portable_name(named: object) -> object:
    """A name, class or function as fingerprints have it: without the folder of its file."""
    if not isinstance(named, str):
        return f"{getattr(named, '__module__', '')}:{getattr(named, '__qualname__', named)}"
    library, _, attribute = named.rpartition(":")
    return f"{Path(library).name}:{attribute}" if library.endswith(".py") else named


def own_object(name: str, what: str, folder: Path = Path()) -> Any:
    """Import the object that a recipe names.

    Args:
        name: module:Name or path/to/file.py:Name.
        what: The recipe's key and its value, for messages.
        folder: Where a relative file.py is looked for.

    Raises:
        ConfigError: There is no such module, file or object, or no such code may run now.
        ModelError: The module's own code failed.
    """
    library, _, attribute = name.rpartition(":")
    if library.endswith(".py"):
        module = import_file(folder / library, what)
    else:
        module = import_module(library, what)
    defined = sorted(
        key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
    )
    if attribute not in defined:
        raise ConfigError(
            f"{what}: there is no function or class {attribute!r}. {library} defines: "
            f"{', '.join(defined) or 'none'}."
        )
    return getattr(module, attribute)


def import_own(library: str, what: str) -> Any:
    """Import a user's module that a recipe names.

    Python's own modules and the libraries underneath are refused: a recipe that could name any
    function of theirs, with any arguments, could do anything without a line of code beside it.

    Args:
        library: Dotted name.
        what: Which entry of the recipe names it.

    Raises:
        ConfigError: It is nobody's own, or no such code may run now.
        Exception: Whatever importing it raises.
    """
    if library.split(".")[0] in {*sys.stdlib_module_names, *NOT_OWN}:
        raise ConfigError(
            f"{what}: {library!r} is no module of your own, and a recipe may run no other. Write "
            "a file.py with a function that makes what you want."
        )
    check_code(library, what)
    return importlib.import_module(library)


def import_module(library: str, what: str) -> Any:
    """Import a user's module, with what goes wrong as one clear error."""
    try:
        return import_own(library, what)
    except TutelageError:
        raise
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{what}: there is no module {library!r} ({error}). Write it as module:Name of a "
            "module that Python finds, or as path/to/file.py:Name."
        ) from error
    except Exception as error:
        raise ModelError(
            f"{what}: importing {library!r} failed: {type(error).__name__}: {one_line(error)}"
        ) from error


def import_file(path: Path, what: str) -> Any:
    """Run a user's file as a module."""
    if not path.is_file():
        raise ConfigError(
            f"{what}: {path}: no such file. A relative path starts at the recipe's folder."
        )
    check_code(str(path), what)
    content = file_sha256(path)
    known, module = _IMPORTED.get(path.resolve(), (None, None))
    if known == content:  # several keys of a recipe may name objects of one file
        return module
    name = f"{path.stem}@{fingerprint(str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(
            f"{path}: running it failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    _IMPORTED[path.resolve()] = content, module
    return module
