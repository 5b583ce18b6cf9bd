"""Losses of language models: one number per token, averaged over the valid tokens.

Forward KL is `KD`; what stands here are the other ways to compare two next-token distributions.
They work for classes as well.
"""

from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    kl_of_logs,
    kl_per_item,
    log_of_labels,
    log_soften,
    soften,
)
from tutelage.losses.per_sample import Rows, mean_per_row
from tutelage.losses.relation_kd import (
    adaptive_kl_of_logs,
    alpha_beta_of_logs,
    jensen_shannon_of_logs,
    log_mixture,
    reverse_kl_of_logs,
    total_variation_of_logs,
)
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal

Logs = tuple[Float[Tensor, "rows classes"], Float[Tensor, "rows classes"]]


def softened_logs(rows: Rows, temperature: float) -> Logs:
    """The student's and the teacher's log-probabilities at one temperature."""
    student, teacher = rows.pair
    return log_soften(student, temperature), log_soften(teacher, temperature)


class _OfLogs(Loss):
    """Base of losses that compare two softened distributions and scale by T squared."""

    needs = frozenset({Signal.LOGITS})

    def __init__(self, temperature: Scheduled) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence, times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The divergence of each row."""
        temperature = value_at(self.temperature, self.progress)
        return temperature**2 * self._divergence(*softened_logs(rows, temperature))

    @abstractmethod
    def _divergence(
        self, student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"]
    ) -> Float[Tensor, " rows"]:
        """Divergence between the student's and the teacher's log-probabilities, per row."""


@final
class ReverseKL(_OfLogs):
    """Reverse KL: T squared times KL(student || teacher) at temperature T.

    It punishes what the student holds likely and the teacher does not: a small student picks some
    of the teacher's answers rather than spreading over all. Best on text that the student wrote.

    Args:
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Gu, Dong, Wei & Huang 2023, "MiniLLM: Knowledge Distillation of Large Language Models",
        arXiv:2306.08543, section 2.1, for each token by itself.

    Differs from the paper:
        The divergence of one token's distribution, exact over the vocabulary, as in DistiLLM's
        code; the paper's policy gradient over whole texts is not here. A class that the teacher
        holds impossible counts as e to the minus 100.
    """

    title = "reverse_kl"

    def __init__(self, temperature: Scheduled = 1.0) -> None:
        """Hold the temperature."""
        super().__init__(temperature)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return reverse_kl_of_logs(student, teacher)


@final
class JensenShannon(_OfLogs):
    """Generalised Jensen-Shannon divergence: from forward to reverse KL, continuously.

    Both are compared with their mixture, so that it stays finite and small mistakes of either
    kind count. Divided by share times (1 - share), its size near a match does not depend on the
    share, and its ends are forward KL (0) and reverse KL (1) themselves.

    Args:
        teacher_share: Share of the teacher in the mixture: 0, 1, or from 0.001 to 0.999; 0.5 is
            usual. GKD and TRL call it beta.
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist & Bachem 2023, "On-Policy Distillation of
        Language Models: Learning from Self-Generated Mistakes", arXiv:2306.13649, equation 1.

    Differs from the paper:
        Divided by share times (1 - share): a quarter of ours at 0.5 is theirs. Theirs goes to 0 at
        its ends; TRL puts the full KL there, many times larger than what lies beside it.
    """

    title = "jensen_shannon"

    def __init__(self, teacher_share: float | int = 0.5, temperature: Scheduled = 1.0) -> None:
        """Hold the settings."""
        super().__init__(temperature)
        if not (teacher_share in (0, 1) or 0.001 <= teacher_share <= 0.999):
            raise ConfigError(
                f"teacher_share must be 0 (forward KL), 1 (reverse KL) or from 0.001 to 0.999, got "
                f"{teacher_share}. Usual: 0.5."
            )
        self.teacher_share = float(teacher_share)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return jensen_shannon_of_logs(student, teacher, self.teacher_share)


@final
class SkewKL(_OfLogs):
    """Skewed forward KL: from the teacher to a mixture of the student with some of the teacher.

    As KD, but bounded: a token that the student holds impossible cannot make it explode.

    Args:
        skew: Share of the teacher in the mixture, above 0 and below 1; 0.1 is usual.
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Ko, Kim, Chen & Yun 2024, "DistiLLM: Towards Streamlined Distillation for Large Language
        Models", arXiv:2402.03898, section 3.1.
    """

    title = "skew_kl"

    def __init__(self, skew: float | int = 0.1, temperature: Scheduled = 1.0) -> None:
        """Hold the settings."""
        super().__init__(temperature)
        self.skew = _share("skew", skew)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_of_logs(log_mixture(student, teacher, self.skew), teacher)


@final
class SkewReverseKL(_OfLogs):
    """Skewed reverse KL: from the student to a mixture of the teacher with some of the student.

    As `ReverseKL`, but bounded; DistiLLM's choice for text that the student wrote.

    Args:
        skew: Share of the student in the mixture, above 0 and below 1; 0.1 is usual.
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Ko, Kim, Chen & Yun 2024, "DistiLLM: Towards Streamlined Distillation for Large Language
        Models", arXiv:2402.03898, section 3.1.

    Differs from the released code:
        Where both networks hold a class impossible its gradient is NaN; ours is that of the
        classes that are left.
    """

    title = "skew_reverse_kl"

    def __init__(self, skew: float | int = 0.1, temperature: Scheduled = 1.0) -> None:
        """Hold the settings."""
        super().__init__(temperature)
        self.skew = _share("skew", skew)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_of_logs(log_mixture(student, teacher, 1 - self.skew), student)


@final
class AdaptiveKL(_OfLogs):
    """Adaptive KL: forward KL where the student lags in the head, reverse KL in the tail.

    Each token weighs the two by the share of its absolute error that lies among the teacher's
    likeliest classes, and among the others. No gradient passes through the weights.

    Args:
        head_mass: Probability mass of the head, above 0 and below 1; 0.5 is usual.
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Wu, Tao, Wang, Yang, Zhao & Wong 2024, "Rethinking Kullback-Leibler Divergence in Knowledge
        Distillation for Large Language Models", arXiv:2404.02657, section 4.

    Differs from other libraries:
        TAID's copy of it assigns classes to head and tail in the wrong order, passes gradients
        through the weights, and has a cross-entropy for the forward part.
    """

    title = "adaptive_kl"

    def __init__(self, head_mass: float | int = 0.5, temperature: Scheduled = 1.0) -> None:
        """Hold the settings."""
        super().__init__(temperature)
        self.head_mass = _share("head_mass", head_mass)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return adaptive_kl_of_logs(student, teacher, self.head_mass)


@final
class AlphaBeta(_OfLogs):
    """Alpha-beta divergence: two powers choose between mode covering and mode seeking.

    Powers (1, 0) are forward KL and (0, 1) reverse KL; a sum above 1 looks at likely classes
    first, a larger teacher power covers more of the teacher.

    Args:
        teacher_power: 0, or 0.01 or more; 0.8 in the paper, which calls it alpha.
        student_power: 0, or 0.01 or more, not 0 with the other; 0.3 in the paper (beta).
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Wang, Yang, Wang, Shi & Xu 2025, "ABKD: Pursuing a Proper Allocation of the Probability
        Mass in Knowledge Distillation via alpha-beta-Divergence", arXiv:2505.04560, equation 5;
        Cichocki, Cruces & Amari 2011, "Generalized Alpha-Beta Divergences", doi:10.3390/e13010134.

    Differs from the paper:
        Times T squared, as KD. Powers between 0 and 0.01 are refused: the divergence divides by
        both, and float32 does not carry that.
    """

    title = "alpha_beta"

    def __init__(
        self,
        teacher_power: float | int = 0.8,
        student_power: float | int = 0.3,
        temperature: Scheduled = 1.0,
    ) -> None:
        """Hold the settings."""
        super().__init__(temperature)
        powers = (teacher_power, student_power)
        if not all(p == 0 or 0.01 <= p < float("inf") for p in powers) or powers == (0, 0):
            raise ConfigError(
                "teacher_power and student_power must each be 0, or 0.01 or more, and not both 0; "
                f"got {teacher_power} and {student_power}. Usual: 0.8 and 0.3."
            )
        self.teacher_power, self.student_power = float(teacher_power), float(student_power)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        powers = (self.teacher_power, self.student_power)
        return alpha_beta_of_logs(student, teacher, *powers)


@final
class TotalVariation(Loss):
    """Total variation: half the sum of absolute differences of the probabilities.

    Between 0 and 1, symmetric, and hard to upset by outliers; its gradient is weak while the
    student is far away.

    Args:
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Wen, Li, Du & Mou 2023, "f-Divergence Minimization for Sequence-Level Knowledge
        Distillation", arXiv:2307.15190, section 3.

    Differs from other losses here:
        Not times T squared: it is a share, and its gradient falls as 1 / T.
    """

    needs = frozenset({Signal.LOGITS})
    title = "total_variation"

    def __init__(self, temperature: Scheduled = 1.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The probability mass that would have to move, 0 to 1."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The probability mass that would have to move, per row."""
        temperature = value_at(self.temperature, self.progress)
        return total_variation_of_logs(*softened_logs(rows, temperature))


