"""A live teacher: a network that is run on every batch."""

import copy
import hashlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError, TeacherChangedError, find
from tutelage.inputs import InputKind, kind_of
from tutelage.models.calling import call
from tutelage.models.copies import copied, state_of
from tutelage.models.modes import frozen
from tutelage.models.origin import origin_of
from tutelage.models.taps import find_layer
from tutelage.sharding import local, shard
from tutelage.tasks import Task
from tutelage.teachers.lengths import by_length
from tutelage.types import (
    PRECISIONS,
    Batch,
    HiddenStates,
    Outputs,
    Signal,
    SparseLogits,
    autocast,
    map_tensors,
    tensor_bytes,
)

Scores = Tensor | SparseLogits | HiddenStates

TEXT_CHUNK = 32  # of 16 tokens; fewer of longer ones, so that all chunks have as many tokens
CHUNK_TOKENS = 16
TEXTS_AT_ONCE = 2048  # of each length there are many then, and chunks are full


def goes_by_length(
    batch: Batch, task: Task, layers: Sequence[str], kind: InputKind | None = None
) -> bool:
    """Whether samples are chunked by length: texts, if no layer is read."""
    if layers or task.items_per_sample != 1:
        return False
    return (kind or kind_of(batch.inputs)).lengths(batch.inputs) is not None


