"""State of a module at one point of a training."""

from typing import final

from torch import Tensor, nn

from tutelage.sharding import full


@final
class Snapshot(nn.Module):
    """The last stored state of another module, unsharded, on the CPU.

    It is a module itself, with a buffer for each tensor, so that checkpoints keep it.

    Args:
        of: The module; its state is tensors alone.
    """

    def __init__(self, of: nn.Module) -> None:
        """Store the module's current state."""
        super().__init__()
        self.names = list(of.state_dict())
        for number, value in enumerate(_values(of)):
            self.register_buffer(str(number), value)

    def take(self, of: nn.Module) -> None:
        """Store the module's current state; if it is sharded, every process must call this."""
        for number, value in enumerate(_values(of)):
            setattr(self, str(number), value)

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors, under the other module's names."""
        return {name: getattr(self, str(number)) for number, name in enumerate(self.names)}


def _values(of: nn.Module) -> list[Tensor]:
    return [full(value).detach().cpu().clone() for value in of.state_dict().values()]
