"""Networks by name, and weights from files that cannot run code."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tutelage.checksums import LARGEST_JSON, has_checksum, read_metadata
from tutelage.errors import (
    ConfigError,
    ModelError,
    TutelageError,
    UnknownNameError,
    find,
    one_line,
    require,
)
from tutelage.files import check_regular
from tutelage.models import cifar_nets, nets, series_nets, text_nets
from tutelage.models.causal import make_causal
from tutelage.models.copies import EXTRA, load_state, state_of
from tutelage.models.hf import hf_factory
from tutelage.models.origin import Origin, class_names_in, remember
from tutelage.models.own import own_object
from tutelage.models.sentence import sentence, static
from tutelage.models.served import make_served
from tutelage.models.slices import initialise, slice_network
from tutelage.paths import hub_asked_once
from tutelage.wording import quantity

Factory = Callable[..., Any]


def sliced(
    of: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    settings: Mapping[str, Any] | None = None,
    width: float = 1.0,
    depth: float = 1.0,
) -> nn.Module:
    """A slice of another network with fresh initial weights; see `slice_network`.

    Args:
        of: The other network, named as in a recipe.
        num_classes: Width of the output.
        in_channels: Channels of the images.
        image_size: Height and width of the images.
        settings: Settings of the other network.
        width: Share of each layer's channels that is kept.
        depth: Share of each row of blocks that is kept.
    """
    facts: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": image_size,
    }
    original = make_model(of, settings, **facts)
    example = torch.zeros(2, in_channels, image_size, image_size)
    return initialise(slice_network(original, example, width=width, depth=depth)).train()


BUILTIN: Mapping[str, Factory] = {
    "mlp": nets.mlp,
    "cnn": nets.cnn,
    "resnet": nets.resnet,
    "vit": nets.vit,
    "wide_resnet": cifar_nets.wide_resnet,
    "vgg": cifar_nets.vgg,
    "slice": sliced,
    "bag_of_words": text_nets.BagOfWords,
    "text_cnn": text_nets.TextCNN,
    "cnn1d": series_nets.CNN1d,
}
ENCODERS: Mapping[str, Factory] = {"sentence": sentence, "static": static}
OF_A_NAME: Mapping[str, Factory] = {**ENCODERS, "causal": make_causal, "served": make_served}

ON_HUB = ("hf", "timm", "sentence", "static", "causal")
KEEPS_BODY = ("hf:", "timm:", "torchvision:")  # which load weights of their own
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
WRAPPED = ("state_dict", "model_state_dict", "model", "net", "network")

TIMM_FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
LIBRARIES = (
    "timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, sentence:NAME_OR_FOLDER, "
    "static:NAME_OR_FOLDER, causal:NAME, served:NAME"
)
SCHEMES = f"{', '.join(BUILTIN)}, {LIBRARIES}, path/to/file.py:make, module:make"


def make_model(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    weights: Path | None = None,
    head: str | None = None,
    folder: Path = Path(),
    **data_facts: Any,
) -> nn.Module:
    """Build a network by name.

    Args:
        name: A built-in name, `timm:NAME`, `torchvision:NAME`, `hf:NAME_OR_FOLDER`, `file.py:make`
            or `module:make`.
        settings: Arguments of the network's own constructor.
        weights: A safetensors file, or a state dict that torch can read without running code.
        head: "new" leaves the last layer of the weights out, whose width is the number of classes;
            None loads it.
        folder: Where a relative `file.py` is looked for.
        **data_facts: What the data says (num_classes, in_channels, image_size); each is passed on
            where the constructor has such an argument and the settings leave it open.

    Raises:
        ConfigError: The name or a setting is unknown.
        ModelError: The constructor failed, or what it made is no network.
    """
    factory = _factory(name, folder)
    chosen = dict(settings or {})
    open_facts = {key: value for key, value in data_facts.items() if key not in chosen}
    arguments = chosen | _accepted(factory, open_facts, name)
    _check_settings(factory, chosen, name)
    if weights is None and name.startswith(KEEPS_BODY):
        arguments |= {"head": head}
    model = _made(factory, arguments, name)
    if weights is None:
        if head is not None and not name.startswith(KEEPS_BODY):
            raise ConfigError(
                f"model {name!r}: head: new needs weights: FILE, of which all but the head is kept."
            )
        return model
    drawn = () if head is None else _head_of(model, factory, arguments, name)
    load_weights(model, weights, without=drawn)
    remember(model, Origin(None if drawn else class_names_of(weights), drawn))
    return model


def _made(factory: Factory, arguments: Mapping[str, Any], name: str) -> nn.Module:
    library, _, place = name.partition(":")
    asked = hub_asked_once(place) if library in ON_HUB else contextlib.nullcontext()
    try:
        with asked:
            model = factory(**arguments)
    except TutelageError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {name!r}: making it with {dict(arguments)} failed: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {name!r}: it returned a {type(model).__name__}, not a torch.nn.Module."
        )
    return model


def _head_of(
    model: nn.Module, factory: Factory, arguments: Mapping[str, Any], name: str
) -> tuple[str, ...]:
    """Names of the weights whose shape depends on the number of classes."""
    if "num_classes" not in arguments:
        raise ConfigError(
            f"model {name!r}: head: new needs a network that takes num_classes, to find its head."
        )
    wider = {**arguments, "num_classes": arguments["num_classes"] + 1}
    with torch.random.fork_rng(devices=[]):
        other = state_of(_made(factory, wider, name))
    return tuple(key for key, value in state_of(model).items() if value.shape != other[key].shape)


def load_weights(model: nn.Module, path: Path, without: Sequence[str] = ()) -> None:
    """Load weights from a file into a network; every name and shape must match.

    Prefixes that other programs put before every name (`module.`, `_orig_mod.`, `model.`) are
    taken off.

    Args:
        model: Changed in place.
        path: A `.safetensors` file, or a state dict saved with torch.save.
        without: Names that are not loaded, as those of a head for other classes.

    Raises:
        ModelError: The file cannot be read without running code, or does not fit.
    """
    own = state_of(model)
    state = _unprefixed(read_state(path), own)
    state = {name: value for name, value in state.items() if name not in without}
    missing = sorted(own.keys() - state.keys() - set(without))
    extra = sorted(state.keys() - own.keys())
    if missing or extra:
        raise ModelError(
            f"{path}: its names do not fit {type(model).__name__}: missing {_some(missing)}, "
            f"unknown {_some(extra)}. Use weights that were saved from this very network."
        )
    others = [k for k, v in state.items() if v.shape != own[k].shape and not k.endswith(EXTRA)]
    if others:
        raise ModelError(_misfit(path, others, state, own))
    _check_kinds(path, state, own)
    load_state(model, {**own, **state})


def _check_kinds(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse dtypes that would be misread: complex ones lose a part, quantised ones their scale."""
    for name, value in state.items():
        if name.endswith(EXTRA):
            continue
        is_plain = value.layout == torch.strided and not value.is_meta and not value.is_quantized
        if not (is_plain and _holds(value, own[name].dtype)):
            kind = "without content" if value.is_meta else f"{value.dtype}, {value.layout}"
            raise ModelError(
                f"{path}: {name} is {kind}; the network's is {own[name].dtype}. Save the weights "
                "as dense numbers of that kind (those of 8 bits or fewer with their scales undone)."
            )


