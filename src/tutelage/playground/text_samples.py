"""Pages of text networks: the tokenizer of the training, in the browser."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from tutelage.data.tokenization import Tokenizing
from tutelage.deploy.runtime import Arrays
from tutelage.errors import ConfigError, RunFolderError
from tutelage.files import read_text
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.playground.kinds import Kind
from tutelage.playground.runtime import TEXTS, TOKENIZER, find_package
from tutelage.records import SoftTargetSample

FILES = ("tokenizer.json", "tokenizer_config.json")


@final
@dataclass(frozen=True, slots=True)
class Texts(Kind):
    """The page of a run on texts, with the run's tokenizer.

    Attributes:
        folder: Folder of the tokenizer.
        cutter: It, and how long a text may be.
        package: Where the script lies that runs it in a browser.
    """

    folder: Path
    cutter: Tokenizing
    package: Path

    one: ClassVar[str] = "text"
    template: ClassVar[str] = "texts.html.j2"
    scripts: ClassVar[tuple[str, ...]] = ("texts.js",)
    credit: ClassVar[str] = f", and Hugging Face's tokenizers.js {TEXTS.version} (Apache-2.0)"

    @classmethod
    def of(cls, run: Path, runtime: Path | None) -> "Texts":
        """Create from a run.

        Args:
            run: Its folder.
            runtime: See `find_runtime`.

        Raises:
            RunFolderError: The run left no tokenizer.
            ConfigError: Its tokenizer has no tokenizer.json, so it runs in Python alone.
            MissingExtraError: The script that runs it in a browser cannot be brought.
        """
        student = run / "export" / "student"
        folder, config = student / "tokenizer", student / "config.json"
        if not (folder / FILES[1]).is_file() or not config.is_file():
            raise RunFolderError(
                f"{student}: holds no tokenizer or no config.json. Finish the run (the same "
                "command goes on there), with measure other than null."
            )
        if not (folder / FILES[0]).is_file():
            raise ConfigError(
                f"{folder}: the tokenizer has no tokenizer.json, so it cannot run in a browser. "
                "Take one with a tokenizer.json."
            )
        longest = int(json.loads(read_text(config))["inputs"][0]["max_length"])
        cutter = Tokenizing(load_tokenizer(str(folder)), longest, str(folder))
        return cls(folder, cutter, find_package(TEXTS, runtime))

    def arrays(self, sample: SoftTargetSample) -> Arrays:
        """A test text as the networks take it."""
        (tokens,) = self.cutter.tokenize([str(sample.text)])
        ids = np.array([tokens], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def script_data(self) -> dict[str, Any]:
        """Data for the scripts."""
        cutter = self.cutter
        return {
            "room": cutter.room,
            "longest": cutter.max_length,
            "before": cutter.plain.before,
            "after": cutter.plain.after,
            "keepsEnd": cutter.tokenizer.truncation_side == "left",
            "letters": {str(token): cutter.plain.letters(token) for token in cutter.plain.control},
        }

    def files(self) -> dict[str, Path]:
        """The tokenizer, and its runtime."""
        own = {f"tokenizer/{name}": self.folder / name for name in FILES}
        return own | {f"runtime/{TOKENIZER}": self.package / TOKENIZER}
