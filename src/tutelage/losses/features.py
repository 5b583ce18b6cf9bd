"""Shared parts of losses on features: valid rows, and matching shapes."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from tutelage.errors import ConfigError, ShapeError, SignalError
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs

Layers = str | Sequence[str]
Features = tuple[Tensor, ...]
Distance = Callable[[Features, Features], Tensor]


def layer_names(title: str, layers: Layers, same_as: Sequence[str] = ()) -> tuple[str, ...]:
    """One or several names of layers as a tuple.

    Args:
        title: The loss, for the message.
        layers: A name, or several.
        same_as: The other network's layers, to each of which one of these belongs.

    Raises:
        ConfigError: There is none, or not as many as the other network has.
    """
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{title}: layers must be names of layers, at least one; got {layers!r}.")
    if same_as and len(names) != len(same_as):
        raise ConfigError(
            f"{title}: student_layers and teacher_layers go in pairs, got {len(same_as)} "
            f"({', '.join(same_as)}) and {len(names)} ({', '.join(names)})."
        )
    return names


def layer_pairs(
    title: str, ours: Layers, theirs: Layers | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers of the student, and the teacher's layers that they are paired with.

    Args:
        title: The loss, for the message.
        ours: Layers of the student: a name, or several.
        theirs: Layers of the teacher, as many; None takes the student's names.

    Raises:
        ConfigError: There is none, or the two differ in number.
    """
    student = layer_names(title, ours)
    return student, layer_names(title, theirs or student, student)


class LayerLoss(Loss):
    """A loss on one layer of each network.

    Args:
        student_layer: Layer of the student.
        teacher_layer: Layer of the teacher; None takes the student's name.
    """

    def __init__(self, student_layer: str, teacher_layer: str | None = None) -> None:
        """Keep the layers."""
        super().__init__()
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer or student_layer
        self.student_layers = layer_names(self.title, self.student_layer)
        self.teacher_layers = layer_names(self.title, self.teacher_layer)


def over_counted(
    loss: Loss,
    student: Outputs,
    teacher: Outputs | None,
    batch: Batch,
    distance: Distance,
    *,
    least: int = 1,
) -> Float[Tensor, ""]:
    """A distance between the valid rows of a loss's layers, all in one precision.

    Args:
        loss: Names the layers of both networks.
        student: With gradient.
        teacher: A constant; None where the loss looks at no layer of a teacher.
        batch: Its mask chooses the rows.
        distance: Distance of the student's features and the teacher's, layer by layer.
        least: Rows without which there is nothing to compare.

    Returns:
        The distance; 0 where fewer rows count.

    Raises:
        SignalError: A layer's features are not there.
        ShapeError: A layer does not give one row a sample.
        ConfigError: The loss's own weights are less precise than float32.
    """
    rows = len(batch)
    ours = features_of(loss, student, loss.student_layers, "student", rows)
    theirs = features_of(loss, teacher, loss.teacher_layers, "teacher", rows)
    dtype = precision_of(loss, ours[0])
    chosen = tuple(valid_rows(feature, batch.mask).to(dtype) for feature in ours)
    wanted = tuple(valid_rows(feature.detach(), batch.mask).to(dtype) for feature in theirs)
    if len(chosen[0]) < least:
        return nothing_of(chosen)
    with torch.autocast(chosen[0].device.type, enabled=False):
        return distance(chosen, wanted)


def precision_of(loss: Loss, student: Tensor) -> torch.dtype:
    """Precision of a loss: that of its weights, or of the student, at least float32.

    Raises:
        ConfigError: Its weights are less precise than float32.
    """
    own = next((weight.dtype for weight in loss.parameters()), None)
    if own is None:
        return torch.float64 if student.dtype == torch.float64 else torch.float32
    if own not in (torch.float32, torch.float64):
        raise ConfigError(
            f"Loss {loss.title!r} has weights of its own in {own}; they must be float32 or "
            "float64. Call its float(): the networks may stay as they are."
        )
    return own


def nothing_of(features: Features) -> Float[Tensor, ""]:
    """0, with a gradient of 0 for the features, whatever values they hold."""
    return torch.stack([feature[:0].sum() for feature in features]).sum()


def features_of(
    loss: Loss, outputs: Outputs | None, layers: Sequence[str], role: str, rows: int | None = None
) -> Features:
    """Features of layers, checked to exist with one row per sample.

    Raises:
        SignalError: They are not there.
        ShapeError: A layer gives another number of rows.
    """
    there: Mapping[str, Tensor] = {} if outputs is None else outputs.features
    missing = [layer for layer in layers if layer not in there]
    if missing:
        raise SignalError(
            f"Loss {loss.title!r} needs features of the {role}'s layer {', '.join(missing)}, but "
            f"the {role} gives only: {', '.join(there) or 'none'}. "
            + ("Teach live: a cache holds logits alone." if role == "teacher" else "Tap it.")
        )
    for layer in layers:
        found = there[layer]
        if found.ndim < 2 or (rows is not None and len(found) != rows):
            raise ShapeError(
                f"{loss.title}: the {role}'s layer {layer} gives {tuple(found.shape)}, "
                f"{'one row a sample' if rows is None else f'{rows} rows'} is needed. Name a layer "
                "whose first axis is the batch."
            )
    return tuple(there[layer] for layer in layers)


