"""From a checked recipe to the objects of a run."""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.config.data import CorpusData, ImageData, LoadedData, OwnData, TextData
from tutelage.config.embedding import TASK as EMBEDDING
from tutelage.config.embedding import build_embedding_problem, check_embedding
from tutelage.config.estimators import estimator_maker, is_estimator_name
from tutelage.config.language import build_language_problem, is_language_model, located
from tutelage.config.making import make
from tutelage.config.named import codec_of, own_data, target_of, train_settings, views_of
from tutelage.config.objective import build_objective
from tutelage.config.resolved import own_files, resolved
from tutelage.config.schema import Network, Recipe, Teacher, Transfer, Views
from tutelage.data.builtin import BUILTIN
from tutelage.data.images import load_image_folder
from tutelage.data.labels import LabelKind, need_classes
from tutelage.data.sources import Splits
from tutelage.data.text import load_text
from tutelage.data.token_labels import load_words
from tutelage.data.unlabelled import load_unlabelled
from tutelage.deploy.budgets import parse_budget
from tutelage.engine.inversion import InversionSettings
from tutelage.errors import ConfigError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.job import ExportSettings, Job, MeasureSettings, TeacherPlan, TransferPlan
from tutelage.models import causal, sentence, served
from tutelage.models.hf import HEADS, save_hf
from tutelage.models.load import BUILTIN as BUILTIN_NETWORKS
from tutelage.models.load import ENCODERS, make_model
from tutelage.models.origin import origin_of
from tutelage.problem import Problem
from tutelage.tasks import TASKS
from tutelage.tasks.making import TaskPlan, plan_task

OF_WORDS = "token_classification"
TRAINED = (causal.PREFIX, served.PREFIX, sentence.SENTENCE, sentence.STATIC)


def build_job(
    recipe: Recipe, *, folder: Path = Path(), command: str = "", splits: Splits | None = None
) -> Job:
    """Build everything that a recipe names, and fail early if something cannot be built.

    Args:
        recipe: Checked.
        folder: Where a relative `file.py:make` is looked for: the recipe's own folder.
        command: What repeats the run.
        splits: The recipe's data, where they are loaded already.
    """
    plan = plan_task(recipe.task, TASKS, recipe.metric, folder=folder)
    problem = _problem(recipe, plan, folder, splits)
    facts = _facts(recipe, problem)
    return Job(
        name=Path(os.path.abspath(recipe.output)).name,
        out=recipe.output,
        problem=problem,
        teacher=_teacher(recipe.teacher, "teacher", recipe.views, folder, facts, problem),
        co_teachers=_co_teachers(recipe, folder, facts, problem),
        assistants=tuple(_maker(network, folder, facts) for network in recipe.assistants),
        make_student=_maker(recipe.student, folder, facts),
        objective=build_objective(recipe, problem.task, folder),
        transfer=None if recipe.transfer is None else _transfer(recipe.transfer),
        settings=train_settings(recipe.train, recipe.optimizer, recipe.schedule, folder),
        views=views_of(recipe.views, facts, folder),
        seeds=recipe.seeds,
        has_baseline=recipe.baseline,
        codec=codec_of(recipe.cache, folder),
        cache_path=None if recipe.cache is None else recipe.cache.path,
        measure=None if recipe.measure is None else MeasureSettings(**recipe.measure.model_dump()),
        budget=None if recipe.budget is None else parse_budget(recipe.budget),
        export=ExportSettings() if is_language_model(recipe) else _export(recipe, folder),
        recipe=resolved(recipe, folder),
        own_files=own_files(recipe, folder),
        command=command,
        notes=(*problem.splits.notes, *problem.notes),
    )


def _problem(recipe: Recipe, plan: TaskPlan, folder: Path, splits: Splits | None) -> Problem:
    """What the recipe's data and task are, with what the task brings."""
    if is_language_model(recipe):
        found = build_language_problem(recipe)
        return found if splits is None else found.on(splits)
    if recipe.task == EMBEDDING:
        check_embedding(recipe)
        splits = splits or load_data(recipe, plan.label_kind)
        plain = {**data_facts(splits), "task": recipe.task}
        return build_embedding_problem(recipe, splits, _maker(recipe.teacher, folder, plain))
    splits = splits or load_data(recipe, plan.label_kind, folder)
    task = plan.make(splits.class_names, splits.train)
    facts = {"num_classes": task.width}
    return Problem(splits, task, save_student=_hf_folder(recipe, splits), facts=facts)


