"""A teacher with precomputed outputs and features, for many trainings on the same data."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.data.loading import BatchBuilder, in_order
from tutelage.errors import ConfigError
from tutelage.teachers.module import ModuleTeacher
from tutelage.types import Batch, Outputs, Signal


class PrecomputedTeacher:
    """Precomputed outputs of a live teacher for every sample of a data set with one view.

    Unlike a cache on disk it holds features too, so its memory is that of all of them: samples x
    (classes + features) x 4 bytes.

    Args:
        live: The teacher.
        logits: What it said, by sample.
        features: What its layers gave, by layer and sample.
    """

    def __init__(
        self,
        live: ModuleTeacher,
        logits: Float[Tensor, "n classes"],
        features: Mapping[str, Tensor],
    ) -> None:
        """Store the outputs."""
        self.live = live
        self.logits = logits
        self.features = features
        signals = {Signal.LOGITS, Signal.FEATURES} if features else {Signal.LOGITS}
        self.gives: frozenset[Signal] = frozenset(signals)
        self.device = live.device
        self.fingerprint = live.fingerprint

    def __call__(self, batch: Batch) -> Outputs:
        """Outputs for these samples."""
        ids = batch.sample_ids.to(self.device)
        features = {name: said.index_select(0, ids) for name, said in self.features.items()}
        return Outputs(self.logits.index_select(0, ids), features)

    def part(self, layer: str) -> nn.Module:
        """A frozen copy of a part of the network, such as its classifier."""
        return self.live.part(layer)

    def check(self) -> None:
        """Nothing to do: precomputed outputs cannot change.

        Raises:
            TeacherChangedError: The network that said it, whose parts losses may take, did.
        """
        self.live.check()

    def only(self, layers: Sequence[str]) -> "PrecomputedTeacher":
        """The same outputs with only these layers."""
        told = {layer: self.features[layer] for layer in layers}
        return PrecomputedTeacher(self.live, self.logits, told)


def precompute(
    live: ModuleTeacher, reader: BatchBuilder, *, batch_size: int = 512
) -> PrecomputedTeacher:
    """Run a live teacher once on every sample.

    Args:
        live: The teacher, with the layers that are wanted.
        reader: The data.
        batch_size: Samples asked about at once.

    Raises:
        ConfigError: The data are shown in more than one view.
    """
    if reader.views.num_views != 1:
        raise ConfigError(
            f"A remembered teacher knows one view a sample, but {reader.views.fingerprint} has "
            f"{reader.views.num_views}. Teach live, or from a cache on disk."
        )
    requests = in_order(len(reader), batch_size=batch_size)
    said = [live(reader[request].to(live.device)) for request in requests]
    features = {
        layer: torch.cat([outputs.features[layer] for outputs in said]) for layer in live.layers
    }
    return PrecomputedTeacher(live, torch.cat([outputs.logits for outputs in said]), features)
