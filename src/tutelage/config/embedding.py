"""Recipes of sentence embeddings: consistency checks, and the teacher's vectors as labels."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from tutelage.config.data import TextData
from tutelage.config.schema import Recipe
from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import Splits
from tutelage.errors import ConfigError
from tutelage.models.sentence import SENTENCE, STATIC, save_encoder
from tutelage.problem import Problem
from tutelage.tasks import Embedding
from tutelage.teachers.reference import ReferenceSource

TASK = "embedding"


def check_embedding(recipe: Recipe) -> None:
    """Refuse settings that do not fit embeddings, before anything is loaded.

    Raises:
        ConfigError: Something does not.
    """
    data, teacher = recipe.data, recipe.teacher
    if not isinstance(data, TextData):
        raise ConfigError(
            f"task: {TASK} does not go with data kind {data.kind!r}. It needs data: {{kind: text, "
            "path: ...}."
        )
    if data.label_column not in (None, TextData.model_fields["label_column"].default):
        raise ConfigError(
            f"data.label_column: {data.label_column!r} would not be read, for {TASK} learns from "
            "the texts alone. Set it to null."
        )
    if teacher.training is not None or recipe.co_teachers:
        raise ConfigError(
            f"teacher: for {TASK} it is one network that is trained already, since its vectors are "
            "what all others are judged by. Leave out training and co_teachers."
        )
    if recipe.measure is not None:
        raise ConfigError(
            "measure: a student of embeddings is written as a folder of sentence-transformers, not "
            "as one file that is timed. Set measure: null."
        )


def build_embedding_problem(
    recipe: Recipe, splits: Splits, make_teacher: Callable[[], nn.Module]
) -> Problem:
    """Let the teacher label validation and test data.

    Args:
        recipe: Checked.
        splits: Texts without labels.
        make_teacher: Makes the teacher, which is trained already.
    """
    teacher = make_teacher().eval()
    reader = BatchBuilder(splits.train, inputs=splits.inputs)
    first = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        width = Embedding(0).run(teacher, reader[first, first]).embeddings.shape[1]
    task = Embedding(width)
    assert splits.valid is not None
    judged = replace(
        splits,
        valid=ReferenceSource(splits.valid, teacher, task),
        test=ReferenceSource(splits.test, teacher, task),
    )
    is_encoder = recipe.student.model.startswith((SENTENCE, STATIC))
    return Problem(judged, task, save_student=save_encoder if is_encoder else None)
