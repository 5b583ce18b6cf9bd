"""Schema of recipes. Unknown keys are errors; every default is defined here once."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tutelage.config.data import Data
from tutelage.config.fields import AtOnce, Count, Open, Positive, Seed, Seeds, Strict, Threads
from tutelage.deploy.budgets import parse_budget
from tutelage.engine import optimizers, schedules
from tutelage.engine.settings import OPTIMIZERS
from tutelage.errors import find
from tutelage.models.own import is_own
from tutelage.tasks import TASKS


def _folder(path: object) -> object:
    if isinstance(path, str) and "://" in path:
        raise ValueError("a run folder is a folder; only cache.path takes an address")
    if path == "":
        raise ValueError("an empty name would be the current folder; write . for that")
    return path


def _budget(text: str) -> str:
    parse_budget(text)
    return text


def _task(name: str) -> str:
    if ":" not in name:
        find("task", name, TASKS)
    return name


def _optimizer(name: str) -> str:
    if not is_own(name):
        find("optimizer", name, {**OPTIMIZERS, **optimizers.OF_TORCH})
    return name


def _schedule(name: str) -> str:
    if not is_own(name):
        find("schedule", name, {**dict.fromkeys(schedules.SCHEDULES), **schedules.OF_TORCH})
    return name


class Views(Open):
    """The view policy that teacher and student share.

    Attributes:
        kind: identity; shift (pixels); crop_flip (padding); elastic (num_views, degrees,
            stretch, pixels, bend); standard (num_views, min_scale); or module:Class of your own.
    """

    kind: str = "identity"


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
        channels_last: Lay images' channels innermost in memory. CNNs answer and train faster so
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

    kind: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    nesterov: bool = False
    delta: float = Field(default=0.075, ge=0, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)


class Schedule(Strict):
    """Learning-rate schedule; see `ScheduleSettings`."""

    kind: Annotated[str, AfterValidator(_schedule)] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    gamma: float = Field(default=0.1, gt=0, le=1)
    options: dict[str, Any] = Field(default_factory=dict)


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


class RampConfig(Strict):
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
    weight: float | RampConfig = 1.0


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
        steps: Updates of each batch of images.
        lr: 0.003 for a generator and 0.1 for pixels if not given.
        batch_size: Images that are made together.
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
        codec: float32 (exact), float16, topk:K, sampled:N, or module:Class of your own.
        path: A folder, or an address such as s3://bucket/folder; the run folder if not given.
    """

    codec: str = "float32"
    path: str | None = None


Int8Scheme = Literal["minmax", "percentile", "dynamic"]


class Measure(Strict):
    """Export and latency.

    Attributes:
        batch_sizes: Latency is measured at each.
        threads: Number of threads of the runtime.
        seconds: Time for all of it.
        int8: An int8 file of the student too, measured against the float one; null for none.
    """

    batch_sizes: tuple[AtOnce, ...] = Field(default=(1, 32), min_length=1)
    threads: Threads = 1
    seconds: float = Field(default=10.0, gt=0)
    int8: Int8Scheme | None = None


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
        targets: onnx, executorch, litert, openvino, torch_export, or module:Class of your own; ONNX
            is always made too, and alone if not given. Of a language model: onnx, gguf, gguf_q8_0;
            none if not given.
        int8: Int8 schemes, each of every target that has it; that of `measure.int8` is the
            first.
        finetune: Train the student on for the first of these ways; null leaves it out.
        licences: Licences of student, teacher and data, for the model card; what you state and
            nothing more.
    """

    targets: tuple[str, ...] | None = None
    int8: tuple[Int8Scheme, ...] = ()
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
        transfer: Images drawn out of the teacher, which the students see instead of the training
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
        export: Targets and int8 of the student.
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
