"""A run as objects, fully parsed from the recipe or the Python call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data.loading import BatchBuilder, spread
from tutelage.data.sources import Source, Splits
from tutelage.data.views import Identity, ViewPolicy
from tutelage.deploy.budgets import Budget
from tutelage.engine import TrainSettings
from tutelage.engine.inversion import InversionSettings
from tutelage.errors import ConfigError, of_role
from tutelage.inputs.base import InputKind, Norm
from tutelage.models.origin import origin_of
from tutelage.objective import Objective, Term
from tutelage.problem import Problem
from tutelage.tasks import Task
from tutelage.teachers.classes import class_order, is_numbered
from tutelage.teachers.ensemble import Ensemble
from tutelage.teachers.module import ClassOrder, InputAdapter, inside_of
from tutelage.types import Batch, Inputs, describe_inputs

PROBED = 64  # samples


@dataclass(frozen=True, slots=True)
class TeacherPlan:
    """How to obtain the teacher.

    Attributes:
        make: Makes the network; weights, if any are given, are in it.
        train: How to train it on the labels here; None takes it as it is.
        views: What it sees while it is trained.
        seed: Seed of its initial weights and training.
        norm: Mean and std that it expects, if other than the data's.
        image_size: Height and width that it expects, if other than the data's.
        weight: Among several teachers, of its probabilities in their mean.
        shard: Whether several processes hold a piece each of it while it teaches live.
        precision: Precision of the teacher's forward pass, "float32" or "bf16"; the same for all
            teachers.
        head_epochs: Epochs of a newly drawn head alone, before the whole network is trained.
        class_names: In the order of its logits; None takes what it brings, or the data's.
    """

    make: Callable[[], nn.Module]
    train: TrainSettings | None = None
    views: ViewPolicy = field(default_factory=Identity)
    seed: int = 0
    norm: Norm | None = None
    image_size: int | None = None
    weight: float = 1.0
    shard: bool = False
    precision: str = "float32"
    class_names: tuple[str, ...] | None = None
    head_epochs: int = 0


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """What is exported and how it is timed.

    Attributes:
        batch_sizes: Latency is measured at each.
        threads: Number of threads of the runtime.
        seconds: Time for all latencies together.
        int8: How an int8 file of the student is made: "minmax", "percentile" or "dynamic";
            None makes none.
    """

    batch_sizes: tuple[int, ...] = (1, 32)
    threads: int = 1
    seconds: float = 10.0
    int8: str | None = None


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """Images drawn from the teacher for the students to learn from.

    Attributes:
        num_images: How many.
        settings: How they are made.
        seed: Random seed of the initial noise.
    """

    num_images: int
    settings: InversionSettings = field(default_factory=InversionSettings)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Formats in which the student is delivered.

    Attributes:
        targets: Names of `tutelage.deploy.TARGETS`; ONNX is always made too.
        int8: Int8 schemes, each of every target that has it.
        finetune: How the student is fine-tuned, still by its teacher, for the first of these
            ways; None leaves that out.
        licences: For the model card, as stated by whoever runs it: "student", "teacher", "data".
    """

    targets: tuple[str, ...] = ("onnx",)
    int8: tuple[str, ...] = ()
    finetune: TrainSettings | None = None
    licences: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_targets(self) -> tuple[str, ...]:
        """ONNX first, then the others, each once."""
        return tuple(dict.fromkeys(("onnx", *self.targets)))


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs.

    Attributes:
        name: Name of the run.
        out: The run folder.
        problem: What is to be learned: data and task.
        teacher: Where the teacher comes from.
        co_teachers: More teachers, whose probabilities are averaged with the first one's.
        assistants: Make networks that each learn from the one before, the first of them from the
            teacher; the students learn from the last.
        make_student: Makes a student with its initial weights; called under each seed.
        objective: What the distilled arm minimises; the baseline minimises its task loss alone.
        settings: How students are trained.
        transfer: What students learn from in the place of the training data; None leaves those.
        views: What students and teacher see.
        seeds: One pair of trainings each.
        has_baseline: Whether the baseline is trained.
        codec: Codec of the teacher cache; None teaches live.
        cache_path: Where the teacher cache lies, a folder or an address with `://`; None puts it
            into the run folder.
        measure: Export and timing; None leaves both out.
        budget: What the student may need; None allows anything.
        export: What the student is delivered as.
        has_report: Whether report.html is written at the end.
        recipe: The resolved recipe, for the record.
        own_files: Python files that networks come from, of which the run folder keeps copies.
        command: What repeats the run.
        notes: What a reader of the report must know of the set-up.
    """

    name: str
    out: Path
    problem: Problem
    teacher: TeacherPlan
    make_student: Callable[[], nn.Module]
    objective: Objective
    settings: TrainSettings
    co_teachers: tuple[TeacherPlan, ...] = ()
    assistants: tuple[Callable[[], nn.Module], ...] = ()
    transfer: TransferPlan | None = None
    views: ViewPolicy = field(default_factory=Identity)
    seeds: tuple[int, ...] = (0, 1, 2)
    has_baseline: bool = True
    codec: str | None = "float32"
    cache_path: str | None = None
    measure: MeasureSettings | None = field(default_factory=MeasureSettings)
    budget: Budget | None = None
    export: ExportSettings = field(default_factory=ExportSettings)
    has_report: bool = True
    recipe: Mapping[str, Any] = field(default_factory=dict)
    own_files: tuple[Path, ...] = ()
    command: str = ""
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> Splits:
        """The data."""
        return self.problem.splits

    @property
    def task(self) -> Task:
        """How networks are called and evaluated."""
        return self.problem.task

    def on(self, splits: Splits) -> "Job":
        """The same job on other data."""
        return replace(self, problem=self.problem.on(splits))

    @property
    def int8(self) -> tuple[str, ...]:
        """Int8 schemes, each once, beginning with that of `measure`."""
        first = (self.measure.int8,) if self.measure and self.measure.int8 else ()
        return tuple(dict.fromkeys((*first, *self.export.int8)))

    @property
    def most_rows(self) -> int:
        """Samples of the students' largest batch, the limit for every network."""
        return self.settings.most_rows(len(self.splits.train))

    @property
    def shards_teacher(self) -> bool:
        """Whether the teacher is sharded among processes."""
        return any(plan.shard for plan in self.teachers)

    @property
    def teacher_task(self) -> Task:
        """How the teacher is called and evaluated."""
        return self.problem.teacher_task or self.task

    @property
    def train_reader(self) -> BatchBuilder:
        """Training data as the students see it."""
        return self.reader(self.splits.train, self.views)

    @property
    def labelled_reader(self) -> BatchBuilder:
        """Labelled training data: what teacher and baseline learn from."""
        return self.reader(self.splits.labelled or self.splits.train, self.views)

    @property
    def baseline_settings(self) -> TrainSettings:
        """The students' settings, with as many steps over labelled data as over all data."""
        if self.splits.labelled is None:
            return self.settings
        share = len(self.splits.train) / len(self.splits.labelled)
        return replace(self.settings, epochs=max(1, round(self.settings.epochs * share)))

    @property
    def valid_reader(self) -> BatchBuilder | None:
        """Validation data, or None."""
        return None if self.splits.valid is None else self.reader(self.splits.valid)

    @property
    def test_reader(self) -> BatchBuilder:
        """Test data."""
        return self.reader(self.splits.test)

    def reader(self, source: Source, views: ViewPolicy | None = None) -> BatchBuilder:
        """A reader of a source, normalised as the networks expect it."""
        return BatchBuilder(
            source,
            views,
            inputs=self.splits.inputs,
            num_classes=self.task.width,
        )

    @property
    def baseline_objective(self) -> Objective:
        """The task loss alone."""
        loss = self.task.task_loss()
        return Objective([Term(loss, 1.0, loss.title)])

    def new_student(self, seed: int) -> nn.Module:
        """A student with a seed's initial weights, the same in every arm."""
        torch.manual_seed(seed)
        return self.task.ready(self.make_student(), self.probe)

    def new_assistant(self, number: int) -> nn.Module:
        """An assistant (counted from 0) with its initial weights."""
        torch.manual_seed(self.teacher.seed)
        return self.task.ready(self.assistants[number](), self.probe)

    def probe(self) -> Batch:
        """A few training samples for trial calls."""
        return self.train_reader[spread(len(self.splits.train), PROBED)]

    @property
    def teachers(self) -> tuple[TeacherPlan, ...]:
        """All teachers, in order."""
        return (self.teacher, *self.co_teachers)

    def new_teacher(self) -> nn.Module:
        """The teacher, or all of them as one, before training."""
        return self.together([self.new_member(plan) for plan in self.teachers])

    def together(self, members: Sequence[nn.Module]) -> nn.Module:
        """One network unchanged, several as an ensemble."""
        if len(members) == 1:
            return members[0]
        weights = [plan.weight for plan in self.teachers]
        return Ensemble(members, weights, self.teacher_task.mean_of)

    def new_member(self, plan: TeacherPlan) -> nn.Module:
        """One teacher before training, adapted to the data's inputs and classes."""
        torch.manual_seed(plan.seed)
        model = plan.make()
        if plan.train is not None:
            model = self.task.ready(model, self.probe)
        return self._in_order(plan, self._normed(plan, model), model)

    def _in_order(self, plan: TeacherPlan, adapted: nn.Module, model: nn.Module) -> nn.Module:
        """A pretrained network with its logits in the data's class order."""
        brought = None if plan.train else origin_of(model).class_names
        names, wanted = plan.class_names or brought, self.splits.class_names
        if names is None or self._by_number(plan, names):
            return adapted
        with of_role("teacher"):
            order = class_order(names, wanted)
        return adapted if order == tuple(range(len(order))) else ClassOrder(adapted, order)

    def _by_number(self, plan: TeacherPlan, names: Sequence[str]) -> bool:
        """Whether numeric labels are read as the indices of a teacher's classes."""
        wanted = self.splits.class_names
        return plan.class_names is None and is_numbered(wanted) and not {*names} & {*wanted}

    def order_notes(self, plan: TeacherPlan, member: nn.Module) -> tuple[str, ...]:
        """Notes on how a teacher's classes were matched to the data's.

        Args:
            plan: The teacher's.
            member: A teacher from `new_member`.
        """
        names = None if plan.train else origin_of(inside_of(member)[0]).class_names
        if names is None or not self._by_number(plan, names):
            return ()
        shown = ", ".join(f"{number} for {name!r}" for number, name in enumerate(names[:3]))
        more = ", ..." if len(names) > 3 else ""
        return (
            "The data number their classes and the teacher names its own, so labels are taken for "
            f"the numbers of its logits: {shown}{more}. Name the data's classes in that order, or "
            "the teacher's (class_names), if they are not.",
        )

    def _normed(self, plan: TeacherPlan, model: nn.Module) -> nn.Module:
        """A network with its own normalisation and input size."""
        if plan.norm is None and plan.image_size is None:
            return model
        return InputAdapter(
            model,
            data_norm=self.splits.inputs.norm,
            own_norm=self.own_norm(plan),
            image_size=plan.image_size,
        )

    def own_norm(self, plan: TeacherPlan) -> Norm | None:
        """A teacher's own normalisation, one value per channel of the data's inputs.

        Raises:
            ConfigError: It does not fit the inputs; the message names the key.
        """
        number = next(n for n, other in enumerate(self.teachers) if other is plan)
        place = f"co_teachers[{number - 1}]" if number else "teacher"
        inputs, _ = self.splits.train.fetch(torch.tensor([0]))
        kind = self.splits.inputs
        if plan.image_size is not None and kind.image_shape(inputs) is None:
            raise ConfigError(
                f"{place}.image_size: the data are no images ({describe_inputs(inputs)}). Leave it "
                "out."
            )
        if plan.norm is None:
            return None
        mean, std = plan.norm
        return (
            one_a_channel(mean, inputs, kind, f"{place}.mean"),
            one_a_channel(std, inputs, kind, f"{place}.std"),
        )


def one_a_channel(
    values: Sequence[float], inputs: Inputs, kind: InputKind, place: str
) -> tuple[float, ...]:
    """Normalisation values, one per channel; a single one applies to all.

    Args:
        values: Mean or std.
        inputs: Raw samples of the data.
        kind: Their kind.
        place: The key, for messages.

    Raises:
        ConfigError: There are not as many as channels, or the inputs have none.
    """
    channels = kind.num_channels(inputs)
    if channels is None:
        raise ConfigError(
            f"{place}: the inputs have no channels ({describe_inputs(inputs)}). Leave mean and std "
            "out."
        )
    if len(values) not in (1, channels):
        raise ConfigError(
            f"{place}: {len(values)} values, but the inputs have {channels} channels "
            f"({describe_inputs(inputs)}). Give one for each channel."
        )
    return tuple(values) * (channels if len(values) == 1 else 1)
