"""Schema of recipes. Unknown keys are errors; every default is defined here once."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tutelage.data.cells import MISSING
from tutelage.deploy.budgets import parse_budget
from tutelage.engine.settings import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.errors import find
from tutelage.tasks import TASKS


def _folder(path: object) -> object:
    if isinstance(path, str) and "://" in path:
        raise ValueError("a run folder is a folder; only cache.path takes an address")
    if path == "":
        raise ValueError("an empty name would be the current folder; write . for that")
    return path


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed may occur once: equal seeds train the same network again")
    return seeds


def _budget(text: str) -> str:
    parse_budget(text)
    return text


def _task(name: str) -> str:
    if ":" not in name:
        find("task", name, TASKS)
    return name


Names = Annotated[tuple[str, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
AtOnce = Annotated[int, Field(ge=1, le=2**16)]  # more samples in one call would fill the memory
Threads = Annotated[int, Field(ge=1, le=1024)]


class _Checked(BaseModel):
    """Frozen. Numbers are finite, even if they are written as text."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Strict(_Checked):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Open(_Checked):
    """Frozen; other keys are arguments of what `kind`, `loss` or `model` names."""

    model_config = ConfigDict(extra="allow")


class Views(Open):
    """The view policy that teacher and student share.

    Attributes:
        kind: identity; shift (pixels); crop_flip (padding); elastic (num_views, degrees,
            stretch, pixels, bend); standard (num_views, min_scale).
    """

    kind: str = "identity"


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
        image_size: Height and width that pictures are brought to.
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
        block: Tokens of a sample.
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
    block: int = Field(default=128, ge=2)
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
        test_fraction: Share held out for the reported numbers, where there is no test part.
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


Data = Annotated[
    BuiltinData | ImageData | TextData | CorpusData | ArrayData | SeriesData | TableData,
    Field(discriminator="kind"),
]


class Network(Strict):
    """A network.

    Attributes:
        model: mlp, cnn, resnet, vit, wide_resnet, vgg, bag_of_words, text_cnn, cnn1d, timm:NAME,
            torchvision:NAME, hf:NAME_OR_FOLDER, sentence:NAME_OR_FOLDER, static:NAME_OR_FOLDER,
            causal:NAME, file.py:make or module:make.
        settings: Arguments of its constructor; num_classes, in_channels and image_size come from
            the data where it has such arguments.
        weights: Start from these: safetensors, or a state dict without code.
        head: new leaves the last layer of what is loaded out and draws one for the data's classes,
            to be trained; null takes the network with the head that it has.
        channels_last: Lay pictures' channels innermost in memory. CNNs answer and train faster so
            on most processors and GPUs; only the last bits of the numbers change.
    """

    model: str
    settings: dict[str, Any] = Field(default_factory=dict)
    weights: Path | None = None
    head: Literal["new"] | None = None
    channels_last: bool = False


class Train(Strict):
    """How a network is trained; see `TrainSettings` for the meaning of each."""

    epochs: Count = 20
    batch_size: Count = 128
    accumulate: Count = 1
    clip_norm: float | None = Field(default=None, gt=0)
    max_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bf16"] = "float32"
    ema: float | None = Field(default=None, gt=0, lt=1)
    workers: int = Field(default=0, ge=0)
    checkpoint_s: float = Field(default=30.0, ge=0)
    tensorboard: bool = False
    shard: bool = False


