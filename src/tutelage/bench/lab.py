"""Many trainings on one data set under one teacher, each stored and never repeated."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import Source, Splits, SubsetSource
from tutelage.data.views import Identity, ViewPolicy
from tutelage.engine import Arm, TrainSettings
from tutelage.engine.events import Listener, ignore
from tutelage.engine.prepare import prepare_from
from tutelage.objective import Objective
from tutelage.pipeline.training import TrainedModel, open_or_build, train_arm
from tutelage.tasks import Classification
from tutelage.tasks.predicting import predict_data
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.types import Batch, Outputs

ROWS_TO_TRY = 64


class FixedView(ViewPolicy):
    """One view of another policy, under its number there.

    Args:
        policy: The other policy.
        view_id: The view to show.
    """

    def __init__(self, policy: ViewPolicy, view_id: int) -> None:
        """Keep the policy's numbering, so that its cache can be used."""
        self.policy = policy
        self.view_id = view_id
        self.num_views = policy.num_views
        self.fingerprint = f"{policy.fingerprint}[{view_id}]"

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """The policy's view of each sample."""
        return self.policy.apply(inputs, sample_ids, view_ids)

    def choose(
        self,
        sample_ids: Int[Tensor, " batch"],
        epoch: int,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Int[Tensor, " batch"]:
        """The one view."""
        return torch.full_like(sample_ids, self.view_id)


class CachedViews(ViewPolicy):
    """The views of another policy, each computed once and kept in memory.

    Args:
        policy: A view policy of images with whole numbers.
        num_samples: Numbers of samples are below this.
    """

    def __init__(self, policy: ViewPolicy, num_samples: int) -> None:
        """Start with an empty store."""
        self.policy = policy
        self.num_views = policy.num_views
        self.fingerprint = policy.fingerprint
        self.is_kept = torch.zeros(policy.num_views * num_samples, dtype=torch.bool)
        self.views: Tensor | None = None

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """The policy's view of each sample."""
        if self.views is None:  # the system gives memory to rows that are written
            self.views = torch.empty(len(self.is_kept), *inputs.shape[1:], dtype=inputs.dtype)
        rows = sample_ids * self.num_views + view_ids
        new = (~self.is_kept[rows]).nonzero().squeeze(1)
        if len(new):
            made = self.policy.apply(inputs[new], sample_ids[new], view_ids[new])
            self.views[rows[new]] = made
            self.is_kept[rows[new]] = True
        return self.views[rows]


class SubsetTeacher:
    """A teacher of a whole data set, used for a subset with its own numbering.

    Args:
        teacher: Teacher of the whole data set.
        ids: The part's numbers in the whole.
    """

    def __init__(self, teacher: Teacher, ids: Int[Tensor, " n"]) -> None:
        """Store both."""
        self.teacher = teacher
        self.ids = ids
        self.gives = teacher.gives
        self.fingerprint = teacher.fingerprint
        self.device = teacher.device

    def __call__(self, batch: Batch) -> Outputs:
        """The teacher's outputs for these samples of the subset."""
        return self.teacher(replace(batch, sample_ids=self.ids[batch.sample_ids]))


@dataclass(frozen=True, slots=True)
class ExperimentRunner:
    """A folder in which many networks are trained on one data set.

    Attributes:
        out: Each training has a folder below it.
        splits: The data.
        listener: Told of every stage and step.
        device: Where teachers run and networks are judged; students train where Accelerate says.
    """

    out: Path
    splits: Splits
    listener: Listener = ignore
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def task(self) -> Classification:
        """How networks are called and evaluated."""
        return Classification(num_classes=len(self.splits.class_names))

    def reader(self, source: Source, views: ViewPolicy | None = None) -> BatchBuilder:
        """A reader of a source, normalised as the networks expect it."""
        return BatchBuilder(source, views, inputs=self.splits.inputs)

    def train(
        self,
        name: str,
        seed: int,
        make: Callable[[], nn.Module],
        objective: Objective,
        settings: TrainSettings,
        *,
        views: ViewPolicy | None = None,
        teacher: Teacher | None = None,
        part: Int[Tensor, " n"] | None = None,
    ) -> TrainedModel:
        """Train a network, or load it if this very training is done.

        Args:
            name: Name of the arm, and of its folder.
            seed: Seed of initial weights, order and views.
            make: Makes the network.
            objective: What it minimises.
            settings: How.
            views: What it sees.
            teacher: Teacher of the whole training data.
            part: Numbers of the training samples to use; None uses all.
        """
        source: Source = self.splits.train
        if part is not None:
            source = SubsetSource(source, part)
            teacher = None if teacher is None else SubsetTeacher(teacher, part)
        torch.manual_seed(seed)
        train = self.reader(source, views or Identity())
        objective = copy.deepcopy(objective)
        network = prepare_from(
            make(), objective, self.task, train, batch_size=ROWS_TO_TRY, teacher=teacher
        )
        arm = Arm(
            name=name,
            seed=seed,
            objective=objective,
            task=self.task,
            settings=settings,
            train=train,
            valid=None if self.splits.valid is None else self.reader(self.splits.valid),
            teacher=teacher,
            folder=self.out / name / f"seed-{seed}",
            key="",
        )
        return train_arm(arm, network, self.listener)

    def live(
        self, teacher: TrainedModel, *, chunk: int, layers: Sequence[str] = ()
    ) -> ModuleTeacher:
        """A trained teacher that is run on every batch."""
        return ModuleTeacher(
            teacher.selected,
            self.task,
            chunk=chunk,
            device=self.device,
            layers=layers,
            inputs=self.splits.inputs,
        )

    def cached(
        self,
        teacher: TrainedModel,
        views: ViewPolicy,
        codec: str,
        *,
        chunk: int,
        folder: str = "cache",
    ) -> Teacher:
        """A trained teacher with its outputs for every view cached in its own folder."""
        live = self.live(teacher, chunk=chunk)
        reader = self.reader(self.splits.train, views)
        return open_or_build(self.out / folder, live, reader, codec, self.listener)

    def test_logits(self, model: nn.Module) -> Float[Tensor, "n classes"]:
        """A network's logits of the test data."""
        reader = self.reader(self.splits.test)
        model = model.to(self.device)
        return predict_data(self.task, model, reader, batch_size=500, device=self.device).logits

    @property
    def test_labels(self) -> Int[Tensor, " n"]:
        """Labels of the test data."""
        return labels_of(self.splits.test)

    @property
    def train_labels(self) -> Int[Tensor, " n"]:
        """Labels of the training data."""
        return labels_of(self.splits.train)


def labels_of(source: Source) -> Int[Tensor, " n"]:
    """All labels of a source."""
    _, labels = source.fetch(torch.arange(len(source)))
    assert labels is not None
    return labels


def count_errors(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> int:
    """Number of misclassified samples."""
    return int((logits.argmax(dim=-1) != labels).sum())


def seconds_of(trainings: Sequence[TrainedModel]) -> float:
    """Total training time, as first measured."""
    return sum((trained.progress.seconds for trained in trainings), 0.0)
