"""Distances between distributions: the only module with softmax and temperature."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage.errors import ConfigError, ShapeError
from tutelage.objective import Ramp, Scheduled

Temperature = float | int | Float[Tensor, ""]


def check_temperature(temperature: float | int, name: str = "temperature") -> float:
    """The temperature, checked to be above 0.

    Args:
        temperature: To be checked.
        name: Name of the setting, for the message.

    Raises:
        ConfigError: It is 0, negative, infinite or not a number.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(
            f"{name} must be above 0 and finite, got {temperature}. Usual values: 1 to 10."
        )
    return float(temperature)


def check_scheduled_temperature(temperature: Scheduled) -> Scheduled:
    """A temperature that may be scheduled, checked to be above 0 throughout.

    Raises:
        ConfigError: It is 0, negative, infinite or not a number at some time.
    """
    if not isinstance(temperature, Ramp):
        return check_temperature(temperature)
    check_temperature(temperature.start)
    check_temperature(temperature.end)
    return temperature


def log_soften(
    logits: Float[Tensor, "*batch classes"], temperature: Temperature = 1.0
) -> Float[Tensor, "*batch classes"]:
    """Logarithm of the softened distribution, log softmax(logits / temperature).

    Args:
        logits: Before softmax; `-inf` means an impossible class.
        temperature: Above 0; a tensor where it is learned.

    Returns:
        Log-probabilities in nats, in float32 or better.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    is_plain = not isinstance(temperature, Tensor) and temperature == 1.0
    scaled = precise if is_plain else precise / temperature
    return torch.log_softmax(scaled, dim=-1)


def soften(
    logits: Float[Tensor, "*batch classes"], temperature: Temperature = 1.0
) -> Float[Tensor, "*batch classes"]:
    """The softened distribution, softmax(logits / temperature).

    Args:
        logits: Before softmax.
        temperature: Above 0; higher is more even.

    Returns:
        Probabilities, each row summing to 1.

    Source:
        Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network",
        arXiv:1503.02531, equation 1.
    """
    return log_soften(logits, temperature).exp()


def masked_mean(
    values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"] | None
) -> Float[Tensor, ""]:
    """Mean over the items whose mask is True; 0 if there are none.

    Args:
        values: One number an item.
        mask: True = counts; None counts all.
    """
    if values.numel() == 0:
        return values.sum()
    if mask is None:
        return values.mean()
    counted = torch.where(mask, values, 0.0)
    return counted.sum() / mask.sum().clamp(min=1)


def cleared(
    logits: Float[Tensor, "*batch classes"], mask: Bool[Tensor, "*batch"] | None
) -> Float[Tensor, "*batch classes"]:
    """Logits with 0 in masked items.

    What stands there may be infinite or not a number. Taken out after the arithmetic, it would
    still spread: its gradient is 0 times infinity. So it is taken out before.
    """
    return logits if mask is None else torch.where(mask.unsqueeze(dim=-1), logits, 0.0)


def kl_divergence(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    temperature: Temperature = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """KL(teacher || student) of softened distributions, times temperature squared.

    Summed over classes, mean over counted items. The factor keeps the gradient's size nearly
    independent of the temperature: on the student's logits it is T (q - p) / N.

    Args:
        student_logits: Before softmax.
        teacher_logits: Before softmax; a constant, no gradient reaches it.
        temperature: Above 0; 1 to 10 is usual, 4 common on CIFAR-100.
        mask: True = counts; None counts all.

    Returns:
        In nats; 0 when the distributions are equal, never below.

    Source:
        Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network",
        arXiv:1503.02531, section 2.
    """
    student_logits, teacher_logits = cleared(student_logits, mask), cleared(teacher_logits, mask)
    return temperature**2 * masked_mean(
        kl_per_item(student_logits, teacher_logits, temperature), mask
    )


def kl_per_item(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    temperature: Temperature = 1.0,
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) of softened distributions for each item, without T squared.

    Classes that the teacher holds impossible add nothing, whatever the student says of them.
    """
    return kl_of_logs(
        log_soften(student_logits, temperature), log_soften(teacher_logits.detach(), temperature)
    )