def valid_rows(
    feature: Shaped[Tensor, "batch ..."], mask: Bool[Tensor, " batch"] | None
) -> Shaped[Tensor, "counted ..."]:
    """The rows whose mask is True, in float32 or better."""
    if feature.is_floating_point() and feature.dtype != torch.float64:
        feature = feature.float()
    return feature if mask is None else feature[mask]


def pooled(feature: Float[Tensor, "batch ..."], title: str) -> Float[Tensor, "batch width"]:
    """One vector per sample: the mean of a map over positions, of tokens over tokens.

    Raises:
        ShapeError: It is neither vectors, tokens nor maps.
    """
    match feature.ndim:
        case 2:
            return feature
        case 3:
            return feature.mean(dim=1)
        case 4:
            return feature.mean(dim=(2, 3))
    raise _unfit(feature, title, "vectors (batch, width), tokens or maps")


def as_map(feature: Float[Tensor, "batch ..."], title: str) -> Float[Tensor, "batch c h w"]:
    """Maps unchanged; tokens (batch, tokens, width) as maps of width 1.

    Raises:
        ShapeError: It is neither.
    """
    match feature.ndim:
        case 3:
            return feature.transpose(1, 2).unsqueeze(dim=-1)
        case 4:
            return feature
    raise _unfit(feature, title, "maps (batch, channels, height, width) or tokens")


def maps_of_one_size(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."], title: str
) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch c2 h w"]]:
    """Two maps; the larger is pooled to the smaller's height and width.

    Raises:
        ShapeError: One has places in a square, the other in a row, or they are no maps.
    """
    ours, theirs = as_map(student, title), as_map(teacher, title)
    if student.ndim != teacher.ndim:
        raise ShapeError(
            f"{title}: the student's layer gives {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}: tokens and maps have no places in common. Name layers of "
            "one kind, or use a loss on pooled features."
        )
    height = min(ours.shape[2], theirs.shape[2])
    width = min(ours.shape[3], theirs.shape[3])
    return shrink(ours, height, width), shrink(theirs, height, width)


def of_one_kind(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."], title: str
) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
    """Vectors unchanged, maps and tokens at one size.

    Raises:
        ShapeError: One gives vectors, the other maps or tokens.
    """
    if student.ndim == teacher.ndim == 2:
        return student, teacher
    if 2 in (student.ndim, teacher.ndim):
        raise ShapeError(
            f"{title}: the student's layer gives {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}. Name two layers that give vectors, or two that give maps."
        )
    return maps_of_one_size(student, teacher, title)


def shrink(
    feature: Float[Tensor, "batch c h w"], height: int, width: int
) -> Float[Tensor, "batch c height width"]:
    """A map averaged to a size; unchanged if it has that size."""
    if feature.shape[2:] == (height, width):
        return feature
    return F.adaptive_avg_pool2d(feature, (height, width))


def width_of(feature: Float[Tensor, "batch ..."]) -> int:
    """Channels of a map, width of tokens and of vectors."""
    return feature.shape[1] if feature.ndim == 4 else feature.shape[-1]


def built(adapter: nn.Module | None, title: str) -> nn.Module:
    """An adapter, checked to be built.

    Raises:
        ConfigError: The loss was not built.
    """
    if adapter is None:
        raise ConfigError(
            f"Loss {title!r} has no adapters yet. Call its build with a dry run first, as "
            "tutelage.engine.prepare does."
        )
    return adapter


def dry_features(loss: Loss, dry: DryRun) -> tuple[Features, Features]:
    """Features of student and teacher in a dry run."""
    return (
        features_of(loss, dry.student, loss.student_layers, "student"),
        features_of(loss, dry.teacher, loss.teacher_layers, "teacher"),
    )


def check_several(loss: Loss, dry: DryRun) -> None:
    """Refuse batches of one, where a sample has no other to be related to.

    Raises:
        ConfigError: Batches hold one sample.
    """
    if len(dry.student.logits) < 2:
        raise ConfigError(
            f"Loss {loss.title!r} relates the samples of a batch, but a batch holds 1. Set "
            "train.batch_size to 2 or more; 32 to 256 is usual."
        )


def _unfit(feature: Tensor, title: str, allowed: str) -> ShapeError:
    return ShapeError(
        f"{title}: a layer gives {tuple(feature.shape)}, but it takes {allowed}. Name another."
    )
