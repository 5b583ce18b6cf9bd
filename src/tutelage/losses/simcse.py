"""Embeddings without a teacher: two dropout versions of a sample are neighbours."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.divergences import cross_entropy
from tutelage.losses.embedding import cosine_temperature
from tutelage.losses.features import check_several, features_of, valid_rows
from tutelage.losses.lengths import unit
from tutelage.models.copies import copied
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal

TWIN = "twin"


class Twice(nn.Module):
    """A network that, in training, gives a second output with other dropout.

    Args:
        network: Gives one vector a sample.
    """

    def __init__(self, network: nn.Module) -> None:
        """Store it beside the buffer of the second output."""
        super().__init__()
        self.network = network
        self.add_module(TWIN, nn.Identity())

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """The network's vectors."""
        first: Tensor = self.network(*args, **kwargs)
        self.get_submodule(TWIN)(self.network(*args, **kwargs) if self.training else first)
        return first


@final
class SimCSE(Loss):
    """Each sample is closest to itself under other dropout, within the batch.

    What can be learned of embeddings from unlabelled samples without a teacher: the honest
    baseline of the task of embeddings. The network needs dropout; a step takes twice as long.

    Args:
        temperature: Temperature of the cosines, above 0; 0.05 in the paper.
        dropout: Probability of every dropout layer of the network while this trains it, 0.1 in the
            paper; None leaves the network's own.

    Usual weight: 1, alone.

    Source:
        Gao, Yao & Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings",
        arXiv:2104.08821, equation 1.
    """

    needs: frozenset[Signal] = frozenset()
    takes: frozenset[Signal] = frozenset({Signal.EMBEDDINGS})
    title = "simcse"
    whole_batch = True

    def __init__(self, temperature: float | int = 0.05, dropout: float | None = None) -> None:
        """Keep the settings."""
        super().__init__()
        self.temperature = cosine_temperature(self.title, temperature)
        if dropout is not None and not 0 < dropout < 1:
            raise ConfigError(
                f"{self.title}: dropout must lie between 0 and 1, got {dropout}. Usual: 0.1."
            )
        self.dropout = dropout

    def modify_student(self, student: nn.Module, dry: DryRun) -> nn.Module:
        """The student with a second output.

        Raises:
            ConfigError: A batch is one sample, or the dropout to be set finds no layer.
        """
        check_several(self, dry)
        self.student_layers = (TWIN,)
        return Twice(student if self.dropout is None else _dropping(student, self.dropout))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The cross-entropy, in nats; 0 for fewer than two samples."""
        first = valid_rows(student.embeddings, batch.mask)
        if len(first) < 2:
            return first[:0].sum()
        (twin,) = features_of(self, student, self.student_layers or (TWIN,), "student")
        with torch.autocast(first.device.type, enabled=False):
            second = unit(valid_rows(twin, batch.mask), dim=1)
            cosines = unit(first, dim=1) @ second.T
        own = torch.arange(len(first), device=first.device)
        return cross_entropy(cosines / self.temperature, own)


def _dropping(network: nn.Module, dropout: float) -> nn.Module:
    """A copy of a network with this probability in all dropout layers."""
    twin = copied(network)
    layers = [module for module in twin.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise ConfigError(
            f"simcse: {type(network).__name__} has no nn.Dropout, so both of its passes are "
            "equal and there is nothing to learn. Give it one, or set baseline: false."
        )
    for layer in layers:
        layer.p = dropout
    return twin
