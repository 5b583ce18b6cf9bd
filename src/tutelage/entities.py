"""F1 of entities in BIO labels, as shared tasks on names judge it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage.measures import by_sample, pseudo_values
from tutelage.metrics import f1
from tutelage.records import Metric

_TAG = re.compile(r"[BI]-.+")
OUTSIDE = "O"
ENTITY_F1 = Metric(
    name="entity_f1",
    title="entity F1",
    is_share=True,
    is_higher_better=True,
    unit="points of entity F1",
    meaning="F1 of whole entities: type, first and last token must all be right. Intervals take "
    "whole texts.",
    reach=1.0,
)


def are_bio(class_names: Sequence[str]) -> bool:
    """Whether labels are BIO tags: O, and B- and I- with a type."""
    tags = [_TAG.fullmatch(name) for name in class_names if name != OUTSIDE]
    return OUTSIDE in class_names and bool(tags) and all(tags)


@dataclass(frozen=True, slots=True)
class EntityF1:
    """F1 of entities over all texts.

    An entity begins at a B-, at an I- after O, and at an I- of another type than the tag before it.

    Attributes:
        class_names: BIO tags in the order of the classes.

    Source:
        Tjong Kim Sang & De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task",
        arXiv:cs/0306050; the reading of tags is that of its conlleval script and of seqeval.
    """

    class_names: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """Entity F1."""
        return ENTITY_F1

    def value(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"] | None = None
    ) -> float:
        """Entity F1 of all tokens."""
        ids = torch.zeros(len(labels), dtype=torch.long) if sample_ids is None else sample_ids
        return float(_of_sums(self.terms(scores, labels, ids).sum(dim=0)))

    def per_sample(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"]
    ) -> Float[Tensor, " samples"]:
        """Pseudo-values of leaving each text out."""
        terms = by_sample(self.terms(scores, labels, sample_ids), sample_ids)
        whole = terms.sum(dim=0)
        return pseudo_values(self.metric, _of_sums(whole), _of_sums(whole - terms))

    def terms(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"]
    ) -> Float[Tensor, "items 3"]:
        """Of each token whether a right, a labelled, and a predicted entity begins there."""
        wanted, given = (
            _entities(self._tags(tags), sample_ids) for tags in (labels, scores.argmax(dim=-1))
        )
        is_right = wanted.begins & given.begins & (wanted.kinds == given.kinds)
        is_right &= wanted.ends == given.ends
        return torch.stack([is_right, wanted.begins, given.begins], dim=-1).double()

    def _tags(self, classes: Int[Tensor, " items"]) -> "_Tags":
        """Classes as prefixes and types."""
        parts = [name.partition("-") for name in self.class_names]
        types = sorted({kind for _, _, kind in parts if kind})
        kinds = torch.tensor([types.index(kind) if kind else -1 for _, _, kind in parts])
        is_first = torch.tensor([prefix == "B" for prefix, _, _ in parts])
        return _Tags(kinds[classes], is_first[classes])


@dataclass(frozen=True, slots=True)
class _Tags:
    """Type of each token's entity, -1 outside of one, and whether it has the prefix B."""

    kinds: Int[Tensor, " items"]
    is_first: Bool[Tensor, " items"]


@dataclass(frozen=True, slots=True)
class _Entities:
    """Where entities begin, their type, and where those that begin at a token end."""

    begins: Bool[Tensor, " items"]
    kinds: Int[Tensor, " items"]
    ends: Int[Tensor, " items"]


def _entities(tags: _Tags, sample_ids: Int[Tensor, " items"]) -> _Entities:
    count = len(tags.kinds)
    is_new_text = torch.ones(count, dtype=torch.bool)
    is_new_text[1:] = sample_ids[1:] != sample_ids[:-1]
    is_other = torch.ones(count, dtype=torch.bool)
    is_other[1:] = tags.kinds[1:] != tags.kinds[:-1]
    breaks = is_new_text | is_other | tags.is_first
    places = breaks.nonzero().squeeze(dim=1)
    following = torch.cat([places, torch.tensor([count])])
    ends = following[torch.searchsorted(places, torch.arange(count), right=True)]
    return _Entities(breaks & (tags.kinds >= 0), tags.kinds, ends)


def _of_sums(sums: Float[Tensor, "*many 3"]) -> Float[Tensor, "*many"]:
    return f1(*sums.unbind(dim=-1)).nan_to_num()
