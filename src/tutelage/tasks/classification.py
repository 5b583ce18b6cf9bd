"""Classification: one class out of several for each sample."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.errors import DataError, ModelError, ShapeError
from tutelage.losses import CrossEntropy
from tutelage.models.modes import left_as_it_was
from tutelage.models.taps import tapped
from tutelage.types import Batch, Outputs


@dataclass(frozen=True, slots=True)
class Classification:
    """How a classifier is run and judged.

    Attributes:
        num_classes: Width of its logits.
    """

    num_classes: int

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network on a batch.

        Args:
            model: The network.
            batch: Its inputs.
            layers: Parts whose features are wanted too.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It did not give one row of logits a sample.
        """
        with tapped(model, layers) as features:
            given = self._call(model, batch)
        return Outputs(self._checked(model, given, len(batch)), features)

    def _call(self, model: nn.Module, batch: Batch) -> object:
        try:
            return model(batch.inputs)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # the network is the user's own: anything can happen
            raise ModelError(
                f"{type(model).__name__} failed on inputs of shape {tuple(batch.inputs.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _checked(self, model: nn.Module, logits: object, rows: int) -> Tensor:
        if not isinstance(logits, Tensor):
            raise ShapeError(
                f"{type(model).__name__} returned a {type(logits).__name__}, not a tensor of "
                "logits. Wrap it in a module that picks the logits out."
            )
        if tuple(logits.shape) != (rows, self.num_classes):
            raise ShapeError(
                f"{type(model).__name__} returned shape {tuple(logits.shape)} for {rows} samples; "
                f"{(rows, self.num_classes)} is needed, one logit a class. Mend its num_classes "
                "or its last layer."
            )
        return logits

    def task_loss(self) -> CrossEntropy:
        """The loss on labels."""
        return CrossEntropy()

    @torch.inference_mode()
    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Logits and labels of a whole data set, on the CPU; the network in eval mode.

        Raises:
            DataError: There are no samples, or no labels.
            ModelError: A logit is not a number; the message names the sample.
        """
        rows, labels = [], []
        with left_as_it_was(model):
            model.eval()
            for batch in batches:
                if batch.labels is None:
                    raise DataError(
                        "Evaluation needs labels, but the validation or test data has none."
                    )
                rows.append(self.run(model, batch.to(device)).logits.float().cpu())
                _check_numbers(model, rows[-1], batch.sample_ids)
                labels.append(batch.labels)
        if not rows:
            raise DataError("Evaluation needs samples, but the data set is empty.")
        return torch.cat(rows), torch.cat(labels)


def _check_numbers(model: nn.Module, logits: Tensor, sample_ids: Tensor) -> None:
    wrong = logits.isnan().any(dim=-1).nonzero().squeeze(1)
    if len(wrong):
        raise ModelError(
            f"{type(model).__name__} gives NaN for sample {int(sample_ids[wrong[0]])} of the "
            "validation or test data. Look for NaN in that sample, and in the network's weights."
        )
