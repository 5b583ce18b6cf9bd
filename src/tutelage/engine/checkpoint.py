"""Checkpoints: the whole state of a training in one safetensors file, without pickle."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from tutelage import distributed
from tutelage.checksums import read_metadata, write_tensors
from tutelage.data.randomness import draws_as_tensors, set_draws
from tutelage.errors import RunFolderError
from tutelage.models.copies import as_it_was, state_of
from tutelage.records import MetricPoint
from tutelage.sharding import full, load_full, sharded_like

Tensors = dict[str, Tensor]
_UNREADABLE = (
    SafetensorError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    OSError,
)
GROUP, PLAIN = "group", "#number"  # in names of tensors
_REMOVE = "Remove this checkpoint to train the arm from its start."


@dataclass(slots=True)
class Progress:
    """How far a training has come.

    Attributes:
        epoch: Epochs completed.
        micro_step: Micro-steps done within the epoch that is under way.
        step: Optimizer updates done.
        sums: Sums over the samples of the epoch under way: the count, the total, each part.
        best_metric: Best validation metric so far.
        best_epoch: Its epoch, from 1.
        curve: The epochs so far.
        seconds: Training time so far.
        epoch_seconds: Time in the epoch under way so far.
        parts: Into how many each batch is cut, because the whole took too much memory.
    """

    epoch: int = 0
    micro_step: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    best_metric: float | None = None
    best_epoch: int | None = None
    curve: list[MetricPoint] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    parts: int = 1


def save_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    progress: Progress,
    key: str,
) -> None:
    """Write everything that resuming needs, atomically.

    Every process takes part, for each may hold a piece of the weights; the first one writes.

    Args:
        path: The file.
        modules: What has weights or buffers, by name.
        optimizer: Its state is kept.
        progress: How far the training has come.
        key: Fingerprint of the training; another one cannot go on from this file.
    """
    tensors: Tensors = {"rng/cpu": torch.get_rng_state(), **draws_as_tensors()}
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, module in modules.items():
        state = state_of(module)
        tensors |= {f"{name}/{key}": value.detach() for key, value in state.items()}
    tensors |= _optimizer_tensors(optimizer)
    owned = dict(_owned(tensors))
    if not distributed.world().is_main:
        return
    write_tensors(path, owned, {"key": key, "progress": asdict(progress)})


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer, key: str
) -> Progress | None:
    """Restore a training from its checkpoint.

    Returns:
        How far it had come, or None when there is no checkpoint of this very training.

    Raises:
        RunFolderError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        facts = read_metadata(path)
        if facts.get("key") != key:
            return None
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = TypeAdapter(Progress).validate_python(facts["progress"])
        for name, module in modules.items():
            load_full(module, as_it_was(module, _below(tensors, name)))
        _load_optimizer(optimizer, _below(tensors, "optimizer"))
        torch.set_rng_state(tensors["rng/cpu"])
        set_draws(tensors)
        if "rng/cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng/cuda"])
    except RunFolderError as error:
        raise RunFolderError(f"{error} {_REMOVE}") from error
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(
            f"{path}: damaged, or of another version of Tutelage or of the network's code "
            f"({type(error).__name__}: {reason}). {_REMOVE}"
        ) from error
    return progress


def _owned(tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Each tensor gathered on the CPU, kept by the main process."""
    is_first = distributed.world().is_main
    for name, value in tensors.items():
        together = full(value)
        if is_first:
            yield name, together.cpu().contiguous().clone()


def _optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """State of each parameter and numbers of each group; numbers become tensors of one element."""
    content = optimizer.state_dict()
    parts = {str(number): state for number, state in content["state"].items()}
    parts |= {f"{GROUP}{number}": group for number, group in enumerate(content["param_groups"])}
    return {
        f"optimizer/{part}/{name}{'' if isinstance(value, Tensor) else PLAIN}": _as_tensor(value)
        for part, state in parts.items()
        for name, value in state.items()
        if isinstance(value, Tensor | bool | int | float)
    }


def _as_tensor(value: Tensor | bool | int | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def _load_optimizer(optimizer: Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Any]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    for name, value in tensors.items():
        part, _, entry = name.partition("/")
        held: Any = value.item() if entry.endswith(PLAIN) else value
        entry = entry.removesuffix(PLAIN)
        if part.startswith(GROUP):
            groups[int(part.removeprefix(GROUP))][entry] = held
            continue
        if isinstance(held, Tensor):
            held = sharded_like(held, parameters[int(part)])
        state.setdefault(int(part), {})[entry] = held
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for number, entries in state.items():  # torch casts all but "step" to the parameter's dtype
        loaded = optimizer.state[parameters[number]]
        for entry, held in entries.items():
            if isinstance(held, Tensor) and loaded[entry].dtype != held.dtype:
                loaded[entry] = held.to(loaded[entry].device)


def _below(tensors: Tensors, name: str) -> Tensors:
    prefix = f"{name}/"
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
