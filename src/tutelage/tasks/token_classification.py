"""Token classification: one class per valid token, as parts of speech or names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Shaped
from torch import Tensor, nn

from tutelage.entities import ENTITY_F1, EntityF1, are_bio
from tutelage.errors import ShapeError, find
from tutelage.losses import CrossEntropy
from tutelage.losses.divergences import cross_entropy
from tutelage.measures import Measure
from tutelage.metrics import CLASS_MEASURES, PICKED, always_most_frequent, evaluate_classes
from tutelage.models.calling import call_checked
from tutelage.models.taps import tapped
from tutelage.records import ACCURACY, Evaluation
from tutelage.tasks.base import Predictions, Task
from tutelage.tasks.tokens import network_inputs, token_items, valid_tokens
from tutelage.types import Batch, Outputs

OF_TOKENS = replace(
    ACCURACY,
    meaning="Share of tokens whose label is picked. Intervals take whole texts, since tokens "
    "of one text are no independent proofs.",
)


@dataclass(frozen=True, slots=True)
class TokenClassification(Task):
    """How a network that labels tokens is run and evaluated.

    An item is a token that counts; padding, and the length of the longest text, change nothing.

    Attributes:
        num_classes: Width of its logits.
        compared_by: The metric that leads: entity_f1 where labels are BIO tags; accuracy,
            balanced_accuracy or macro_f1, over tokens. None takes the first of them.
        class_names: Names of the classes, to know BIO tags by.
    """

    num_classes: int
    compared_by: str | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        find("metric", self.leading, self.measures)

    @property
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        """Those of entities where labels are BIO tags, then those of tokens."""
        of_tokens = {**CLASS_MEASURES, "accuracy": replace(PICKED, metric=OF_TOKENS)}
        if not are_bio(self.class_names):
            return of_tokens
        return {ENTITY_F1.name: EntityF1(self.class_names), **of_tokens}

    @property
    def width(self) -> int:
        """Logits per token: one per class."""
        return self.num_classes

    @property
    def items_per_sample(self) -> None:
        """None, because texts differ in their number of tokens."""
        return

    @property
    def leading(self) -> str:
        """The leading metric: entity F1 of BIO tags, else accuracy, unless another is chosen."""
        return self.compared_by or next(iter(self.measures))

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network on a batch.

        Args:
            model: The network.
            batch: Its inputs, with the tokens that count.
            layers: Parts whose features are wanted too; one row a sample.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It did not give one row of logits a token.
        """
        counted = valid_tokens(batch)
        with tapped(model, layers) as features:
            given = call_checked(model, network_inputs(batch))
        wanted = (*counted.shape, self.num_classes)
        if tuple(given.shape) != wanted:
            raise ShapeError(
                f"{type(model).__name__} returned shape {tuple(given.shape)} for tokens of shape "
                f"{tuple(counted.shape)}; {wanted} is needed, one logit a class for each token. "
                "Correct its num_classes, or give it a head for tokens."
            )
        return Outputs(given[counted], features)

    def items(self, batch: Batch) -> Batch:
        """One row per valid token."""
        return token_items(batch)

    def task_loss(self) -> CrossEntropy:
        """The loss on labels, a mean over tokens."""
        return CrossEntropy()

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The leading metric and the cross-entropy, over tokens."""
        value = self.measures[self.leading].value(said.logits, said.labels, said.sample_ids)
        return value, float(cross_entropy(said.logits, said.labels))

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """The metric of always predicting the most frequent class."""
        scores = always_most_frequent(labels, self.num_classes)
        return self.measures[self.leading].value(scores, labels)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Accuracy, calibration, and similarity to the teacher, over tokens."""
        found = evaluate_classes(
            said.logits, said.labels, None if teacher is None else teacher.logits
        )
        if ENTITY_F1.name not in self.measures:
            return found
        value = EntityF1(self.class_names).value(said.logits, said.labels, said.sample_ids)
        return replace(found, others={ENTITY_F1.name: value, **found.others})
