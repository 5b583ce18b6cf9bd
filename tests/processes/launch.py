"""Processes as `torchrun` starts them, without waiting for each Python to import torch."""

import contextlib
import multiprocessing
import os
import queue
import random
import socket
import traceback

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tutelage.pipeline", "torch._dynamo", "torch.distributed.tensor"])


def _free_port():
    """Below those that the system gives away, so that nobody takes it before the first binds it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _run(answers, work, rank, count, port, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    import torch

    from tutelage import distributed

    torch.set_num_threads(1)
    try:
        distributed.init_process_group()
        answers.put((rank, None, work(*arguments)))
        with contextlib.suppress(distributed.PeerFailedError):
            distributed.destroy_process_group()
    except BaseException:
        answers.put((rank, traceback.format_exc(), None))


def _next_answer(answers, processes):
    """An answer, or what became of the processes if none comes."""
    for _ in range(240):
        try:
            return answers.get(timeout=1)
        except queue.Empty:
            codes = [process.exitcode for process in processes]
            if all(code is not None for code in codes) and answers.empty():
                return -1, f"all have ended, with codes {codes}", None
    return -1, "no answer in 240 s", None


def start(work, *arguments, count=2):
    """Call a function of a module in several processes; gives what each gave."""
    answers, port = CONTEXT.Queue(), _free_port()
    processes = [
        CONTEXT.Process(
            target=_run, args=(answers, work, rank, count, port, arguments), daemon=True
        )
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    found = {}
    while len(found) < count:
        rank, error, value = _next_answer(answers, processes)
        if error:
            for process in processes:
                process.kill()  # SIGTERM is what a training answers when it comes to its next step
            pytest.fail(f"process {rank}: {error}")
        found[rank] = value
    for process in processes:
        process.join(timeout=60)
    return [found[rank] for rank in range(count)]
