"""What a module held at one moment of a training."""

from typing import final

from torch import Tensor, nn

from tutelage.sharding import whole


@final
class Snapshot(nn.Module):
    """The state of another module when it was last taken, whole and on the CPU.

    It is a module itself, with a buffer for each tensor, so that checkpoints keep it.

    Args:
        of: The module; its state is tensors alone.
    """

    def __init__(self, of: nn.Module) -> None:
        """Take its state as it is."""
        super().__init__()
        self.names = list(of.state_dict())
        for number, value in enumerate(_values(of)):
            self.register_buffer(str(number), value)

    def take(self, of: nn.Module) -> None:
        """Replace what is held by the present state; where it is cut, every process must ask."""
        for number, value in enumerate(_values(of)):
            setattr(self, str(number), value)

    def tensors(self) -> dict[str, Tensor]:
        """What is held, under the other module's names."""
        return {name: getattr(self, str(number)) for number, name in enumerate(self.names)}


def _values(of: nn.Module) -> list[Tensor]:
    return [whole(value).detach().cpu().clone() for value in of.state_dict().values()]
