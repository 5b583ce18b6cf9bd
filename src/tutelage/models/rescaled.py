"""A network whose outputs are converted to other units."""

from jaxtyping import Float
from torch import Tensor, nn

from tutelage.models.calling import call


class Rescaled(nn.Module):
    """A network with a scale and a shift for each output.

    A new network gives numbers around 0; prices in thousands would take it the whole training to
    reach. Exported files give the labels' units.

    Args:
        model: The network.
        centre: Added to each output.
        scale: Multiplies each output.
    """

    def __init__(
        self, model: nn.Module, centre: Float[Tensor, " outputs"], scale: Float[Tensor, " outputs"]
    ) -> None:
        """Store both as buffers."""
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.model = model
        self.register_buffer("centre", centre.clone())
        self.register_buffer("scale", scale.clone())

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> Tensor:
        """Outputs in the new units."""
        given = call(self.model, named if inputs is None else inputs)
        return given * self.scale + self.centre
