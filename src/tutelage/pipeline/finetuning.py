"""The stage that fine-tunes the student for eight bits, with the teacher still teaching."""

import copy
from dataclasses import replace

import torch

from tutelage.deploy.simulate import settled, simulate_int8
from tutelage.engine import Arm
from tutelage.engine.events import Listener
from tutelage.engine.prepare import prepare
from tutelage.errors import ConfigError
from tutelage.job import Job
from tutelage.objective import Loss, Objective
from tutelage.pipeline.training import Trained, train_arm
from tutelage.teachers import Teacher

NAME = "finetuned"


def finetune_stage(
    job: Job, student: Trained, teacher: Teacher | None, listener: Listener
) -> Trained | None:
    """Train the delivered student on, its layers rounded as in eight bits.

    Objective, teacher and data are those of the distilled arm; length and learning rate are
    `export.finetune`'s.

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
    rows = torch.arange(min(settings.batch_size, len(job.train_reader)))
    network = prepare(
        network,
        objective,
        job.task,
        job.train_reader[rows, torch.zeros_like(rows)],
        teacher=teacher,
        num_samples=len(job.splits.train),
    )
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
        key="",
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
