"""Divergences other than forward KL, for distributions given by their logarithms.

All of them take the student's log-probabilities first and the teacher's second, as constants, and
give one number an item in nats (total variation: a share). None is negative, and each is 0 where
the two are equal.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.losses.divergences import kl_of_logs, not_below_zero

# Where the student is divided by the teacher, a class that the teacher holds impossible counts as
# this likely: the divergence stays finite, and its gradient still drives the student away.
LEAST_LOG = -100.0


def reverse_kl_of_logs(
    student_log: Float[Tensor, "*batch classes"], teacher_log: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(student || teacher); the gradient flows through both occurrences of the student."""
    return kl_of_logs(teacher_log.clamp(min=LEAST_LOG), student_log)


def log_mixture(
    student_log: Float[Tensor, "*batch classes"],
    teacher_log: Float[Tensor, "*batch classes"],
    teacher_share: float,
) -> Float[Tensor, "*batch classes"]:
    """Logarithm of a mixture of the teacher's and the student's distribution.

    Args:
        student_log: Log-probabilities.
        teacher_log: Log-probabilities.
        teacher_share: Above 0 and below 1.
    """
    of_student = student_log + math.log1p(-teacher_share)
    is_impossible = teacher_log == -torch.inf
    of_teacher = teacher_log.masked_fill(is_impossible, 0.0) + math.log(teacher_share)
    # logaddexp has no gradient where both are -inf, so such classes go another way.
    return torch.where(is_impossible, of_student, torch.logaddexp(of_student, of_teacher))


def jensen_shannon_of_logs(
    student_log: Float[Tensor, "*batch classes"],
    teacher_log: Float[Tensor, "*batch classes"],
    teacher_share: float,
) -> Float[Tensor, "*batch"]:
    """Generalised Jensen-Shannon divergence over share times (1 - share): continuous at its ends.

    Args:
        student_log: Log-probabilities.
        teacher_log: Log-probabilities.
        teacher_share: Share of the mixture; at 0 this is forward KL, at 1 reverse KL.
    """
    if teacher_share == 0:
        return kl_of_logs(student_log, teacher_log)
    if teacher_share == 1:
        return reverse_kl_of_logs(student_log, teacher_log)
    mixture = log_mixture(student_log, teacher_log, teacher_share)
    from_teacher = kl_of_logs(mixture, teacher_log) / (1 - teacher_share)
    return from_teacher + kl_of_logs(mixture, student_log) / teacher_share


def alpha_beta_of_logs(
    student_log: Float[Tensor, "*batch classes"],
    teacher_log: Float[Tensor, "*batch classes"],
    teacher_power: float,
    student_power: float,
) -> Float[Tensor, "*batch"]:
    """Alpha-beta divergence; powers (1, 0) give forward KL, (0, 1) reverse KL.

    Args:
        student_log: Log-probabilities.
        teacher_log: Log-probabilities.
        teacher_power: 0 or more; alpha in the paper.
        student_power: 0 or more, and not 0 together with the other; beta in the paper.
    """
    total = teacher_power + student_power
    student, teacher = (total * student_log).exp(), (total * teacher_log).exp()
    if student_power == 0:
        gap = torch.where(teacher > 0, teacher_log - student_log, 0.0)
        sums = (teacher * total * gap - teacher + student).sum(dim=-1)
        return not_below_zero(sums / total**2)
    if teacher_power == 0:
        gap = torch.where(student > 0, student_log - teacher_log.clamp(min=LEAST_LOG), 0.0)
        sums = (student * total * gap - student + teacher).sum(dim=-1)
        return not_below_zero(sums / total**2)
    both = (teacher_power * teacher_log + student_power * student_log).exp()
    mean = (teacher_power * teacher + student_power * student) / total
    return not_below_zero((mean - both).sum(dim=-1) / (teacher_power * student_power))


def total_variation_of_logs(
    student_log: Float[Tensor, "*batch classes"], teacher_log: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """Half the sum of absolute differences: the probability mass that would have to move."""
    return 0.5 * (teacher_log.exp() - student_log.exp()).abs().sum(dim=-1)


def adaptive_kl_of_logs(
    student_log: Float[Tensor, "*batch classes"],
    teacher_log: Float[Tensor, "*batch classes"],
    head_mass: float,
) -> Float[Tensor, "*batch"]:
    """Forward and reverse KL, weighted by how far apart both are in the head and in the tail.

    Args:
        student_log: Log-probabilities.
        teacher_log: Log-probabilities.
        head_mass: Total probability of the teacher's most likely classes, its head.
    """
    with torch.no_grad():
        gap = (teacher_log.exp() - student_log.exp()).abs()
        head = torch.where(in_head(teacher_log, head_mass), gap, 0.0).sum(dim=-1)
        total = gap.sum(dim=-1)
        of_head = torch.where(total > 0, head / total, 0.5)
    forward = kl_of_logs(student_log, teacher_log)
    return of_head * forward + (1 - of_head) * reverse_kl_of_logs(student_log, teacher_log)


def in_head(
    teacher_log: Float[Tensor, "*batch classes"], head_mass: float
) -> Bool[Tensor, "*batch classes"]:
    """Whether a class is among the most likely ones with a total mass of at most `head_mass`.

    The likeliest class always is; the class that passes the mass is not.
    """
    ordered, classes = teacher_log.exp().sort(dim=-1, descending=True)
    is_head = ordered.cumsum(dim=-1) <= head_mass
    is_head[..., 0] = True
    return torch.zeros_like(is_head).scatter(dim=-1, index=classes, src=is_head)
