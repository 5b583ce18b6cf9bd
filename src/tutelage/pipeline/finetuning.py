"""Quantisation-aware training of the student with the teacher."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from tutelage.deploy import TARGETS
from tutelage.deploy.simulate import WEIGHT_STEPS, remove_fake_quant, simulate_int8
from tutelage.engine import Arm
from tutelage.engine.events import Listener
from tutelage.engine.prepare import prepare_from
from tutelage.errors import ConfigError, TrainingError
from tutelage.job import Job
from tutelage.objective import Loss, Objective
from tutelage.pipeline.training import TrainedModel, load_adapters, train_arm
from tutelage.teachers import Teacher
from tutelage.teachers.module import state_fingerprint

NAME = "finetuned"


@dataclass(frozen=True, slots=True)
class Finetuned:
    """The delivered student after quantisation-aware training.

    Attributes:
        by_steps: The network for each number of weight steps that some target's files have.
        problem: Why a training failed; its network is then not among them.
    """

    by_steps: Mapping[int, TrainedModel] = field(default_factory=dict)
    problem: str = ""

    @property
    def key(self) -> list[str]:
        """What the networks depend on."""
        return [trained.key for trained in self.by_steps.values()]


def finetune_stage(
    job: Job, student: TrainedModel, teacher: Teacher | None, listener: Listener
) -> Finetuned:
    """Continue the training of the delivered student with simulated int8.

    Objective, teacher and data are those of the distilled arm, and the losses' adapters those of
    the epoch that the delivered student is of; length and learning rate are `export.finetune`'s.
    Targets whose files have the same steps share one training.

    Returns:
        Plain networks again, with weights that int8 holds; none where nothing was asked. A
        training that fails is told of and takes nothing with it.

    Raises:
        ConfigError: The objective cannot go on from a trained student.
    """
    if job.export.finetune is None:
        return Finetuned()
    check_can_go_on(job.objective)
    found, problem = {}, ""
    for steps in weight_steps(job):
        try:
            found[steps] = _train_on(job, student, teacher, steps, listener)
        except TrainingError as error:
            problem = str(error)
    return Finetuned(found, problem)


def weight_steps(job: Job) -> list[int]:
    """Weight steps of the files that fine-tuning is for, each once, ONNX's first."""
    targets = (TARGETS[name] for name in job.export.all_targets)
    return list(dict.fromkeys(t.weight_steps for t in targets if job.int8[0] in t.schemes))


def _train_on(
    job: Job, student: TrainedModel, teacher: Teacher | None, steps: int, listener: Listener
) -> TrainedModel:
    settings = job.export.finetune
    assert settings is not None
    objective = copy.deepcopy(job.objective)
    network = simulate_int8(student.selected, job.int8[0], steps)
    torch.manual_seed(student.seed)
    network = prepare_from(
        network,
        objective,
        job.task,
        job.train_reader,
        batch_size=settings.batch_size,
        teacher=teacher,
    )
    load_adapters(objective, job.out / "arms" / student.arm / f"seed-{student.seed}")
    name = NAME if steps == WEIGHT_STEPS else f"{NAME}-{steps}"
    arm = Arm(
        name=name,
        seed=student.seed,
        objective=objective,
        task=job.task,
        settings=settings,
        train=job.train_reader,
        valid=job.valid_reader,
        teacher=teacher,
        folder=job.out / "arms" / name / f"seed-{student.seed}",
        key=state_fingerprint(objective) if objective.state_dict() else "",
    )
    trained = train_arm(arm, network, listener)
    plain = student.selected
    return replace(
        trained,
        last=remove_fake_quant(trained.last, plain),
        selected=remove_fake_quant(trained.selected, plain),
    )


def check_can_go_on(objective: Objective) -> None:
    """Refuse an objective that adds modules to the student.

    Raises:
        ConfigError: One of its losses does.
    """
    for term in objective.active_terms:
        if type(term.loss).modify_student is not Loss.modify_student:
            raise ConfigError(
                f"export.finetune: the loss {term.name!r} adds parts to the student when training "
                "starts, so it cannot continue from a trained one. Leave export.finetune out."
            )
