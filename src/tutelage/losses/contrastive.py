"""Contrastive representation distillation: the same sample near, other samples far."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tutelage.errors import ConfigError, SignalError
from tutelage.losses.divergences import check_temperature, soft_cross_entropy
from tutelage.losses.features import (
    Features,
    LayerLoss,
    built,
    check_several,
    dry_features,
    over_counted,
    pooled,
    valid_rows,
    width_of,
)
from tutelage.losses.lengths import unit
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal


class _Embedding(nn.Module):
    """Pooling, a linear layer, unit length."""

    def __init__(self, width_in: int, width: int, title: str) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.title = title

    def forward(self, feature: Tensor) -> Tensor:
        """One vector of unit length per sample."""
        return unit(self.linear(pooled(feature, self.title)), dim=1)


class _Embeddings(nn.Module):
    """One embedding per network."""

    def __init__(self, loss: Loss, dry: DryRun, width: int) -> None:
        super().__init__()
        (ours,), (theirs,) = dry_features(loss, dry)
        self.student = _Embedding(width_of(ours), width, loss.title)
        self.teacher = _Embedding(width_of(theirs), width, loss.title)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the student and of the teacher."""
        return self.student(student), self.teacher(teacher)


def pick_out(
    student: Float[Tensor, "batch width"],
    teacher: Float[Tensor, "batch width"],
    temperature: float | int,
) -> Float[Tensor, ""]:
    """How hard it is to identify each sample's partner in the batch, in both directions.

    Args:
        student: Vectors of length 1.
        teacher: The teacher's, as many, of the same width.
        temperature: Temperature of the cosines, above 0.

    Returns:
        The sum of both directions' mean surprises in nats.
    """
    likeness = student @ teacher.T
    own = torch.eye(len(likeness), dtype=likeness.dtype, device=likeness.device)
    both = [soft_cross_entropy(scores, own, temperature) for scores in (likeness, likeness.T)]
    return both[0] + both[1]


def noise_contrast(
    positive: Float[Tensor, " batch"],
    negative: Float[Tensor, "batch negatives"],
    num_samples: float | int,
    counts: Bool[Tensor, "batch negatives"] | None = None,
) -> Float[Tensor, ""]:
    """Noise contrastive estimation: tell a true pair from randomly drawn ones.

    Args:
        positive: Logarithm of the model's density at the true pair.
        negative: The same at pairs that are false.
        num_samples: From which the false ones are drawn, each alike.
        counts: Which false pairs count; None counts all.

    Returns:
        In nats, summed over the pairs of a sample, mean over samples.

    Source:
        Tian, Krishnan & Isola 2019, arXiv:1910.10699, equations 16 to 19.
    """
    noise = math.log(negative.shape[1] / num_samples)
    right = F.softplus(noise - positive)
    wrong = F.softplus(negative - noise)
    if counts is not None:
        wrong = torch.where(counts, wrong, 0.0)
    return (right + wrong.sum(dim=1)).mean()


