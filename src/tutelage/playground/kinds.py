"""What a page needs to know of its inputs, be they pictures or texts."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from tutelage.deploy.runtime import Arrays
from tutelage.records import SoftTargetSample


class Kind(ABC):
    """A kind of inputs.

    Attributes:
        one: What one is called.
        template: Of the panel where a person makes one.
        scripts: Beside those that all pages have, in order.
        credit: For the foot of the page: what else runs in it, with its licence.
    """

    one: ClassVar[str]
    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]]
    credit: ClassVar[str] = ""
    __slots__ = ()

    @abstractmethod
    def arrays(self, sample: SoftTargetSample) -> Arrays:
        """A test sample as the networks take it, alone in its batch."""

    @abstractmethod
    def script_data(self) -> dict[str, Any]:
        """What the scripts read."""

    def files(self) -> dict[str, Path]:
        """What else lies beside the page: name there to where it is taken from."""
        return {}
