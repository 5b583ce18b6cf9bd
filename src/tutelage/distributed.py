"""Processes of one run: rank, world size, and work that is done once."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed import distributed_c10d

from tutelage.errors import ConfigError, TutelageError

WAIT_S = 0.05
FAILED = "tutelage/failed"
_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
_LOST = ("gloo", "NCCL", "Connection", "Broken pipe", "recv")


class PeerFailedError(TutelageError):
    """Another process of the run failed and reported its error."""


@dataclass(frozen=True, slots=True)
class World:
    """This process and the number of processes.

    Attributes:
        number: From 0; the first one writes files and prints.
        count: Number of processes on all machines.
    """

    number: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes and prints."""
        return self.number == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.count > 1

    def share(self, rows: int) -> tuple[slice, Bool[Tensor, " rows"] | None]:
        """This process's rows of a batch.

        Args:
            rows: Number of rows of the whole batch.

        Returns:
            The rows to read, and which of them count (None: all). Where there are fewer than two
            rows a process, every process reads the whole batch and counts its own rows.
        """
        own = slice(self.number * rows // self.count, (self.number + 1) * rows // self.count)
        if rows >= 2 * self.count or not self.is_distributed:
            return own, None
        mask = torch.zeros(rows, dtype=torch.bool)
        mask[own] = True
        return slice(0, rows), mask


_ALONE = ContextVar("alone", default=False)


def world() -> World:
    """This process among the current group; alone inside `first`."""
    if _ALONE.get() or not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size())


def init_process_group() -> World:
    """Join the process group of `torchrun` or `accelerate launch`, if there is one.

    Raises:
        ConfigError: Several were asked for, and each would run by itself.
    """
    _check_sharding()
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked == 1:
        _check_launcher()
        return world()
    if not dist.is_initialized():
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        else:
            os.environ["ACCELERATE_USE_CPU"] = "true"  # else Accelerate sees one process
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
    found = world()
    if found.count != asked:
        raise ConfigError(f"{asked} processes were asked for, but {found.count} run together.")
    return found


def _check_sharding() -> None:
    for name in _SHARDING:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ConfigError(
                f"accelerate launch: the recipe decides whether weights are sharded, not {name} "
                f"of the launcher. Start the processes without it "
                "(--multi_gpu), and set train.shard: true (PyTorch's FSDP) for a student whose "
                "training fits no single device."
            )


def _check_launcher() -> None:
    by_accelerate = "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ
    by_mpi = max(int(os.environ.get(name, "1")) for name in _COUNTS)
    if "WORLD_SIZE" in os.environ or not (by_accelerate or by_mpi > 1):
        return
    launcher = "accelerate launch --cpu" if by_accelerate else f"mpirun (of {by_mpi} processes)"
    raise ConfigError(
        f"{launcher}: several processes were asked for, but they would not know of one another: "
        "each would do the whole run. Use accelerate launch --multi_gpu --num_processes 2 -m "
        "tutelage ... (on CPUs too), or torchrun --nproc_per_node 2 -m tutelage ..."
    )


def destroy_process_group() -> None:
    """Leave the process group at the end, once all processes arrive."""
    if world().is_distributed:
        barrier()
        dist.destroy_process_group()


def on_main_process(work: Callable[[], Any]) -> Any:
    """Run a function on the main process while the others wait, without a time limit.

    Meanwhile it is the only process: nothing of what it does is shared with those that wait.

    Args:
        work: Gives plain data.

    Returns:
        What it gave, in every process.

    Raises:
        PeerFailedError: A process has failed meanwhile.
    """
    ranks = world()
    if not ranks.is_distributed:
        return work()
    store = _store()
    call = store.add(f"tutelage/calls/{ranks.number}", 1)
    key = f"tutelage/results/{call}"
    if ranks.is_main:
        token = _ALONE.set(True)
        try:
            value = work()
        finally:
            _ALONE.reset(token)
        store.set(key, json.dumps(value))
        return value
    _wait_until(lambda: store.check([key]))
    return json.loads(store.get(key))


def barrier() -> None:
    """Wait for every process, without a time limit.

    Raises:
        PeerFailedError: A process has failed meanwhile.
    """
    ranks = world()
    if not ranks.is_distributed:
        return
    store = _store()
    call = store.add(f"tutelage/calls/{ranks.number}", 1)
    store.add(f"tutelage/arrivals/{call}", 1)
    _wait_until(lambda: store.add(f"tutelage/arrivals/{call}", 0) >= ranks.count)


def _wait_until(is_so: Callable[[], bool]) -> None:
    store = _store()
    try:
        while not is_so():
            if store.check([FAILED]):
                raise PeerFailedError("Another process of this run has failed.")
            time.sleep(WAIT_S)
    except RuntimeError as error:  # the process that keeps the store is gone
        raise PeerFailedError("Another process of this run has failed.") from error


def should_report_error() -> bool:
    """Whether this process reports an error: the first one that has any."""
    if not world().is_distributed:
        return True
    try:
        return bool(_store().add(FAILED, 1) == 1)
    except RuntimeError:  # the process that keeps the store is gone: it has failed before
        return False


def is_peer_failure(error: BaseException) -> bool:
    """Whether an error means that another process is gone."""
    is_ours = isinstance(error, RuntimeError) and world().is_distributed
    return is_ours and any(word in str(error) for word in _LOST)


def _store() -> Any:
    return distributed_c10d._get_default_store()  # torch has no public name for it


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """Maximum of each value over the processes."""
    if not world().is_distributed:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    numbers: list[float] = found.tolist()
    return numbers


def all_reduce_mean(tensors: Iterable[Shaped[Tensor, "..."]]) -> None:
    """Replace each tensor by its mean over the processes."""
    ranks = world()
    if ranks.is_distributed:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(ranks.count)


@torch.no_grad()
def copy_buffers(module: nn.Module) -> None:
    """Copy the main process's buffers, such as batch norm statistics, to every process."""
    if world().is_distributed:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def all_gather_sizes(rows: int, counted: int) -> tuple[list[int], list[int]]:
    """Number of rows, and of valid rows, in every process."""
    own = torch.tensor([rows, counted], device=_device())
    found = [torch.empty_like(own) for _ in range(world().count)]
    dist.all_gather(found, own)
    pairs = torch.stack(found).tolist()
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def gather(rows: Shaped[Tensor, "own ..."], sizes: Sequence[int]) -> Shaped[Tensor, "all ..."]:
    """Rows of all processes, one process after another.

    The gradient that comes back to a process's rows is multiplied by the number of processes: all
    of them compute the same of all rows, and the mean over processes is taken afterwards.

    Args:
        rows: This process's.
        sizes: How many rows every process has.
    """
    gathered: Tensor = _Gather.apply(rows, sizes)
    return gathered


class _Gather(torch.autograd.Function):
    """Rows of all processes, with a gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        number = world().number
        ctx.place = (sum(sizes[:number]), sizes[number])  # type: ignore[attr-defined]
        sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
        padded = sent.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = sent
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        blocks = [block[:size] for block, size in zip(found, sizes, strict=True)]
        return torch.cat(blocks).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        start, size = ctx.place
        return gradient[start : start + size] * world().count, None


def _device() -> torch.device:
    """Device for exchanging small values: the CPU if possible."""
    if "gloo" in str(dist.get_backend_config()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