@final
class CRD(LayerLoss):
    """Contrastive distillation within the batch: each sample's partner among all of the batch.

    No memory is kept. Batches of 64 or more are worth having: the others are the negatives.

    Args:
        student_layer: Any; maps and tokens are pooled. Usually the last before the classifier.
        teacher_layer: Any; None takes the student's name.
        width: Width of the embeddings that are compared; 128 in the paper.
        temperature: Temperature of the cosines, above 0; 0.07 in the paper.

    Usual weight: 0.8, beside KD.

    Source:
        Tian, Krishnan & Isola 2019, "Contrastive Representation Distillation", arXiv:1910.10699,
        with the estimate of van den Oord et al. 2018, arXiv:1807.03748, equation 4.

    Differs from the paper:
        Negatives are the batch's other samples, of the same class or not, and one is picked out
        of all, where the paper draws 16384 from a memory (`crd_memory`).
    """

    needs = frozenset({Signal.FEATURES})
    title = "crd"
    whole_batch = True

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str | None = None,
        width: int = 128,
        temperature: float | int = 0.07,
    ) -> None:
        """Keep the settings."""
        super().__init__(student_layer, teacher_layer)
        self.width = _at_least_one(self.title, "width", width)
        self.temperature = check_temperature(temperature)
        self.embeddings: nn.Module | None = None

    def setup(self, dry: DryRun) -> None:
        """Build the embeddings of both networks."""
        check_several(self, dry)
        self.embeddings = _Embeddings(self, dry, self.width)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The cross-entropy in nats, at best near 0; 0 for one sample."""
        return over_counted(self, student, teacher, batch, self._distance, least=2)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours, theirs = built(self.embeddings, self.title)(student[0], teacher[0])
        return pick_out(ours, theirs, self.temperature)


@final
class CRDMemory(LayerLoss):
    """Contrastive distillation with a memory of both networks' embeddings of every sample.

    The memory takes 8 bytes x width a sample (51 MB for CIFAR-100) and stands in checkpoints.

    Args:
        student_layer: Any; maps and tokens are pooled. Usually the last before the classifier.
        teacher_layer: Any; None takes the student's name.
        width: Width of the embeddings; 128 in the paper.
        temperature: Temperature of the cosines, above 0; 0.07 in the paper.
        negatives: Samples drawn from the memory for each batch; 16384 in the paper.
        momentum: Share of the old embedding that a new one leaves, 0 to below 1; 0.5 in the paper.

    Usual weight: 0.8, beside KD.

    Source:
        Tian, Krishnan & Isola 2019, "Contrastive Representation Distillation", arXiv:1910.10699,
        equations 9 to 19 and section 3.5; memory after Wu et al. 2018, arXiv:1805.01978.

    Differs from the paper:
        One draw of negatives serves the whole batch, and those that have a row's label are left
        out for that row, instead of a draw for each row from the other classes. That costs a
        matrix product instead of a gather that is as large as batch x negatives x width.
    """

    needs = frozenset({Signal.FEATURES, Signal.LABELS})
    title = "crd_memory"
    whole_batch = True

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str | None = None,
        *,
        width: int = 128,
        temperature: float | int = 0.07,
        negatives: int = 16384,
        momentum: float | int = 0.5,
    ) -> None:
        """Keep the settings."""
        super().__init__(student_layer, teacher_layer)
        if not 0 <= momentum < 1:
            raise ConfigError(f"crd_memory: momentum must be 0 to below 1, got {momentum}.")
        self.width = _at_least_one(self.title, "width", width)
        self.temperature = check_temperature(temperature)
        self.negatives = _at_least_one(self.title, "negatives", negatives)
        self.momentum = float(momentum)
        self.embeddings: nn.Module | None = None
        self.memory: Tensor
        self.labels: Tensor
        self.scale: Tensor

    def setup(self, dry: DryRun) -> None:
        """Build the embeddings, and a memory of random vectors for the training samples.

        Raises:
            ConfigError: How many samples there are is not known.
        """
        if dry.num_samples < 2:
            raise ConfigError(
                f"Loss 'crd_memory' remembers every training sample, but there are "
                f"{dry.num_samples}. Give prepare num_samples, or use crd."
            )
        self.embeddings = _Embeddings(self, dry, self.width)
        memory = F.normalize(torch.randn(2, dry.num_samples, self.width), dim=-1)
        self.register_buffer("memory", memory)
        self.register_buffer("labels", torch.full((dry.num_samples,), -1))
        self.register_buffer("scale", torch.zeros(2))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The estimate in nats, summed over negatives and both directions."""
        if batch.labels is None:
            raise SignalError("Loss 'crd_memory' needs labels, but this batch has none. Use crd.")
        ids = valid_rows(batch.sample_ids.to(student.device), batch.mask)
        labels = valid_rows(batch.labels, batch.mask)

        def distance(ours: Features, theirs: Features) -> Tensor:
            embeddings = built(self.embeddings, self.title)(ours[0], theirs[0])
            return self._contrast(embeddings, ids, labels)

        return over_counted(self, student, teacher, batch, distance)

    def _contrast(
        self, embeddings: tuple[Tensor, Tensor], ids: Int[Tensor, " batch"], labels: Tensor
    ) -> Tensor:
        drawn = torch.randint(len(self.labels), (self.negatives,), device=ids.device)
        is_other = (self.labels[drawn] != labels[:, None]) & (drawn != ids[:, None])
        parts = []
        for number, embedding in enumerate(embeddings):
            memory = self.memory[1 - number]  # of the other network; what is read of it is a copy
            positive = (embedding * memory[ids]).sum(dim=1) / self.temperature
            negative = embedding @ memory[drawn].T / self.temperature
            scale = self._scale(number, positive.detach(), negative.detach())
            parts.append(
                noise_contrast(positive - scale, negative - scale, len(memory), counts=is_other)
            )
        if self.training:
            self._remember(embeddings, ids, labels)
        return parts[0] + parts[1]

    @torch.no_grad()
    def _scale(self, number: int, positive: Tensor, negative: Tensor) -> Tensor:
        """Logarithm of the constant that normalises scores, from the first batch."""
        if self.scale[number] != 0:
            return self.scale[number].clone()
        scores = torch.cat([positive[:, None], negative], dim=1)
        count = torch.tensor(scores.numel() / self.memory.shape[1], dtype=scores.dtype)
        found = torch.logsumexp(scores.flatten(), dim=0) - count.log().to(scores.device)
        if self.training:
            self.scale[number] = found
        return found

    @torch.no_grad()
    def _remember(self, embeddings: tuple[Tensor, Tensor], ids: Tensor, labels: Tensor) -> None:
        for number, embedding in enumerate(embeddings):
            old = self.memory[number, ids]
            new = self.momentum * old + (1 - self.momentum) * embedding
            self.memory[number, ids] = F.normalize(new, dim=1).to(old.dtype)
        self.labels[ids] = labels


def _at_least_one(title: str, name: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{title}: {name} must be 1 or more, got {value}.")
    return value
