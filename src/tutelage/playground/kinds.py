"""Interface of a page's kind of inputs: images or texts."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from tutelage.deploy.runtime import Arrays
from tutelage.records import SoftTargetSample


class Kind(ABC):
    """A kind of inputs.

    Attributes:
        one: What one is called.
        template: Template of the input panel.
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
        """A test sample as the networks take it, in a batch of one."""

    @abstractmethod
    def script_data(self) -> dict[str, Any]:
        """Data for the scripts."""

    def files(self) -> dict[str, Path]:
        """Other files beside the page: name there to source."""
        return {}
