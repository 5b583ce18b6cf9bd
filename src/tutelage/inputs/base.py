"""What a kind of input answers: the one place where it is known what samples are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Int, Shaped
from torch import Tensor, nn

from tutelage.errors import ConfigError, ExportError
from tutelage.types import Inputs, by_name, describe_inputs

Axes = Mapping[str, Mapping[int, str]]
"""Of each input of an exported file, the axes that may have any size, and what they count."""

Norm = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of every channel."""

BATCH, LENGTH = "batch", "length"


@runtime_checkable
class Views(Protocol):
    """What a kind asks of a view policy."""

    num_views: int
    fingerprint: str

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """The given view of each sample."""
        ...


class InputKind(ABC):
    """A kind of input.

    Inputs come from a source raw, a tensor or tensors by name; networks take them normalised;
    exported files take them as a device has them. A kind leads from one to the next.

    Attributes:
        name: In `tutelage.inputs.INPUTS`.
        is_padded: Whether samples may differ in size, so that those of a batch are filled up.
        too_long: What is wrong with a network that fails on the longest sample, and what to do.
        norm: Mean and standard deviation of each channel, which networks see at 0 and 1; None
            where inputs have no channels or are taken as they are.
    """

    name: ClassVar[str]
    is_padded: ClassVar[bool] = True
    too_long: ClassVar[str] = "it takes no sample as long as the longest of the data"
    norm: Norm | None = None

    @classmethod
    @abstractmethod
    def fits(cls, inputs: Inputs) -> bool:
        """Whether inputs look like this kind, where nobody says what they are."""

    @property
    def fingerprint(self) -> str:
        """Changes when networks would see the same raw inputs otherwise."""
        return "mean=None std=None"  # what fingerprints of all data say since there are caches

    def length(self, inputs: Inputs) -> int | None:  # noqa: ARG002 - of one size
        """Places of a batch's samples, such as tokens; None where samples are all of one size."""
        return None

    def lengths(self, inputs: Inputs) -> Int[Tensor, " batch"] | None:  # noqa: ARG002
        """Places that each sample of a batch takes; None where nothing says so."""
        return None

    def cut(
        self,
        inputs: Inputs,
        rows: Int[Tensor, " rows"],  # noqa: ARG002 - of kinds that have lengths
        length: int,  # noqa: ARG002
    ) -> Inputs:
        """Some samples of a batch, filled up to so many places and no more."""
        raise AssertionError(f"{self.name} inputs have no lengths: {describe_inputs(inputs)}")

    def num_channels(self, inputs: Inputs) -> int | None:  # noqa: ARG002 - of tensors by name
        """Channels of raw inputs; None where they have none."""
        return None

    def image_shape(self, inputs: Inputs) -> tuple[int, int, int] | None:  # noqa: ARG002
        """Channels, height and width of images; None of what is none."""
        return None

    def as_rows(self, inputs: Inputs) -> Shaped[Tensor, "batch numbers"] | None:  # noqa: ARG002
        """All numbers of each sample in a row, for a linear classifier; None where that is vain."""
        return None

    def facts(self, inputs: Inputs) -> dict[str, Any]:  # noqa: ARG002 - of tensors by name
        """What the constructor of a network may ask for.

        Args:
            inputs: One raw sample.
        """
        return {}

    def normalised_by(
        self,
        mean: Sequence[float] | None,  # noqa: ARG002 - of channels
        std: Sequence[float] | None,  # noqa: ARG002 - of channels
    ) -> "InputKind":
        """The same kind with this normalisation.

        Raises:
            ConfigError: Such inputs have no channels.
        """
        raise ConfigError(
            f"mean and std are for channels, and inputs of kind {self.name} have none."
        )

    def view(
        self,
        inputs: Inputs,
        views: Views,
        sample_ids: Int[Tensor, " batch"],  # noqa: ARG002 - of kinds that have views
        view_ids: Int[Tensor, " batch"],  # noqa: ARG002
    ) -> Inputs:
        """The given view of each raw sample.

        Raises:
            ConfigError: The policy does not fit this kind.
        """
        if views.num_views == 1:
            return inputs
        named = ", ".join(inputs) if isinstance(inputs, Mapping) else describe_inputs(inputs)
        raise ConfigError(
            f"views: {views.fingerprint} changes one tensor a sample, but these data come as "
            f"{named}. Use views: {{kind: identity}}."
        )

    def normalise(self, inputs: Inputs) -> Inputs:
        """Raw inputs as networks take them."""
        return inputs

    def export_inputs(self, inputs: Inputs) -> Inputs:
        """Inputs that networks take, as exported files take them."""
        return inputs

    def wrap_for_export(self, model: nn.Module, inputs: Inputs) -> nn.Module:  # noqa: ARG002
        """A network as it is exported: it takes what files take, and gives scores alone.

        Args:
            model: The network.
            inputs: Samples as exported files take them.

        Raises:
            ExportError: Networks that take such inputs cannot be exported.
        """
        raise not_exported("export", inputs)

    def check_export(self, who: str, inputs: Inputs) -> None:
        """Refuse inputs of which no file can be made.

        Args:
            who: For the message.
            inputs: Samples as exported files take them.

        Raises:
            ExportError: They are such.
        """
        raise not_exported(who, inputs)

    def axes(self, inputs: Inputs) -> Axes:
        """The axes of an exported file's inputs that may have any size; "inputs" is one tensor's.

        Args:
            inputs: Samples as exported files take them.
        """
        return {name: {0: BATCH} for name in by_name(inputs)}

    def describe_export(self, inputs: Inputs, raw: Inputs) -> Any:  # noqa: ARG002 - of bytes
        """What an exported file takes, for config.json: a mapping, or one for each named tensor.

        Args:
            inputs: Samples as exported files take them.
            raw: Samples as they come from their source.
        """
        axes = self.axes(inputs)
        return [_described(name, value, axes[name]) for name, value in by_name(inputs).items()]

    def preprocessing(self, raw: Inputs) -> dict[str, Any]:  # noqa: ARG002 - arrays are given whole
        """What makes inputs of what a person has, for config.json; `example.py` does it.

        Args:
            raw: Samples as they come from their source.
        """
        return {"kind": "array"}

    def save_files(self, folder: Path) -> None:  # noqa: B027 - most kinds need none
        """Write what else a file's user needs, such as a tokenizer, into the student's folder."""

    def cost_note(self, inputs: Inputs, data: str) -> str | None:  # noqa: ARG002 - of one size
        """What sizes and latencies hold for, where samples differ in size.

        Args:
            inputs: The sample that they were measured with, as exported files take it.
            data: What it is of: "test" or "validation".
        """
        return None

    def image_png(self, inputs: Inputs) -> str | None:  # noqa: ARG002 - of images
        """A sample as a person sees it, PNG in base64; None where it is no image.

        Args:
            inputs: One sample as exported files take it.
        """
        return None


def not_exported(who: str, inputs: Inputs) -> ExportError:
    """Why no file can be made of networks that take such inputs."""
    return ExportError(
        f"{who}: of networks with named inputs those of texts can be exported "
        f"(input_ids, attention_mask), these are {describe_inputs(inputs)}. Let the network take "
        "one tensor that holds them all, and cut it in its forward (torch.split)."
    )


def _described(name: str, value: Tensor, axes: Mapping[int, str]) -> dict[str, Any]:
    shape = [axes.get(number, size) for number, size in enumerate(value.shape)]
    return {"name": name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")}
