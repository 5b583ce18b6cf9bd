"""Data passed between modules during a run: batches, outputs, signals."""

import enum
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tutelage.errors import DataError

UNLABELLED = -100  # where a label would stand and there is none
PRECISIONS: Mapping[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
VALID_MASK = "counted"  # the input that says which tokens are items (tasks/tokens.py)


def tensor_bytes(tensor: Shaped[Tensor, "..."]) -> memoryview:
    """The bytes of a tensor, for fingerprints."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to one of `PRECISIONS`; weights are unchanged."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class Signal(enum.Enum):
    """Something that a loss may need, provided by a teacher or a data set.

    `LOGITS` stand before a softmax over classes, `BINARY_LOGITS` before a sigmoid each. `VALUES`
    are real numbers in units of the labels' standard deviation, `GAUSSIANS` such values with the
    logarithms of their variances behind them.
    """

    LABELS = "labels"
    LOGITS = "logits"
    BINARY_LOGITS = "binary logits"
    VALUES = "values"
    GAUSSIANS = "gaussians"
    FEATURES = "features"
    EMBEDDINGS = "embeddings"


SCORES = frozenset(
    {
        Signal.LOGITS,
        Signal.BINARY_LOGITS,
        Signal.VALUES,
        Signal.GAUSSIANS,
        Signal.EMBEDDINGS,
    }
)
"""What the last layer of a network may give; a task says which (`Task.gives`)."""


Inputs = Tensor | Mapping[str, Tensor]


def map_tensors(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Inputs with a function applied to every tensor."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {name: change(value) for name, value in inputs.items()}


def first_tensor(inputs: Inputs) -> Tensor:
    """The first input tensor, which shows batch size and device."""
    return inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))


def one_tensor(inputs: Inputs) -> Tensor:
    """Inputs that are one tensor.

    Raises:
        DataError: They are named.
    """
    if isinstance(inputs, Tensor):
        return inputs
    raise DataError(
        f"Samples come as tensors by name ({describe_inputs(inputs)}), where the others are one "
        "tensor each. All parts of the data need one form."
    )


def by_name(inputs: Inputs) -> Mapping[str, Tensor]:
    """Tensors by name; one tensor alone is called "inputs", as in exported files."""
    return {"inputs": inputs} if isinstance(inputs, Tensor) else inputs


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors of inputs."""
    return [inputs] if isinstance(inputs, Tensor) else list(inputs.values())


def on_cpu(inputs: Inputs) -> Inputs:
    """Inputs without gradient, on the CPU."""
    return map_tensors(inputs, lambda tensor: tensor.detach().cpu())


def rows_of(inputs: Inputs, rows: slice | Int[Tensor, " rows"]) -> Inputs:
    """Some of the samples."""
    return map_tensors(inputs, operator.itemgetter(rows))


def describe_inputs(inputs: Inputs) -> str:
    """The shapes of inputs, for messages."""
    if isinstance(inputs, Tensor):
        return f"shape {tuple(inputs.shape)}"
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples in the form that networks take.

    An item is what a loss takes its mean over. It is a sample for most tasks and a token for some:
    those turn a batch of samples into one of items (`Task.items`) before a loss sees it.

    Attributes:
        inputs: What the networks are called with, one row a sample: a tensor, or tensors by the
            name of the argument that they are passed as.
        labels: Ground truth, or None for unlabelled data.
        sample_ids: Position of each sample in its data set; stable from run to run.
        view_ids: Which view of its sample each row shows.
        mask: True where a row counts in means; None counts all.
        is_labelled: True where the label is known; None where all are.
    """

    inputs: Inputs
    labels: Shaped[Tensor, "items ..."] | None
    sample_ids: Int[Tensor, " items"]
    view_ids: Int[Tensor, " items"]
    mask: Bool[Tensor, " items"] | None = None
    is_labelled: Bool[Tensor, " items"] | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(first_tensor(self.inputs))

    @property
    def label_mask(self) -> Tensor | None:
        """Mask of rows with a label; None if all have one."""
        if self.mask is None or self.is_labelled is None:
            return self.is_labelled if self.mask is None else self.mask
        return self.mask & self.is_labelled

    @property
    def num_labelled(self) -> int:
        """Number of items in means over labels."""
        mask = self.label_mask
        return len(self.sample_ids) if mask is None else int(mask.sum())

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return first_tensor(self.inputs).device

    def with_labels(self, labels: Shaped[Tensor, "items ..."] | None) -> "Batch":
        """The same samples with other labels."""
        return replace(self, labels=labels)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; itself if it is there already."""
        if self.device == device:
            return self

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            inputs=map_tensors(self.inputs, lambda tensor: tensor.to(device, non_blocking=True)),
            labels=moved(self.labels),
            mask=moved(self.mask),
            is_labelled=moved(self.is_labelled),
        )

    def parts(self, count: int) -> "list[Batch]":
        """The same samples in about this many smaller batches, avoiding single rows."""
        size = -(-len(self) // count)
        starts = list(range(0, len(self), size))
        if len(self) % size == 1 and len(starts) > 1:
            starts.pop()
        cuts = [slice(*ends) for ends in itertools.pairwise([*starts, len(self)])]
        return [replace(self.pick(rows), inputs=rows_of(self.inputs, rows)) for rows in cuts]

    def pick(self, rows: slice | Int[Tensor, " picked"]) -> "Batch":
        """Some of the items, for losses; the inputs stay whole."""
        return replace(
            self,
            labels=None if self.labels is None else self.labels[rows],
            sample_ids=self.sample_ids[rows],
            view_ids=self.view_ids[rows],
            mask=None if self.mask is None else self.mask[rows],
            is_labelled=None if self.is_labelled is None else self.is_labelled[rows],
        )


@dataclass(frozen=True, slots=True)
class SparseLogits:
    """The k largest logits of each row, and one filler for the rest.

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
        """The logit of all other classes together; `-inf` where every class is kept."""
        others = self.num_classes - self.values.shape[-1]
        if others == 0:
            return torch.full_like(self.filler, -torch.inf)
        return self.filler + math.log(others)

    def dense(self) -> Float[Tensor, "batch classes"]:
        """Logits over all classes."""
        rows = self.filler[:, None].expand(-1, self.num_classes)
        # Of a class that fills up a row by standing there twice, the larger value counts.
        return rows.scatter_reduce(
            dim=1, index=self.indices, src=self.values, reduce="amax", include_self=False
        )

    def to(self, device: torch.device) -> "SparseLogits":
        """The same on a device."""
        return replace(
            self,
            values=self.values.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
            filler=self.filler.to(device, non_blocking=True),
        )

    def pick(self, rows: slice | Int[Tensor, " picked"]) -> "SparseLogits":
        """Some of the rows."""
        picked = (self.values[rows], self.indices[rows], self.filler[rows])
        return SparseLogits(*picked, self.num_classes, self.is_pooled)


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Inputs of a language model's output head, with the head: logits computed on demand.

    For 8,192 tokens and 150,000 words the logits would take 5 GB, these a few MB. Objectives
    work on them in chunks of rows.

    Attributes:
        values: Hidden states after the last layer.
        weight: Weight of the head; it may be the embedding's own.
        bias: Bias of the head, or None.
        cap: Bound that the logits approach but never reach, as cap * tanh(product / cap) does
            (Gemma 2); None leaves the product as it is.
    """

    values: Float[Tensor, "rows width"]
    weight: Float[Tensor, "classes width"]
    bias: Float[Tensor, " classes"] | None = None
    cap: float | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    @property
    def num_classes(self) -> int:
        """Width of the dense logits."""
        return len(self.weight)

    def dense(self) -> Float[Tensor, "rows classes"]:
        """Logits over all classes."""
        return self.capped(self.product())

    def product(self) -> Float[Tensor, "rows classes"]:
        """Product with the head, before the cap."""
        return torch.nn.functional.linear(self.values, self.weight, self.bias)

    def capped(self, product: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Logits from the product with the head."""
        return product if self.cap is None else self.cap * torch.tanh(product / self.cap)

    def to(self, device: torch.device) -> "HiddenStates":
        """The same on a device."""
        bias = None if self.bias is None else self.bias.to(device, non_blocking=True)
        values = self.values.to(device, non_blocking=True)
        return HiddenStates(values, self.weight.to(device, non_blocking=True), bias, self.cap)

    def pick(self, rows: slice | Int[Tensor, " picked"]) -> "HiddenStates":
        """Some of the rows."""
        return HiddenStates(self.values[rows], self.weight, self.bias, self.cap)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of one network for one batch.

    Attributes:
        scores: Logits, dense, sparse, or as hidden states with their head; or embeddings; one row
            an item.
        features: Outputs of the layers that were asked for, by layer; one row a sample.
    """

    scores: Float[Tensor, "batch classes"] | SparseLogits | HiddenStates
    features: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Float[Tensor, "batch classes"]:
        """Logits over all classes, made dense on demand."""
        return self.scores if isinstance(self.scores, Tensor) else self.scores.dense()

    @property
    def embeddings(self) -> Float[Tensor, "batch width"]:
        """One vector per item, if the task is embedding."""
        return self.logits

    @property
    def device(self) -> torch.device:
        """Where the scores lie."""
        match self.scores:
            case HiddenStates() | SparseLogits():
                return self.scores.values.device
        return self.scores.device

    @property
    def shape(self) -> tuple[int, int]:
        """Items and classes, without computing dense logits."""
        match self.scores:
            case HiddenStates() | SparseLogits():
                return len(self.scores.values), self.scores.num_classes
        return self.scores.shape[0], self.scores.shape[1]

    def to(self, device: torch.device) -> "Outputs":
        """The scores on a device, still sparse, without features."""
        scores = self.scores
        if isinstance(scores, Tensor):
            return Outputs(scores.to(device, non_blocking=True))
        return Outputs(scores.to(device))

    @classmethod
    def join(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """Concatenated scores of several batches, without features."""
        scores = [part.scores for part in parts]
        first = scores[0]
        if isinstance(first, HiddenStates):
            values = torch.cat([part.values for part in scores if isinstance(part, HiddenStates)])
            return cls(replace(first, values=values))
        if isinstance(first, SparseLogits):
            sparse = [part for part in scores if isinstance(part, SparseLogits)]
            return cls(
                replace(
                    first,
                    values=torch.cat([part.values for part in sparse]),
                    indices=torch.cat([part.indices for part in sparse]),
                    filler=torch.cat([part.filler for part in sparse]),
                )
            )
        return cls(torch.cat([part.logits for part in parts]))

    def pick(self, rows: slice | Int[Tensor, " picked"]) -> "Outputs":
        """The scores of some items, without features."""
        scores = self.scores
        return Outputs(scores[rows] if isinstance(scores, Tensor) else scores.pick(rows))
