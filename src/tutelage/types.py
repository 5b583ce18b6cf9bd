"""What flows between rooms while a run goes on: batches, outputs, signals."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def tensor_bytes(tensor: Shaped[Tensor, "..."]) -> memoryview:
    """The bytes of a tensor, for fingerprints."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


class Signal(enum.Enum):
    """Something that a loss may need and that a teacher or a data set may give."""

    LABELS = "labels"
    LOGITS = "logits"
    FEATURES = "features"


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples as the networks take them.

    Attributes:
        inputs: What the networks are called with, one row a sample.
        labels: Ground truth, or None for unlabelled data.
        sample_ids: Position of each sample in its data set; stable from run to run.
        view_ids: Which view of its sample each row shows.
        mask: True where a row counts in means; None counts all.
    """

    inputs: Shaped[Tensor, "batch ..."]
    labels: Int[Tensor, " batch"] | None
    sample_ids: Int[Tensor, " batch"]
    view_ids: Int[Tensor, " batch"]
    mask: Bool[Tensor, " batch"] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; itself when it is there already."""
        if self.inputs.device == device:
            return self
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            mask=None if self.mask is None else self.mask.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class SparseLogits:
    """The k best logits of each row, and one filler for the rest.

    The filler spreads the probability mass outside the k best evenly over the other classes, so
    that the whole is a distribution at every temperature and exact in its kept part at 1.

    Attributes:
        values: The k largest logits.
        indices: Their classes.
        filler: The logit that every other class gets.
        num_classes: Width of the dense logits.
        is_pooled: Whether losses shall compare the rest as one class, by its mass alone, rather
            than spread evenly; right for vocabularies, where an even spread is far from any
            network's. A kept class of value `-inf` is none: it repeats another to fill the row.
    """

    values: Float[Tensor, "batch k"]
    indices: Int[Tensor, "batch k"]
    filler: Float[Tensor, " batch"]
    num_classes: int
    is_pooled: bool = False

    @property
    def rest(self) -> Float[Tensor, " batch"]:
        """The logit of all other classes together."""
        return self.filler + math.log(self.num_classes - self.values.shape[-1])

    def dense(self) -> Float[Tensor, "batch classes"]:
        """Logits over all classes."""
        rows = self.filler[:, None].expand(-1, self.num_classes)
        return rows.scatter(dim=1, index=self.indices, src=self.values)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one network gives for one batch.

    Attributes:
        scores: Logits, dense or sparse.
        features: Outputs of the layers that were asked for, by layer; one row a sample.
    """

    scores: Float[Tensor, "batch classes"] | SparseLogits
    features: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Float[Tensor, "batch classes"]:
        """Logits over all classes, made dense on demand."""
        return self.scores.dense() if isinstance(self.scores, SparseLogits) else self.scores
