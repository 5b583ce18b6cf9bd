"""Losses that compare a transformer's hidden states token by token."""

from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.losses.adapters import Adapter
from tutelage.losses.features import Features, Layers, dry_features, layer_pairs
from tutelage.losses.lengths import cosine_gaps
from tutelage.losses.tokens import check_tokens, over_tokens
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal


class TokenLoss(Loss):
    """A distance of hidden states, token by token, after a projection if widths differ.

    Args:
        student_layers: One layer or several; each gives tokens (batch, tokens, width).
        teacher_layers: The teacher's layers, as many; None takes the student's names.
    """

    needs = frozenset({Signal.FEATURES})

    def __init__(self, student_layers: Layers, teacher_layers: Layers | None = None) -> None:
        """Keep the layers."""
        super().__init__()
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )
        self.adapters = nn.ModuleList()

    def setup(self, dry: DryRun) -> None:
        """Build a projection for each pair of layers whose widths differ."""
        self.adapters = projections(self, dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean over each text's tokens, then over texts."""
        return over_tokens(self, student, teacher, batch, self._by_projected)

    @abstractmethod
    def by_token(self, student: Features, teacher: Features) -> Float[Tensor, "rows length"]:
        """The distance of each token, summed over layers, for features of equal widths."""

    def _by_projected(self, student: Features, teacher: Features, _: Tensor) -> Tensor:
        return self.by_token(projected(self.adapters, student), teacher)


@final
class TinyBERTHidden(TokenLoss):
    """Hidden states of the student's layers match those of chosen layers of the teacher.

    The widest transfer between transformers; best where the student starts from the teacher's own
    layers. Each layer of the student goes with one of the teacher: of 2 and 6 layers, say, the
    student's 0 and 1 with the teacher's 2 and 5.

    Args:
        student_layers: One layer or several; each gives tokens (batch, tokens, width).
        teacher_layers: The teacher's layers, as many; None takes the student's names.

    Usual weight: 1.

    Source:
        Jiao et al. 2019, "TinyBERT: Distilling BERT for Natural Language Understanding",
        arXiv:1909.10351, equation 8.

    Differs from the paper:
        Padding does not count: the mean is over the width, a text's tokens, and texts. A projection
        of its own for each layer, and only where widths differ; the authors' code has one for all.
    """

    title = "tinybert_hidden"

    def by_token(self, student: Features, teacher: Features) -> Float[Tensor, "rows length"]:
        """The sum of the layers' mean squared differences."""
        return squared_distances(student, teacher)


@final
class TinyBERTEmbedding(TokenLoss):
    """The output of the student's embedding layer matches the teacher's.

    For a student with token vectors of its own, fresh or narrower; one that keeps the teacher's
    has nothing to learn here.

    Args:
        student_layer: Gives the embedded tokens.
        teacher_layer: The teacher's; None takes the student's name.

    Usual weight: 1.

    Source:
        Jiao et al. 2019, "TinyBERT: Distilling BERT for Natural Language Understanding",
        arXiv:1909.10351, equation 9.

    Differs from the paper:
        As `tinybert_hidden`.
    """

    title = "tinybert_embedding"

    def __init__(
        self, student_layer: str = "bert.embeddings", teacher_layer: str | None = None
    ) -> None:
        """Keep the layers."""
        super().__init__(student_layer, teacher_layer)
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer or student_layer

    def by_token(self, student: Features, teacher: Features) -> Float[Tensor, "rows length"]:
        """The mean squared difference."""
        return squared_distances(student, teacher)


@final
class DistilBERTCosine(TokenLoss):
    """Hidden states of the student point in the direction of the teacher's, whatever their norms.

    Gentler than `tinybert_hidden`: lengths stay free.

    Args:
        student_layers: One layer or several; each gives tokens. In the paper the last one.
        teacher_layers: The teacher's layers, as many; None takes the student's names.

    Usual weight: 1.

    Source:
        Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and
        lighter", arXiv:1910.01108, section 3.

    Differs from the paper:
        The mean is over a text's tokens, then over texts, not over all tokens of a batch; a
        projection where widths differ.
    """

    title = "distilbert_cosine"

    def by_token(self, student: Features, teacher: Features) -> Float[Tensor, "rows length"]:
        """The sum over layers of 1 minus the cosine, each 0 to 2."""
        pairs = zip(student, teacher, strict=True)
        return torch.stack([cosine_gaps(s, t) for s, t in pairs]).sum(dim=0)


def squared_distances(student: Features, teacher: Features) -> Float[Tensor, "rows length"]:
    """Each token's mean squared difference over the width, summed over layers."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([(s - t).square().mean(dim=-1) for s, t in pairs]).sum(dim=0)


def projections(loss: Loss, dry: DryRun) -> nn.ModuleList:
    """A linear map to the teacher's width for each pair of layers; none if widths are equal."""
    ours, theirs = dry_features(loss, dry)
    check_tokens(loss, ours, theirs)
    widths = [(s.shape[-1], t.shape[-1]) for s, t in zip(ours, theirs, strict=True)]
    return nn.ModuleList(Adapter(s, t) if s != t else nn.Identity() for s, t in widths)


def projected(adapters: nn.ModuleList, features: Features) -> Features:
    """Features in the teacher's width; unchanged without a projection."""
    if not adapters:
        return features
    return tuple(adapter(feature) for adapter, feature in zip(adapters, features, strict=True))
