"""Suppress output, logs and warnings of libraries."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def suppress_logs() -> Iterator[None]:
    """Suppress output, logs and warnings; errors pass through."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            _no_native_output(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _no_native_output() -> Iterator[None]:
    """Discard what compiled code writes to the terminal."""
    with ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for number in (1, 2):
            try:
                kept = os.dup(number)
            except OSError:  # closed by whoever started us
                continue
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(nowhere, number)
        yield
