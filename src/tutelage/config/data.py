"""Kinds of data in a recipe."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tutelage.config.fields import Count, Names, Positive, Seed, Strict
from tutelage.data.cells import MISSING


class BuiltinData(Strict):
    """A data set by name.

    Attributes:
        kind: digits, mnist, fashion_mnist or cifar100.
        path: Where to look first (all but digits).
        valid_fraction: Share of the training data held out for model selection.
        seed: Random seed of the splits.
    """

    kind: Literal["digits", "mnist", "fashion_mnist", "cifar100"]
    path: Path | None = None
    valid_fraction: float | None = Field(default=None, ge=0, lt=1)
    seed: Seed = 0


class ImageData(Strict):
    """A folder of images, one subfolder a class.

    Attributes:
        kind: images.
        path: The folder; with train/ (and valid/, test/) inside, or the classes at once.
        image_size: Height and width that images are brought to.
        channels: 3 for colour, 1 for grey.
        background: Colour behind transparent pixels: a name, as of CSS, or "#rrggbb".
        valid_fraction: Share held out for model selection, where there is no valid/.
        test_fraction: Share held out for the reported numbers, where there is no test/.
        mean: Per channel; ImageNet's if not given.
        std: Standard deviations, in the form of `mean`.
        seed: Random seed of the splits.
    """

    kind: Literal["images"]
    path: Path
    image_size: int = Field(default=64, ge=4)
    channels: Literal[1, 3] = 3
    background: str = "white"
    valid_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    seed: Seed = 0


class CorpusData(Strict):
    """Text for a language model: documents, tokenised and split into blocks.

    Attributes:
        kind: corpus.
        path: A file or folder of .txt (documents between blank lines), .jsonl, .csv, .tsv or
            .parquet; a folder that `datasets` saved, the name of a corpus in the user's cache, or
            one on the hub.
        tokenizer: A Hugging Face folder or name; the teacher's if not given.
        block_size: Tokens of a sample.
        train_tokens: Tokens of the training data; all that is left if not given.
        valid_tokens: Held out for model selection.
        test_tokens: Held out for the reported numbers.
        is_packed: Documents one after another in blocks, with an end sign between; false makes
            each a sample, cut to the block's length and filled up, which cannot be cached.
        text: Field of a .jsonl line, or column of a table, that holds the document.
        seed: Random seed of the order of documents.
    """

    kind: Literal["corpus"]
    path: Path
    tokenizer: str | None = None
    block_size: int = Field(default=128, ge=2)
    train_tokens: int | None = Field(default=None, ge=2)
    valid_tokens: int = Field(default=4096, ge=2)
    test_tokens: int = Field(default=16384, ge=2)
    is_packed: bool = True
    text: str = "text"
    seed: Seed = 0


class LoadedData(Strict):
    """Data whose loader takes these keys as they are, beside the kind of label.

    Attributes:
        loader: The loader, as module:name; it gives `Splits`.
    """

    loader: ClassVar[str]


class ArrayData(LoadedData):
    """Memory-mapped NumPy files, for data larger than memory.

    Attributes:
        kind: arrays.
        path: A folder with train/, test/ and, for model selection, valid/ inside; each holds
            inputs.npy (float32, float16, float64 or uint8, one row a sample) and labels.npy: class
            numbers; for regression numbers, for multi_label 0 and 1, one or one row a sample.
        num_classes: Number of classes; one more than the highest training label if not given.
        mean: Per channel, of inputs scaled to 0..1; none if not given.
        std: Standard deviations, in the form of `mean`.
    """

    loader: ClassVar[str] = "tutelage.data.arrays:load_arrays"

    kind: Literal["arrays"]
    path: Path
    num_classes: Count | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None


class SeriesData(LoadedData):
    """Series, of one length or each of its own.

    Attributes:
        kind: series.
        path: A folder with NAME_TRAIN.ts and NAME_TEST.ts, as aeon has its data sets; or with
            train/, test/ and, for model selection, valid/ inside, each with labels.npy and
            inputs.npy (series, channels, steps), or inputs.npz with an array (channels, steps) for
            each series, in order.
        valid_fraction: Share held out for model selection, where there is no valid part.
        mean: Mean per channel; that of the training series if not given.
        std: Standard deviations, in the form of `mean`.
        seed: Seed of the part held out.
    """

    loader: ClassVar[str] = "tutelage.data.series:load_series"

    kind: Literal["series"]
    path: Path
    valid_fraction: float = Field(default=0.1, ge=0, lt=1)
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    seed: Seed = 0


class TextData(Strict):
    """Texts, with or without labels.

    Attributes:
        kind: text.
        path: A file (.csv, .tsv, .jsonl, .ndjson, .parquet; .txt with a text a line, where no
            labels are needed); a folder with files or folders named train, valid and test; a
            folder with one subfolder of .txt files a class; a folder that `datasets` saved, or a
            name on its hub.
        text_column: Column of the texts; for token_classification, of their words.
        label_column: Column of the labels: classes, numbers, or 0 and 1, as the task has them; a
            list of columns for several values or yes-or-no labels; for token_classification, of the
            words' classes; null for embedding, which learns from the texts alone.
        tokenizer: A folder, a tokenizer.json, or a name on the hub; the teacher's if not given.
        max_length: Tokens of a text; what is longer is cut, counted and said.
        transfer: More texts, without labels: students learn from what the teacher says of them.
        transfer_column: Column of their texts.
        valid_fraction: Share held out for model selection, where there is no valid part.
        test_fraction: Share held out for the reported numbers, where there is no test part.
        seed: Random seed of the held-out parts.
    """

    kind: Literal["text"]
    path: Path
    text_column: str = "text"
    label_column: str | Names | None = "label"
    tokenizer: str | None = None
    max_length: int = Field(default=128, ge=1)
    transfer: tuple[Path, ...] = ()
    transfer_column: str = "text"
    valid_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: Seed = 0


class TableData(LoadedData):
    """A table: input columns of numbers and categories, and one or several target columns.

    Numbers outside the range of the training rows are taken for its nearest end, in what is
    delivered too.

    Attributes:
        kind: table.
        path: A file (.csv, .tsv, .jsonl, .ndjson, .parquet), or a folder with such files named
            train, valid and test.
        target: Name of the column that is learned; a list for several values or yes-or-no labels.
        columns: Names of the input columns; all but the target and those left out if null.
        leave_out: Names of columns that are not read, such as identifiers.
        categories: Names of columns whose numbers stand for categories.
        log: Names of columns of numbers of which the logarithm is taken, as sign(x) log(1 + |x|).
        missing: Texts that stand for a missing cell.
        fill: Number in the place of a missing one: median or mean of the training rows. A further
            input says where it was missing.
        max_categories: One-hot slots of a column at most; rarer categories share the last one.
        valid_fraction: Share held out for model selection, where there is no valid part.
        test_fraction: Share held out for the reported numbers, where there is no test part. Every
            class gives its share to the parts held out.
        seed: Random seed of the parts held out.
    """

    loader: ClassVar[str] = "tutelage.data.frames:load_table"

    kind: Literal["table"]
    path: Path
    target: str | Names
    columns: Names | None = None
    leave_out: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    missing: tuple[str, ...] = MISSING
    fill: Literal["median", "mean"] = "median"
    max_categories: int = Field(default=64, ge=2, le=10_000)
    valid_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: Seed = 0


class OwnData(Strict):
    """Data that a function of your own gives; `{kind: mine:load, key: value}` is short for it.

    Attributes:
        kind: own; or module:function or file.py:function itself, with its arguments beside it.
        load: The function. It gives {"train": ..., "valid": ..., "test": ..., "class_names": ...},
            of which train is needed, or training data alone.
        options: Its keyword arguments.
        valid_fraction: Share held out for model selection, where it gives no valid part.
        test_fraction: Share held out for the reported numbers, where it gives no test part.
        seed: Random seed of the parts held out.
    """

    kind: Literal["own"]
    load: str
    options: dict[str, Any] = Field(default_factory=dict)
    valid_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: Seed = 0


def _written_out(data: Any) -> Any:
    """Data whose kind is a function of one's own, with its arguments under `options`."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if not (isinstance(kind, str) and ":" in kind):
        return data
    keys = OwnData.model_fields
    options = {key: value for key, value in data.items() if key not in keys}
    kept = {key: value for key, value in data.items() if key in keys and key != "options"}
    return {**kept, "kind": "own", "load": kind, "options": {**data.get("options", {}), **options}}


Data = Annotated[
    BuiltinData | ImageData | TextData | CorpusData | ArrayData | SeriesData | TableData | OwnData,
    Field(discriminator="kind"),
    BeforeValidator(_written_out),
]