def kl_of_logs(
    student_log: Float[Tensor, "*batch classes"], teacher_log: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) for each item, of distributions given by their logarithms."""
    teacher = teacher_log.exp()
    gap = torch.where(teacher > 0, teacher_log - student_log, 0.0)
    return not_below_zero((teacher * gap).sum(dim=-1))


def not_below_zero(values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Distances clamped at 0 against rounding, with unchanged gradient."""
    return values + (-values.detach()).clamp(min=0)


def cross_entropy(
    logits: Float[Tensor, "*batch classes"],
    labels: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Negative log-probability of the labels at temperature 1, mean over valid items.

    Args:
        logits: Before softmax.
        labels: Class numbers from 0; anything (-100, say) where the mask is False.
        mask: True = counts; None counts all.

    Returns:
        In nats.
    """
    log_probabilities = log_soften(cleared(logits, mask))
    if mask is not None:
        labels = torch.where(mask, labels, 0)
    return masked_mean(-log_of_labels(log_probabilities, labels), mask)


def soft_cross_entropy(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_probabilities: Float[Tensor, "*batch classes"],
    temperature: float | int = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the softened student under given soft targets, without T squared.

    Differs from the KL divergence by the teacher's entropy, a constant.

    Args:
        student_logits: Before softmax.
        teacher_probabilities: Used as they are: rounded values that do not sum to 1 are not mended.
        temperature: Temperature of the student's softmax, above 0.
        mask: True = counts; None counts all.

    Returns:
        In nats, summed over classes, mean over counted items.
    """
    student_log = log_soften(cleared(student_logits, mask), temperature)
    return masked_mean(weighed_surprise(student_log, teacher_probabilities), mask)


def weighed_surprise(
    student_log: Float[Tensor, "*batch classes"], weights: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """Weighted negative log-probabilities, summed per item; classes of weight 0 are excluded.

    Args:
        student_log: Log-probabilities.
        weights: Weights of each class, 0 or more; soft targets make it a cross-entropy.
    """
    return torch.where(weights > 0, -weights * student_log, 0.0).sum(dim=-1)


def log_of_labels(
    log_probabilities: Float[Tensor, "*batch classes"], labels: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The entry of each item's label."""
    return log_probabilities.gather(dim=-1, index=labels.unsqueeze(dim=-1)).squeeze(dim=-1)


def entropy_per_item(
    logits: Float[Tensor, "*batch classes"], temperature: Temperature = 1.0
) -> Float[Tensor, "*batch"]:
    """Entropy of the softened distribution of each item, in nats."""
    log_probabilities = log_soften(logits, temperature)
    return weighed_surprise(log_probabilities, log_probabilities.exp())


class LabelSplit(NamedTuple):
    """Log-probabilities of a distribution, split into the label and the rest.

    Attributes:
        label_or_not: Log-probability of the label, and of all other classes together.
        others: Log-probability of each class, given that it is not the label; `-inf` at the label.
    """

    label_or_not: Float[Tensor, "*batch 2"]
    others: Float[Tensor, "*batch classes"]


def split_at_label(
    logits: Float[Tensor, "*batch classes"],
    labels: Int[Tensor, "*batch"],
    temperature: Temperature = 1.0,
) -> LabelSplit:
    """Split a softened distribution into the label and the rest.

    All in logarithms, so that a label that is nearly sure leaves the others finite.

    Args:
        logits: Before softmax.
        labels: Class numbers from 0.
        temperature: Above 0.
    """
    is_label = torch.zeros_like(logits, dtype=torch.bool)
    is_label = is_label.scatter(dim=-1, index=labels.unsqueeze(dim=-1), value=True)
    log_all = log_soften(logits, temperature)
    rest = log_all.masked_fill(is_label, -torch.inf).logsumexp(dim=-1)
    without = logits.masked_fill(is_label, -torch.inf)
    is_empty = (without == -torch.inf).all(dim=-1, keepdim=True)
    others = log_soften(without.masked_fill(is_empty, 0.0), temperature)
    return LabelSplit(
        torch.stack([log_of_labels(log_all, labels), rest], dim=-1),
        others.masked_fill(is_empty, -torch.inf),
    )


def log_mean_probabilities(
    logits: Float[Tensor, "members *batch classes"], log_weights: Float[Tensor, " members"]
) -> Float[Tensor, "*batch classes"]:
    """Logarithm of the weighted mean of several distributions, usable as logits.

    Args:
        logits: Logits of each member, before softmax.
        log_weights: Logarithms of weights that sum to 1.
    """
    parts = [log_soften(rows) + weight for rows, weight in zip(logits, log_weights, strict=True)]
    return torch.logsumexp(torch.stack(parts), dim=0)


def logit_of_mean_yes(
    logits: Float[Tensor, "members *batch labels"], log_weights: Float[Tensor, " members"]
) -> Float[Tensor, "*batch labels"]:
    """Logit of the weighted mean of several probabilities of yes, label by label.

    Args:
        logits: Logits of each member, before a sigmoid each.
        log_weights: Logarithms of weights that sum to 1.
    """
    weights = log_weights.view(-1, *(1,) * (logits.ndim - 1))
    return (log_yes(logits) + weights).logsumexp(dim=0) - (log_yes(-logits) + weights).logsumexp(
        dim=0
    )


def log_yes(
    logits: Float[Tensor, "*batch labels"], temperature: Temperature = 1.0
) -> Float[Tensor, "*batch labels"]:
    """Logarithm of the softened probability of yes, log sigmoid(logits / temperature).

    Of minus the logits it is that of no.

    Args:
        logits: Before a sigmoid each.
        temperature: Above 0; higher is nearer to a half.

    Returns:
        In nats, in float32 or better.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.logsigmoid(precise / temperature)


def binary_kl_per_item(
    student_logits: Float[Tensor, "*batch labels"],
    teacher_logits: Float[Tensor, "*batch labels"],
    temperature: Temperature = 1.0,
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) of each label's yes or no, summed over labels, without T squared.

    What the teacher holds impossible adds nothing, whatever the student says of it.
    """
    ours, theirs = (
        torch.stack([log_yes(logits, temperature), log_yes(-logits, temperature)], dim=-1)
        for logits in (student_logits, teacher_logits.detach())
    )
    dtype = torch.promote_types(ours.dtype, theirs.dtype)
    return kl_of_logs(ours.to(dtype), theirs.to(dtype)).sum(dim=-1)


def binary_cross_entropy_per_item(
    logits: Float[Tensor, "*batch labels"], labels: Float[Tensor, "*batch labels"]
) -> Float[Tensor, "*batch"]:
    """Negative log-probability of each label's yes or no, summed over labels, in nats.

    Args:
        logits: Before a sigmoid each.
        labels: 0 or 1, or the probability of yes.
    """
    yes = torch.where(labels > 0, -labels * log_yes(logits), 0.0)
    no = torch.where(labels < 1, (labels - 1) * log_yes(-logits), 0.0)
    return (yes + no).sum(dim=-1)


def squared_logit_distance(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Half the mean squared difference of centred logits, mean over classes and valid items.

    Centring takes out each row's mean, which softmax does not see. This is the limit of
    `kl_divergence` (with its T squared) for high temperatures. Classes that either network holds
    impossible are left out.

    Args:
        student_logits: Before softmax.
        teacher_logits: Before softmax; a constant.
        mask: True = counts; None counts all.

    Source:
        Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.1.
    """
    student = student_logits if student_logits.dtype == torch.float64 else student_logits.float()
    teacher = teacher_logits.detach().to(student.dtype)
    possible = (student != -torch.inf) & (teacher != -torch.inf)
    if mask is not None:
        possible &= mask.unsqueeze(-1)
    count = possible.sum(dim=-1, keepdim=True).clamp(min=1)
    gap = torch.where(possible, student - teacher, 0.0)
    centred = torch.where(possible, gap - gap.sum(dim=-1, keepdim=True) / count, 0.0)
    return masked_mean(0.5 * centred.square().sum(dim=-1) / count.squeeze(-1), mask)


def check_same_shape(student: Sequence[int], teacher: Sequence[int]) -> None:
    """Refuse logits of two networks with different shapes.

    Raises:
        ShapeError: They differ.
    """
    if tuple(student) != tuple(teacher):
        raise ShapeError(
            f"Student logits are {tuple(student)}, teacher logits are {tuple(teacher)}. Both "
            "networks must score the same samples and the same classes; give the student the "
            "teacher's number of classes."
        )