class ModuleTeacher:
    """A network as a teacher: in eval mode, frozen, and run in chunks of a fixed size.

    Chunks of one size, the last one filled up, make its outputs for a view independent of the
    batch that the view comes in, bit for bit. That is what makes a cache exact. Texts are sorted
    into chunks by their length, unless features are asked for, which no cache holds.

    Args:
        model: The network; it is put in eval mode and its parameters stop requiring gradients.
        task: How it is called.
        chunk: Rows of each forward; of texts at most `TEXT_CHUNK`, counted as texts of 16 tokens.
        device: Where it runs; None leaves it.
        precision: Precision of its forward, "float32" or "bf16"; what it gives is float32 either
            way.
        layers: Parts whose features it gives beside the logits; of the network itself, also where
            it stands in an `InputAdapter`.
        inputs: Kind of its inputs; decided from each batch if not given.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        chunk: int = 128,
        device: torch.device | None = None,
        precision: str = "float32",
        layers: Sequence[str] = (),
        inputs: InputKind | None = None,
    ) -> None:
        """Freeze the network."""
        find("precision", precision, PRECISIONS)
        self.precision = precision
        self.model = frozen(model.eval())
        self._root: _Root | None = None  # of a network in pieces
        if device is not None:
            self.model = self.model.to(device)
        own = next((value.device for value in state_of(model).values()), None)
        self.device = device or own or torch.device("cpu")
        self.task = task
        self.chunk = chunk
        self.inputs = inputs
        self.layers = tuple(layers)
        self.network, self._inside = inside_of(model)
        self._is_reordered = isinstance(model, ClassOrder)
        for layer in self.layers:
            find_layer(self.network, layer)
        gives = {task.gives, Signal.FEATURES} if layers else {task.gives}
        self.gives: frozenset[Signal] = frozenset(gives)
        self._state = state_fingerprint(model)
        told = "" if precision == "float32" else f" {precision}"
        self.fingerprint = f"{self._state} chunk={chunk}{told}"

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        """Logits, and features if asked for, of the batch's views."""
        if self._is_sorted(batch):
            return self._by_length(batch)
        chunks = [self._run(part, self.chunk) for part in split(batch, self.chunk)]
        if len(chunks) == 1:
            return chunks[0]
        features = {
            layer: torch.cat([chunk.features[layer] for chunk in chunks]) for layer in self.layers
        }
        return Outputs(Outputs.join(chunks).scores, features)

    def best_size(self, sample: Batch) -> int:
        """Best number of samples per call, given one sample.

        Of texts that are sorted by length these are many, so that chunks are full.
        """
        return TEXTS_AT_ONCE if self._is_sorted(sample) else max(1, self.chunk)

    def shared_among(self, processes: int) -> "ModuleTeacher":
        """The same teacher for several processes that share a batch, with smaller chunks.

        Its outputs agree with those of one process to rounding, and its fingerprint is the same.
        """
        smaller = copy.copy(self)
        smaller.chunk = -(-self.chunk // processes)
        return smaller

    def in_pieces(self, device: torch.device) -> "ModuleTeacher":
        """The same teacher sharded among processes, which all run together.

        Each process calls it as often as the others, with its own rows; the network that this one
        holds stays whole, where it is.

        Args:
            device: Where this process's piece goes.
        """
        pieces = copy.copy(self)
        pieces.chunk += 1  # a row that is left joins the last batch: still one call in each process
        pieces.model = copied(self.model)
        pieces.device = device
        pieces._root = _Root(pieces.model, self.task)
        shard(pieces._root, pieces.model)
        pieces._state = state_fingerprint(pieces.model)
        return pieces

    def part(self, layer: str) -> nn.Module:
        """A frozen copy of a part of the network, such as its classifier.

        Raises:
            ConfigError: Its classes come in another order than the data's.
        """
        if self._is_reordered:
            raise ConfigError(
                "teacher: its classes come in another order than the data's, so a loss cannot take "
                "a part of it over. Choose another loss, or train the teacher here."
            )
        return frozen(copied(find_layer(self.network, layer)))

    def check(self) -> None:
        """Compare weights and buffers with their initial state.

        Raises:
            TeacherChangedError: They are others now.
        """
        now = state_fingerprint(self.model)
        if now != self._state:
            raise TeacherChangedError(
                f"the teacher changed while it taught (it was {self._state}, it is {now}). "
                "Something trains it or writes into it: give the student no layer of the "
                "teacher's own, and keep it in eval mode. What was learned from it is discarded; "
                "the same command begins this training anew."
            )

    def _is_sorted(self, batch: Batch) -> bool:
        return self._root is None and goes_by_length(batch, self.task, self.layers, self.inputs)

    def _by_length(self, batch: Batch) -> Outputs:
        """Texts in chunks of one shape each, independent of the other texts in the batch."""
        tokens = min(self.chunk, TEXT_CHUNK) * CHUNK_TOKENS
        rows, logits = [], []
        for numbers, length, part in by_length(batch, self.inputs or kind_of(batch.inputs)):
            chunk = max(1, tokens // length)
            rows.append(numbers)
            logits += [self._run(few, chunk).logits for few in split(part, chunk)]
        order = torch.cat(rows).argsort()
        return Outputs(torch.cat(logits).index_select(0, order))

    def _run(self, part: Batch, chunk: int) -> Outputs:
        rows, items = len(part), len(self.task.items(part).sample_ids)
        paths = {self._inside + layer: layer for layer in self.layers}
        run = self.task.run if self._root is None else self._root
        with autocast(self.device, self.precision):
            given = run(self.model, filled_up(part, chunk), tuple(paths))
        features = {
            paths[path]: _single(feature[:rows]) for path, feature in given.features.items()
        }
        return Outputs(_in_float32(given.pick(slice(items)).scores), features)


def _in_float32(scores: Scores) -> Scores:
    """Scores in float32; for hidden states, losses convert after the head."""
    return _single(scores) if isinstance(scores, Tensor) else scores


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch split into parts of this many samples, without labels; the last may be smaller."""
    for start in range(0, len(batch), size):
        rows = slice(start, start + size)
        yield Batch(
            inputs=map_tensors(batch.inputs, lambda tensor, rows=rows: tensor[rows]),  # type: ignore[misc]
            labels=None,
            sample_ids=batch.sample_ids[rows],
            view_ids=batch.view_ids[rows],
        )


def filled_up(batch: Batch, size: int) -> Batch:
    """A batch padded to this many samples with copies of its last one."""
    missing = size - len(batch)
    if missing == 0:
        return batch

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])

    return Batch(
        inputs=map_tensors(batch.inputs, longer),
        labels=None,
        sample_ids=longer(batch.sample_ids),
        view_ids=longer(batch.view_ids),
    )


class _Root(nn.Module):
    """Outermost module of a sharded network, so that its own weights are gathered in a call."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, model: nn.Module, part: Batch, layers: Sequence[str]) -> Outputs:
        """The task's outputs of the network."""
        return self.task.run(model, part, layers)


def state_fingerprint(model: nn.Module) -> str:
    """Fingerprint of a network's class, weights and buffers, and their memory layout."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in state_of(model).items():
        own = local(value)
        is_plain = own.ndim != 4 or own.is_contiguous()
        digest.update((name if is_plain else f"{name}, channels last").encode())
        digest.update(tensor_bytes(own))
    return digest.hexdigest()[:16]


class Adapted(nn.Module):
    """A network with a step before or after it.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        """Hold the network."""
        super().__init__()
        self.model = model


def inside_of(model: nn.Module) -> tuple[nn.Module, str]:
    """The network inside its adapters, and the prefix of its names."""
    prefix = ""
    while isinstance(model, Adapted):
        model, prefix = model.model, f"{prefix}model."
    return model, prefix


def new_head(model: nn.Module) -> set[str]:
    """Names of the weights of a new head on a pretrained body.

    Raises:
        ConfigError: No part of the network is newly drawn, or all of it.
    """
    inner, prefix = inside_of(model)
    head = {prefix + name for name in origin_of(inner).drawn}
    weights = {name for name, _ in model.named_parameters()}
    if not head & weights or head >= weights:
        raise ConfigError(
            "teacher.training.head_epochs: this network has no new head on a pretrained body. "
            "Give weights and head: new, or leave head_epochs out."
        )
    return head


class ClassOrder(Adapted):
    """Reorders a network's logits into the data's class order.

    Args:
        model: The network.
        order: Which of its logits belongs to each class.
    """

    def __init__(self, model: nn.Module, order: Sequence[int]) -> None:
        """Hold the order."""
        super().__init__(model)
        self.order: Tensor
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.places = tuple(order)

    def extra_repr(self) -> str:
        """The order, for the fingerprint."""
        return f"order={self.places}"

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The network's logits, in the data's order."""
        return call(self.model, inputs[0] if inputs else named).index_select(-1, self.order)


class InputAdapter(Adapted):
    """Converts inputs to a network's own normalisation and size.

    Args:
        model: The network.
        data_norm: Mean and std of the data's inputs, or None if they are plain 0..1.
        own_norm: Mean and std that the network expects.
        image_size: Height and width that it expects; None keeps the data's.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        data_norm: tuple[Sequence[float], Sequence[float]] | None,
        own_norm: tuple[Sequence[float], Sequence[float]] | None,
        image_size: int | None = None,
    ) -> None:
        """Combine both normalisations into one scale and one shift."""
        super().__init__(model)
        self.scale: Tensor
        self.shift: Tensor
        self.image_size = image_size
        data_mean, data_std = _columns(data_norm)
        own_mean, own_std = _columns(own_norm) if own_norm else (data_mean, data_std)
        self.register_buffer("scale", data_std / own_std, persistent=False)
        self.register_buffer("shift", (data_mean - own_mean) / own_std, persistent=False)

    def extra_repr(self) -> str:
        """The conversion of inputs, for the fingerprint."""
        scale, shift = self.scale.flatten().tolist(), self.shift.flatten().tolist()
        return f"scale={scale}, shift={shift}, image_size={self.image_size}"

    def forward(self, inputs: Float[Tensor, "batch channels ..."]) -> Tensor:
        """Logits of the network."""
        shape = (-1, *(1,) * (inputs.ndim - 2))
        own: Tensor = inputs * self.scale.view(shape) + self.shift.view(shape)
        if self.image_size is not None and own.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            own = F.interpolate(own, size=size, mode="bilinear", antialias=True)
        logits: Tensor = self.model(own)
        return logits


def _columns(norm: tuple[Sequence[float], Sequence[float]] | None) -> tuple[Tensor, Tensor]:
    mean, std = norm or ((0.0,), (1.0,))
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