@final
class TAID(Loss):
    """Temporally adaptive interpolated distillation: a target that moves to the teacher.

    The student learns from a mean of its own and the teacher's logits, in which the teacher's
    share grows: at least linearly with the training, and faster while the loss falls.

    Args:
        start: The teacher's share at first, 0 or more and below `end`; 0.4 is usual.
        end: Its share in the end, at most 1.
        rate: How much of the rest one step may add; 0.0005.
        momentum: Momentum of the loss's relative decrease, 0 or more and below 1; 0.99.
        temperature: Above 0; 1 is usual for language models. A ramp moves it.

    Source:
        Shing, Misaki, Bao, Yokoi & Akiba 2025, "TAID: Temporally Adaptive Interpolated
        Distillation for Efficient Knowledge Transfer in Language Models", arXiv:2501.16937,
        algorithm 1.

    Differs from the released code:
        A divergence, 0 where the student matches, and not a cross-entropy. Share, momentum and
        last loss are buffers, so that a resumed training goes on where it stopped.
    """

    needs = frozenset({Signal.LOGITS})
    title = "taid"

    def __init__(
        self,
        start: float | int = 0.4,
        end: float | int = 1.0,
        rate: float | int = 5e-4,
        momentum: float | int = 0.99,
        temperature: Scheduled = 1.0,
    ) -> None:
        """Hold the settings, and the state as buffers."""
        super().__init__()
        if not 0 <= start < end <= 1:
            raise ConfigError(f"0 <= start < end <= 1 must hold, got start {start}, end {end}.")
        if not (rate >= 0 and 0 <= momentum < 1):
            raise ConfigError(
                f"rate must be 0 or more and momentum from 0 to below 1, got {rate} and {momentum}."
            )
        self.start, self.end = float(start), float(end)
        self.rate, self.momentum = float(rate), float(momentum)
        self.temperature = check_scheduled_temperature(temperature)
        self.share: Tensor
        self.fall: Tensor
        self.last: Tensor
        self.register_buffer("share", torch.tensor(self.start))
        self.register_buffer("fall", torch.tensor(0.0))
        self.register_buffer("last", torch.tensor(torch.inf))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence from the current target, in nats times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The divergence of each row from the current target."""
        temperature = value_at(self.temperature, self.progress)
        student, teacher = rows.pair
        held = student.detach()
        mean = held + self.share.to(held.dtype) * (teacher - held)
        possible = (teacher != -torch.inf) & (held != -torch.inf)
        target = mean.masked_fill(~possible, -torch.inf)
        return temperature**2 * kl_per_item(student, target, temperature)

    @torch.no_grad()
    def observe(self, value: Float[Tensor, ""]) -> None:
        """Increase the share after a step with this loss."""
        if self.last.isfinite():
            fall = (self.last - value) / (self.last + 1e-15)
            self.fall.mul_(self.momentum).add_(fall, alpha=1 - self.momentum)
            grown = self.share + self.rate * self.fall.sigmoid() * (1 - self.share)
            line = self.start + (self.end - self.start) * self.progress
            self.share.copy_(grown.clamp(min=line, max=self.end))
        self.last.copy_(value)


@final
class SampledReverseKL(Loss):
    """Reverse KL from the sampled token alone: the cheapest on-policy loss.

    Its gradient is (log q - log p) times the gradient of log q, an unbiased estimate of reverse
    KL's over the student's own text; its value is log q - log p. The labels must be tokens that
    the student drew at `sampling_temperature` 1, and the teacher needs one number a token.

    Source:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist
        reinforcement learning", doi:10.1007/BF00992696; for distillation Gu et al. 2023,
        arXiv:2306.08543, section 2.2.

    Differs from the paper:
        Each token by itself, without the reward of the tokens after it, as in the recipes of Qwen3
        and Thinking Machines.
    """

    needs = frozenset({Signal.LABELS, Signal.LOGITS})
    title = "sampled_reverse_kl"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The estimate, in nats; it may be negative."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The estimate of each row."""
        student = log_of_labels(log_soften(rows.student), rows.labels)
        teacher = log_of_labels(log_soften(rows.teacher), rows.labels)
        gap = (student - teacher.clamp(min=-100.0)).detach()
        return gap + gap * (student - student.detach())