def _facts(recipe: Recipe, problem: Problem) -> dict[str, Any]:
    """What networks may want to know of the data and the task."""
    return {**data_facts(problem.splits), "task": recipe.task, **problem.facts}


def _hf_folder(recipe: Recipe, splits: Splits) -> Callable[[nn.Module, Path], None] | None:
    """Settings of a student that is written as a `transformers` folder; None for others."""
    data = recipe.data
    is_made_here = recipe.student.model.startswith("hf:") and recipe.task in HEADS
    if not is_made_here or not isinstance(data, TextData):
        return None
    name = _tokenizer(data, recipe)

    def save(model: nn.Module, folder: Path) -> None:
        save_hf(model, folder, tokenizer=load_tokenizer(name), class_names=splits.class_names)

    return save


def _export(recipe: Recipe, folder: Path) -> ExportSettings:
    """Export settings, checked: every target is known and every int8 scheme has a target."""
    export = recipe.export
    targets = ("onnx",) if export.targets is None else export.targets
    targets = tuple(target_of(name, folder) for name in targets)
    first = recipe.measure and recipe.measure.int8
    if export.finetune is not None and not (first or export.int8):
        raise ConfigError(
            "export.finetune: there are no int8 to fine-tune for. Give export.int8: "
            "[minmax], or leave export.finetune out."
        )
    return ExportSettings(
        targets=targets,
        int8=export.int8,
        finetune=None
        if export.finetune is None
        else train_settings(
            export.finetune.train, export.finetune.optimizer, export.finetune.schedule, folder
        ),
        licences={str(whose): text for whose, text in export.licences.items()},
    )


def _teacher(
    teacher: Teacher,
    place: str,
    views: Views,
    folder: Path,
    facts: Mapping[str, Any],
    problem: Problem,
) -> TeacherPlan:
    if is_estimator_name(teacher.model):
        make = estimator_maker(teacher, place, problem)
        return TeacherPlan(make, views=views_of(views, facts, folder), weight=teacher.weight)
    training = teacher.training
    _check_is_trained(teacher, place)
    if teacher.image_size is not None:
        facts = {**facts, "image_size": teacher.image_size}
    return TeacherPlan(
        make=_maker(teacher, folder, facts) if training else _loaded(teacher, place, folder, facts),
        train=None
        if training is None
        else train_settings(training.train, training.optimizer, training.schedule, folder),
        views=views_of(training.views if training and training.views else views, facts, folder),
        seed=0 if training is None else training.seed,
        norm=_norm(teacher, place),
        image_size=teacher.image_size,
        weight=teacher.weight,
        shard=teacher.shard,
        precision=teacher.precision,
        class_names=teacher.class_names,
        head_epochs=0 if training is None else training.head_epochs,
    )


def _check_is_trained(teacher: Teacher, place: str) -> None:
    """Refuse an untrained teacher, and class names where the data have their own."""
    if teacher.training is not None:
        if teacher.class_names is not None:
            raise ConfigError(
                f"{place}.class_names: it is trained here, on the data's own classes. Leave "
                "class_names or training out."
            )
        return
    if teacher.head is not None:
        raise ConfigError(
            f"{place}.head: a new head knows nothing yet. Train it: training: {{train: {{epochs: "
            "20}}."
        )
    is_loaded = teacher.weights is not None or teacher.model.startswith((*TRAINED, "hf:"))
    # Settings may name what another's maker loads; a built-in network loads nothing.
    if not is_loaded and (teacher.model in BUILTIN_NETWORKS or not teacher.settings):
        raise ConfigError(
            f"{place}: it has neither weights nor training, so it would teach noise. Give weights: "
            "FILE, or training: {train: {epochs: 20}}."
        )


def _loaded(
    teacher: Teacher, place: str, folder: Path, facts: Mapping[str, Any]
) -> Callable[[], nn.Module]:
    """Factory of a pretrained teacher; one with a newly drawn head is refused."""
    make = _maker(teacher, folder, facts)

    def loaded() -> nn.Module:
        made = make()
        drawn = origin_of(made).drawn
        if drawn:
            raise ConfigError(
                f"{place}: {teacher.model} holds no head for this task ({drawn[0]} would be newly "
                "drawn), so it would teach noise. Name a folder that was fine-tuned for it, or "
                "give training: {train: {epochs: 20}}."
            )
        return made

    return loaded


