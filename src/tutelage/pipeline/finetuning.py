"""The stage that fine-tunes the student for eight bits, with the teacher still teaching."""

import copy
from dataclasses import replace

import torch

from tutelage.deploy.simulate import settled, simulate_int8
from tutelage.engine import Arm
from tutelage.engine.events import Listener
from tutelage.engine.prepare import prepare_from
from tutelage.errors import ConfigError
from tutelage.job import Job
from tutelage.objective import Loss, Objective
from tutelage.pipeline.training import Trained, load_adapters, train_arm
from tutelage.teachers import Teacher
from tutelage.teachers.module import state_fingerprint

NAME = "finetuned"


def finetune_stage(
    job: Job, student: Trained, teacher: Teacher | None, listener: Listener
) -> Trained | None:
    """Train the delivered student on, its layers rounded as in eight bits.

    Objective, teacher and data are those of the distilled arm, and the losses' adapters those that
    it ended with; length and learning rate are `export.finetune`'s.

    Returns:
        The network, plain again, with weights that eight bits hold; None where nothing was asked.

    Raises:
        ConfigError: The objective cannot go on from a trained student.
    """
    settings = job.export.finetune
    if settings is None:
        return None
    objective = copy.deepcopy(job.objective)
    check_can_go_on(objective)
    network = simulate_int8(student.selected, job.int8[0])
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
    arm = Arm(
        name=NAME,
        seed=student.seed,
        objective=objective,
        task=job.task,
        settings=settings,
        train=job.train_reader,
        valid=job.valid_reader,
        teacher=teacher,
        folder=job.out / "arms" / NAME / f"seed-{student.seed}",
        key=state_fingerprint(objective) if objective.state_dict() else "",
    )
    trained = train_arm(arm, network, listener)
    plain = student.selected
    return replace(
        trained, last=settled(trained.last, plain), selected=settled(trained.selected, plain)
    )


def check_can_go_on(objective: Objective) -> None:
    """Refuse an objective that gives the student parts when training starts.

    Raises:
        ConfigError: One of its losses does.
    """
    for term in objective.counted:
        if type(term.loss).wrap is not Loss.wrap:
            raise ConfigError(
                f"export.finetune: the loss {term.name!r} adds parts to the student when training "
                "starts, so it cannot go on from a trained one. Leave export.finetune out."
            )
