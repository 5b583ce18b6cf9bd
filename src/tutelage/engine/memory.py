"""Trainings that run out of memory: the same batches, split into more and smaller parts."""

import contextlib
import gc
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage.errors import OutOfMemoryError
from tutelage.wording import quantity

_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, means that memory ran out on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def free() -> None:
    """Release the memory of the failed attempt."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def oom_context(place: str) -> Iterator[None]:
    """Name the stage in which memory ran out.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    try:
        yield
    except OutOfMemoryError:  # told already, and nearer to where it happened
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{place}: out of memory ({_reason(error)}). Take a smaller "
            "train.batch_size, or a machine with more memory; what is done is kept."
        ) from error


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def most_parts(batch_size: int, model: nn.Module) -> int:
    """Largest number of parts per batch; batch norm needs two samples per part."""
    return max(1, batch_size // 2) if _has_batch_norm(model) else batch_size


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def in_parts_note(label: str, batch_size: int, parts: int, model: nn.Module) -> str:
    """Note for the reader on batches that were split to fit into memory."""
    rows = -(-batch_size // parts)
    note = (
        f"{label}: batches of {batch_size} did not fit into memory, so each was learned in {parts} "
        f"parts of {rows}, with the gradient of the whole. Losses that compare samples saw {rows} "
        "at a time."
    )
    if _has_batch_norm(model):
        note += f" So did batch norm: its statistics are of {quantity(rows, 'sample')}."
    return note