def _holds(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a dtype of the network can represent the file's numbers."""
    if value.is_complex() or dtype.is_complex:
        return value.is_complex() == dtype.is_complex
    if dtype.is_floating_point:
        return value.is_floating_point()
    return not value.is_floating_point() or torch.equal(value, value.round())  # a halved counter


def _misfit(
    path: Path, others: Sequence[str], state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> str:
    """What is wrong with shapes, and what to do; another head is the commonest case."""
    there, here = state[others[0]], own[others[0]]
    text = f"{path}: {others[0]} is {tuple(there.shape)}, the network's is {tuple(here.shape)}. "
    is_head = all(state[name].shape[1:] == own[name].shape[1:] for name in others)
    if is_head and there.ndim in (1, 2) and {len(own[name]) for name in others} == {len(here)}:
        return (
            f"{text}If the file has {quantity(len(there), 'class')} and the data {len(here)}, "
            "head: new draws a last layer for the data's classes, to be trained. If not, check the "
            "network's settings (widths, num_classes)."
        )
    return f"{text}Check the network's settings (widths, num_classes)."


def _unprefixed(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove a prefix of all names, unless the network's own names have it."""
    while state and not own.keys() & state.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def class_names_of(path: Path) -> tuple[str, ...] | None:
    """Class names of a checkpoint, if it or its folder contains them.

    Args:
        path: A file of weights; one of torch.save may hold them beside the weights, and a
            `config.json` beside any file, as timm, transformers and a student's folder have it.
    """
    if path.suffix != ".safetensors":
        held = _held(path)
        found = class_names_in(held) if isinstance(held, dict) else None
        if found is not None:
            return found
    config = path.with_name("config.json")
    if not config.is_file() or config.stat().st_size > LARGEST_JSON:
        return None
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return class_names_in(facts) if isinstance(facts, dict) else None


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code.

    Raises:
        ModelError: The file is missing, damaged, or would need unpickling of objects.
    """
    if not path.exists():
        raise ModelError(f"weights: {path}: no such file.")
    state = _held(path)
    for key in WRAPPED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) or str(name).endswith(EXTRA) for name, value in state.items()
    ):
        raise ModelError(f"{path}: holds no state dict of tensors.")
    return state


def _held(path: Path) -> Any:
    """Contents of a weights file."""
    try:
        check_regular(path)
        if path.suffix == ".safetensors":
            if has_checksum(path):
                read_metadata(path)
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, Exception) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        if type(error).__name__ == "UnpicklingError":  # whose own text advises to run them
            reason = "it holds other objects than tensors, which would have to be run"
        elif "TorchScript" in reason:
            reason = "it is a TorchScript archive, which is a program"
        raise ModelError(
            f"{path}: cannot be read as weights ({reason}). Allowed are safetensors, and state "
            "dicts of tensors saved with torch.save(model.state_dict(), ...)."
        ) from error


def _factory(name: str, folder: Path) -> Factory:
    if name.startswith("hf:"):
        return hf_factory(name.removeprefix("hf:"))
    library, _, rest = name.rpartition(":")
    if not library:
        _check_known(rest)
        return BUILTIN[rest]
    if library == "timm":
        return _timm_factory(rest)
    if library == "torchvision":
        return _torchvision_factory(rest)
    if library in OF_A_NAME:
        return functools.partial(OF_A_NAME[library], rest)
    factory: Factory = own_object(name, f"model {name!r}", folder)
    return factory


def _check_known(name: str) -> None:
    """Refuse the name of no built-in network, and suggest the library that has it."""
    if name in BUILTIN:
        return
    import torchvision

    tables = {"torchvision": torchvision.models.list_models()}
    if importlib.util.find_spec("timm") is not None:
        tables["timm"] = importlib.import_module("timm").list_models()
    having = [f"'{library}:{name}'" for library, known in tables.items() if name in known]
    if having:
        raise UnknownNameError(
            f"Unknown model {name!r}. Did you mean {' or '.join(having)}? Known without a library: "
            f"{', '.join(sorted(BUILTIN))}."
        )
    find("model", name, BUILTIN)


def _timm_factory(name: str) -> Factory:
    timm = require("timm", "timm", f"Model 'timm:{name}'")
    find("timm model", name.split(".")[0], dict.fromkeys(timm.list_models()))

    def make(
        num_classes: int, in_channels: int = 3, head: str | None = None, **settings: Any
    ) -> nn.Module:
        if own := sorted(settings.keys() & TIMM_FILES):
            raise ConfigError(
                f"model 'timm:{name}': settings.{own[0]} is not taken: versions of timm unpickle "
                "that file. Give it as weights, which are read without running code."
            )
        model: Any = timm.create_model(
            name, num_classes=num_classes, in_chans=in_channels, **settings
        )
        if not settings.get("pretrained"):
            return model  # type: ignore[no-any-return]
        is_new = head is not None or model.pretrained_cfg.get("num_classes") != num_classes
        if head is not None:
            model.reset_classifier(num_classes)
        named = None if is_new else class_names_in(model.pretrained_cfg)
        remember(model, Origin(named, ("classifier",) if is_new else ()))
        return model  # type: ignore[no-any-return]

    return make


def _torchvision_factory(name: str) -> Factory:
    import torchvision

    find("torchvision model", name, dict.fromkeys(torchvision.models.list_models()))

    def make(num_classes: int, head: str | None = None, **settings: Any) -> nn.Module:
        get, chosen = torchvision.models.get_model, settings.get("weights")
        if chosen is None:
            return get(name, num_classes=num_classes, **settings)  # type: ignore[no-any-return]
        known = torchvision.models.get_model_weights(name)
        names = known[str(chosen).rpartition(".")[2]].meta.get("categories", ())
        if head is None and len(names) != num_classes:
            raise ConfigError(
                f"model 'torchvision:{name}': its weights {chosen} tell {len(names)} classes apart,"
                f" the data have {num_classes}. head: new draws a last layer for the data's, to be "
                "trained."
            )
        loaded: nn.Module = get(name, **settings)
        if head is None:
            remember(loaded, Origin(tuple(names)))
            return loaded
        plain: nn.Module = get(name, num_classes=num_classes, **{**settings, "weights": None})
        own, other = state_of(plain), state_of(loaded)
        drawn = tuple(key for key in own if own[key].shape != other[key].shape)
        load_state(plain, {key: own[key] if key in drawn else other[key] for key in own})
        remember(plain, Origin(drawn=drawn))
        return plain

    return make


def _accepted(factory: Factory, facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name!r}: its arguments cannot be read: {error}") from error
    return {key: value for key, value in facts.items() if key in parameters}


def _check_settings(factory: Factory, settings: Mapping[str, Any], name: str) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for key in settings:
        find(f"setting of model {name!r}", key, dict.fromkeys(parameters))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
