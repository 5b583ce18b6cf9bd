"""Two processes as `torchrun` starts them."""

import pytest

from tests.processes.launch import start


@pytest.fixture(scope="session")
def together():
    """Calls a function of a module in several processes; gives what each gave."""
    return start