def _co_teachers(
    recipe: Recipe, folder: Path, facts: Mapping[str, Any], problem: Problem
) -> tuple[TeacherPlan, ...]:
    for number, teacher in enumerate(recipe.co_teachers):
        if teacher.precision != recipe.teacher.precision:
            raise ConfigError(
                f"co_teachers[{number}].precision: {teacher.precision} beside the teacher's "
                f"{recipe.teacher.precision}. They answer together: give all the same."
            )
    return tuple(
        _teacher(teacher, f"co_teachers[{number}]", recipe.views, folder, facts, problem)
        for number, teacher in enumerate(recipe.co_teachers)
    )


def _transfer(transfer: Transfer) -> TransferPlan:
    settings = transfer.model_dump(exclude={"num_images", "seed"})
    return TransferPlan(transfer.num_images, InversionSettings(**settings), transfer.seed)


def load_data(recipe: Recipe, kind: LabelKind, folder: Path = Path()) -> Splits:
    """Load the data that a recipe names, of all kinds but text for language models.

    Args:
        recipe: Checked.
        kind: What labels are, as the recipe's task says.
        folder: Where a relative file.py of own data is looked for.
    """
    data = recipe.data
    assert not isinstance(data, CorpusData)
    settings = data.model_dump(exclude={"kind"}, exclude_none=True)
    if isinstance(data, OwnData):
        return own_data(data, kind, folder)
    if isinstance(data, TextData):
        return _text(data, recipe, settings | {"tokenizer": _tokenizer(data, recipe)}, kind)
    if isinstance(data, LoadedData):
        return make("data", _loader(data.loader), settings | {"kind": kind})
    need_classes(kind, f"data kind {data.kind!r}")
    if isinstance(data, ImageData):
        return make("data", load_image_folder, settings)
    return make(f"data kind {data.kind!r}", BUILTIN[data.kind], settings)


def _loader(name: str) -> Callable[..., Splits]:
    module, _, attribute = name.partition(":")
    loader: Callable[..., Splits] = getattr(importlib.import_module(module), attribute)
    return loader


def _text(data: TextData, recipe: Recipe, settings: dict[str, Any], kind: LabelKind) -> Splits:
    if recipe.task == EMBEDDING:
        settings.pop("label_column", None)
        return make("data", load_unlabelled, settings)
    if data.label_column is None:
        raise ConfigError(
            f"data.label_column: {recipe.task} needs labels. Name their column; texts without any "
            "belong in data.transfer."
        )
    if recipe.task != OF_WORDS:
        return make("data", load_text, settings | {"kind": kind})
    if not isinstance(data.label_column, str):
        raise ConfigError(
            f"data.label_column: {recipe.task} has the labels of all words in one column. Name one."
        )
    if data.transfer:
        raise ConfigError(f"data.transfer: texts without labels cannot be used for {recipe.task}.")
    of_words = {k: v for k, v in settings.items() if not k.startswith("transfer")}
    return make("data", load_words, of_words)


def _tokenizer(data: TextData, recipe: Recipe) -> str:
    """The tokenizer that the recipe names, or the teacher's."""
    if data.tokenizer is not None:
        return data.tokenizer
    library, _, name = recipe.teacher.model.partition(":")
    if library not in ("hf", *ENCODERS):
        raise ConfigError(
            "data.tokenizer: none is given, and the teacher brings none. Give a folder with a "
            "tokenizer.json, or a teacher hf:NAME_OR_FOLDER or sentence:NAME_OR_FOLDER."
        )
    return name


def data_facts(splits: Splits) -> dict[str, Any]:
    """Facts about the data that networks may need."""
    inputs, _ = splits.train.fetch(torch.tensor([0]))
    return {"num_classes": len(splits.class_names), **splits.inputs.facts(inputs)}


def _maker(network: Network, folder: Path, facts: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made = make_model(
            located(network.model),
            network.settings,
            weights=network.weights,
            head=network.head,
            folder=folder,
            **facts,
        )
        return made.to(memory_format=torch.channels_last) if network.channels_last else made

    return make


def _norm(teacher: Teacher, place: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    mean, std = teacher.mean, teacher.std
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigError(f"{place}: mean and std belong together; give both or neither.")
    return mean, std