class Optimizer(Strict):
    """The optimizer; see `OptimizerSettings`."""

    kind: Literal["sgd", "adam", "adamw", "dot"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    nesterov: bool = False
    delta: float = Field(default=0.075, ge=0, lt=1)


class Schedule(Strict):
    """Learning-rate schedule; see `ScheduleSettings`."""

    kind: Literal["constant", "cosine", "step"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    gamma: float = Field(default=0.1, gt=0, le=1)


class TeacherTraining(Strict):
    """Training of the teacher on labels.

    Attributes:
        train: Length, batches, precision.
        optimizer: Optimizer of the teacher.
        schedule: Schedule of the teacher.
        views: Augmentation of this training; the recipe's views if not given.
        head_epochs: Epochs of a new head alone, before the whole network is trained: the body is
            frozen meanwhile.
        seed: Seed of its initial weights, its order of data and its views.
    """

    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    views: Views | None = None
    head_epochs: int = Field(default=0, ge=0)
    seed: Seed = 0


class Teacher(Network):
    """The teacher.

    Attributes:
        training: How to train it here; null takes it with the weights given.
        class_names: Its classes in the order of its logits, where it was not trained here: they
            are matched to the data's by name. Null takes those that its folder or checkpoint names.
        weight: Among several teachers, of its probabilities in their mean.
        mean: Normalisation that it expects, where it is not the data's.
        std: Standard deviations, in the form of `mean`.
        image_size: Size that it expects, where it is not the data's.
        shard: Whether several processes hold a piece each of it; it teaches live then.
        precision: Precision of the teacher's forward pass, live or into a cache; bf16 is faster
            where the processor knows it. Several teachers answer together, so all need the same.
    """

    training: TeacherTraining | None = None
    class_names: tuple[str, ...] | None = None
    weight: float = Field(default=1.0, gt=0)
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    image_size: int | None = Field(default=None, ge=1)
    shard: bool = False
    precision: Literal["float32", "bf16"] = "float32"


class Moving(Strict):
    """A number that changes linearly during training; see `Ramp`.

    Attributes:
        start: Its value at first.
        end: Its value from `until` on.
        until: Share of the training at which `end` is reached.
    """

    start: float
    end: float
    until: float = Field(default=1.0, gt=0, le=1)


class Term(Open):
    """A distillation loss with its weight; other keys are the loss's settings.

    Attributes:
        loss: kd, logit_mse, cross_entropy, or "module:Class" of your own.
        weight: Multiplier, 0 or more; {start: 0, end: 8, until: 0.1} moves it.
    """

    loss: str
    weight: float | Moving = 1.0


class ObjectiveConfig(Strict):
    """What the student minimises.

    Attributes:
        task_weight: Weight of the loss on labels.
        terms: Distillation losses; what distilling means for the task, with a weight of 0.9, if not
            given.
    """

    task_weight: float = 0.1
    terms: tuple[Term, ...] | None = None


class Transfer(Strict):
    """Images drawn from a teacher with batch norm; see `InversionSettings`.

    Attributes:
        kind: generator or pixels.
        num_images: How many.
        steps: Updates of each batch of pictures.
        lr: 0.003 for a generator and 0.1 for pixels if not given.
        batch_size: Pictures that are made together.
        statistics_weight: Weight of the distance to the batch norms' statistics.
        variation_weight: Weight of the total variation.
        size_weight: Weight of the mean squared pixel.
        seed: Random seed of the initial noise.
    """

    kind: Literal["generator", "pixels"] = "generator"
    num_images: Count = 2000
    steps: Count = 200
    lr: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=250, ge=2)
    statistics_weight: float = Field(default=1.0, ge=0)
    variation_weight: float = Field(default=1e-3, ge=0)
    size_weight: float = Field(default=1e-4, ge=0)
    seed: Seed = 0


class OnPolicy(Strict):
    """Share of a language model's training text that a network writes; see `WritingSettings`.

    Attributes:
        share: Share of batches whose text is generated.
        writer: Who writes: student (on-policy), or teacher (sequence-level distillation).
        prompt_tokens: Tokens of each block that are read before it is written on.
        sampling_temperature: Sampling temperature of the generation.
    """

    share: float = Field(default=0.5, gt=0, le=1)
    writer: Literal["student", "teacher"] = "student"
    prompt_tokens: int = Field(default=32, ge=1)
    sampling_temperature: float = Field(default=1.0, gt=0)


class Cache(Strict):
    """The teacher cache.

    Attributes:
        codec: float32 (exact), float16, topk:K or sampled:N.
        path: A folder, or an address such as s3://bucket/folder; the run folder if not given.
    """

    codec: str = "float32"
    path: str | None = None


Way = Literal["minmax", "percentile", "dynamic"]


class Measure(Strict):
    """Export and latency.

    Attributes:
        batch_sizes: Latency is measured at each.
        threads: Number of threads of the runtime.
        seconds: Time for all of it.
        int8: An eight-bit file of the student too, measured against the float one; null for none.
    """

    batch_sizes: tuple[AtOnce, ...] = Field(default=(1, 32), min_length=1)
    threads: Threads = 1
    seconds: float = Field(default=10.0, gt=0)
    int8: Way | None = None


class Finetune(Strict):
    """Quantisation-aware training of the student, with the teacher.

    Attributes:
        train: Length, batches, precision.
        optimizer: Settings of the optimizer, usually with a tenth of the student's learning rate.
        schedule: Schedule of the learning rate.
    """

    train: Train = Train(epochs=4)
    optimizer: Optimizer = Optimizer(lr=1e-4)
    schedule: Schedule = Schedule()


class Export(Strict):
    """Formats in which the student is delivered, each compared with PyTorch.

    Attributes:
        targets: onnx, executorch, litert, openvino, torch_export; ONNX is always made too, and
            alone if not given. Of a language model: onnx, gguf, gguf_q8_0; none if not given.
        int8: Ways to eight bits, each of every target that has it; that of `measure.int8` is the
            first.
        finetune: Train the student on for the first of these ways; null leaves it out.
        licences: Licences of student, teacher and data, for the model card; what you state and
            nothing more.
    """

    targets: tuple[str, ...] | None = None
    int8: tuple[Way, ...] = ()
    finetune: Finetune | None = None
    licences: dict[Literal["student", "teacher", "data"], str] = Field(default_factory=dict)


class Recipe(Strict):
    """A whole run.

    Attributes:
        task: classification, token_classification, multi_label, regression, gaussian_regression,
            embedding, language_modeling, or module:Class of your own.
        metric: What networks are compared by, of the metrics that the task has; its first if null.
        data: What is learned.
        views: Augmentation that teacher and student share.
        teacher: The large network.
        co_teachers: More of them; the students learn from the mean of all probabilities.
        assistants: Networks between teacher and student: each learns from the one before, and the
            students from the last. With the student's own network they are its generations.
        student: The small one.
        objective: What the student minimises.
        transfer: Pictures drawn out of the teacher, which the students see instead of the training
            data; null leaves those.
        train: How students are trained.
        optimizer: Optimizer of the students.
        schedule: Schedule of the students.
        seeds: One pair of trainings each.
        baseline: Whether the baseline is trained.
        on_policy: Text that a language model writes while it learns; null reads all of it.
        cache: The teacher cache; null teaches live.
        measure: Export and latency; null leaves them out.
        budget: What the student may need, as in "1 MB, 2 ms, 8 MB ram"; one that needs more is an
            error before training.
        export: Targets and eight bits of the student.
        output: The run folder.
    """

    @model_validator(mode="before")
    @classmethod
    def _with_usual_term(cls, content: Any) -> Any:
        """Write out what distilling means for a known task, where the recipe does not say."""
        if not isinstance(content, dict):
            return content
        task, objective = content.get("task", "classification"), content.get("objective", {})
        if not isinstance(objective, dict) or "terms" in objective or task not in TASKS:
            return content
        usual = {"loss": TASKS[task].distillation.title, "weight": 0.9}
        return {**content, "objective": {**objective, "terms": [usual]}}

    task: Annotated[str, AfterValidator(_task)] = "classification"
    metric: str | None = None
    data: Data
    views: Views = Views()
    teacher: Teacher
    co_teachers: tuple[Teacher, ...] = ()
    assistants: tuple[Network, ...] = ()
    student: Network
    objective: ObjectiveConfig = ObjectiveConfig()
    transfer: Transfer | None = None
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    seeds: Seeds = (0, 1, 2)
    baseline: bool = True
    on_policy: OnPolicy | None = None
    cache: Cache | None = Cache()
    measure: Measure | None = Measure()
    budget: Annotated[str, AfterValidator(_budget)] | None = None
    export: Export = Export()
    output: Annotated[Path, BeforeValidator(_folder)]


def train_settings(train: Train, optimizer: Optimizer, schedule: Schedule) -> TrainSettings:
    """The engine's settings of a recipe's three parts."""
    return TrainSettings(
        **train.model_dump(),
        optimizer=OptimizerSettings(**optimizer.model_dump()),
        schedule=ScheduleSettings(**schedule.model_dump()),
    )
