"""Distilled students of a job under several seeds, and which test samples each puts right."""

from collections.abc import Iterable

import torch
from torch import Tensor

from tutelage.job import Job
from tutelage.pipeline.evaluation import predict_test
from tutelage.pipeline.training import arm_stage
from tutelage.significance import correct
from tutelage.teachers import Teacher


def right_answers(job: Job, teacher: Teacher, seeds: Iterable[int]) -> Tensor:
    """Seeds by test samples; what was trained before is loaded from the job's folder.

    Args:
        job: Of a task with classes.
        teacher: Of the students.
        seeds: One student each.
    """
    rows = []
    for seed in seeds:
        trained = arm_stage(job, "distilled", seed, job.objective, teacher, lambda _: None)
        said = predict_test(job, trained.selected, torch.device("cpu"))
        rows.append(correct(said.outputs.logits, said.labels))
    return torch.stack(rows)