@final
class UniversalLogitDistance(Loss):
    """Distance of sorted probabilities: for a teacher with another tokenizer.

    Both networks' probabilities are sorted and compared by rank, so that the words need not be the
    same; the shorter vocabulary is filled up with zeros. It says how sure to be, not of what, so it
    goes with the task loss.

    Args:
        temperature: Temperature of both networks, above 0; 1 is usual. A ramp moves it.

    Usual weight: 1.5 beside a task loss of weight 1.

    Source:
        Boizard, El Haddad, Hudelot & Colombo 2024, "Towards Cross-Tokenizer Distillation: the
        Universal Logit Distillation Loss for LLMs", arXiv:2402.12030, equation 4.

    Differs from the paper:
        Tokens are paired where both tokenizers end at the same character, as in TRL's GOLD, and not
        by their numbers in the text; a token without a counterpart adds nothing, and counts in the
        mean.
    """

    needs = frozenset({Signal.LOGITS})
    title = "universal_logit_distance"

    def __init__(self, temperature: Scheduled = 1.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of absolute differences, 0 to 2, averaged over tokens."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The distance of each row; 0 where the teacher's row is NaN."""
        temperature = value_at(self.temperature, self.progress)
        teacher_rows = rows.teacher_of_any_width
        is_there = ~teacher_rows.isnan().any(dim=-1)
        student = soften(rows.student, temperature).sort(dim=-1, descending=True).values
        teacher = soften(teacher_rows.nan_to_num(nan=0.0), temperature)
        teacher = teacher.sort(dim=-1, descending=True).values
        width = max(student.shape[-1], teacher.shape[-1])
        gap = _widened(student, width) - _widened(teacher, width)
        return torch.where(is_there, gap.abs().sum(dim=-1), 0.0)


def _widened(rows: Float[Tensor, "rows words"], width: int) -> Float[Tensor, "rows wider"]:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[-1]))


def _share(name: str, value: float | int) -> float:
    if not 0 < value < 1:
        raise ConfigError(f"{name} must lie above 0 and below 1, got {value}.")
    return float(value)
