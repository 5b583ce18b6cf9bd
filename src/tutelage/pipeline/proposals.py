"""Students for a device as recipes: proposals, and the check of a recipe's budget."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import nn

from tutelage.config.build import data_facts, load_data
from tutelage.config.read import read_recipe, recipe_path
from tutelage.config.schema import Recipe
from tutelage.data.sources import Splits
from tutelage.deploy.budgets import needs_text
from tutelage.deploy.proposing import FLOAT_ONNX, Form, Proposal, measure_needs, propose
from tutelage.deploy.targets import TARGETS
from tutelage.errors import ConfigError, ExportError, RunFolderError
from tutelage.files import write_text, write_whole
from tutelage.job import Job
from tutelage.models.copies import copied, state_of
from tutelage.models.load import load_weights, make_model
from tutelage.models.propose import Facts, Original, describe
from tutelage.tasks import TASKS
from tutelage.tasks.making import plan_task

SELECTED = Path("teacher") / "selected.safetensors"
FACTS_OF_LIBRARIES = Facts(num_classes=1000, in_channels=3, image_size=224)
FACTS_OF_BUILTIN = Facts(num_classes=10, in_channels=1, image_size=28)


@dataclass(frozen=True, slots=True)
class ProposalRequest:
    """A teacher, with the facts that proposals need.

    Attributes:
        original: The teacher.
        facts: Facts of the data.
        recipe: What a proposal's recipe shares with others; None if there is none to write.
        teacher: The teacher's part of such a recipe.
    """

    original: Original
    facts: Facts
    recipe: Recipe | None
    teacher: Mapping[str, Any]


def read_request(
    model: str,
    *,
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    base: str | None = None,
    facts: Facts | None = None,
) -> ProposalRequest:
    """Build the teacher that a command names.

    Args:
        model: Name of the model as in a recipe, or the folder of a run, whose teacher and recipe
            are then taken.
        settings: Settings of the network's constructor.
        weights: The teacher's weights, if they are worth keeping.
        base: A recipe for all but the networks.
        facts: Facts of the data, where no recipe tells.

    Raises:
        ConfigError: Name, settings and recipe do not go together.
        ModelError: The network cannot be made, or the weights do not fit.
    """
    if os.path.isdir(model):
        if settings or weights or base or facts:
            raise ConfigError(
                f"{model}: a run folder brings its own teacher, weights, recipe and data. Leave "
                "out the other options, or name the network instead of the folder."
            )
        return _of_run(Path(model))
    recipe = None if base is None else read_recipe(base)
    if recipe is not None:
        facts = facts_of(recipe, recipe_path(str(base)).parent)
    is_library = ":" in model
    facts = facts or (FACTS_OF_LIBRARIES if is_library else FACTS_OF_BUILTIN)
    teacher = _teacher_part(model, settings or {}, weights, recipe)
    network = make_model(model, settings, weights=weights, **facts.as_arguments()).eval()
    original = Original(_whole_name(model, Path()), settings or {}, network, weights is not None)
    return ProposalRequest(original, facts, recipe, teacher)


def _of_run(folder: Path) -> ProposalRequest:
    file = folder / "recipe.yaml"
    if not file.is_file():
        raise RunFolderError(f"{folder}: no recipe.yaml in it, so it is no run. Name a run folder.")
    recipe = read_recipe(file)
    facts = facts_of(recipe, folder)
    weights = folder / SELECTED if (folder / SELECTED).is_file() else recipe.teacher.weights
    network = make_model(
        recipe.teacher.model, recipe.teacher.settings, folder=folder, **facts.as_arguments()
    )
    if weights is not None:
        load_weights(network, weights)
    name = _whole_name(recipe.teacher.model, folder)
    original = Original(name, recipe.teacher.settings, network.eval(), weights is not None)
    teacher = recipe.teacher.model_dump(mode="json", exclude_defaults=True) | {"model": name}
    if weights is not None:
        teacher.pop("training", None)
        teacher["weights"] = str(weights.resolve())
    return ProposalRequest(original, facts, recipe, teacher)


def facts_of(recipe: Recipe, folder: Path) -> Facts:
    """Facts about the images of a recipe's data.

    Args:
        recipe: Checked.
        folder: Where a relative file.py is looked for: the recipe's own folder.
    """
    plan = plan_task(recipe.task, TASKS, folder=folder)
    return _facts_of_images(load_data(recipe, plan.label_kind, folder))


def _facts_of_images(splits: Splits) -> Facts:
    facts = data_facts(splits)
    if {*facts} != {field.name for field in fields(Facts)}:
        raise ConfigError(
            f"The data are {splits.inputs.name} inputs; what a student needs is predicted for "
            "images alone. Leave budget out of the recipe, or propose students for images."
        )
    return Facts(**facts)


def _teacher_part(
    model: str, settings: Mapping[str, Any], weights: Path | None, recipe: Recipe | None
) -> dict[str, Any]:
    part: dict[str, Any] = {"model": _whole_name(model, Path())}
    if settings:
        part["settings"] = dict(settings)
    if weights is not None:
        part["weights"] = str(weights.resolve())
    elif recipe is not None and recipe.teacher.training is not None:
        part["training"] = recipe.teacher.training.model_dump(mode="json", exclude_defaults=True)
    elif recipe is not None:
        raise ConfigError(
            f"model {model!r}: the recipe's teacher is loaded and not trained, so this one needs "
            "--weights FILE, or a recipe whose teacher has `training`."
        )
    return part


def _whole_name(model: str, folder: Path) -> str:
    """A model's name with absolute paths."""
    library, _, name = model.rpartition(":")
    return f"{(folder / library).resolve()}:{name}" if library.endswith(".py") else model


def write_proposals(
    question: ProposalRequest,
    budget_text: str,
    proposals: Sequence[Proposal],
    folder: Path,
    form: Form = FLOAT_ONNX,
) -> list[Path]:
    """Write each proposal as a runnable recipe, with initial weights if it has any.

    Args:
        question: The teacher, and what the recipes share.
        budget_text: Budget as text, for the recipes of students that fit.
        proposals: To write.
        folder: For recipes and weights.
        form: Format in which the students are delivered.

    Raises:
        ConfigError: There is no recipe to build on.
        RunFolderError: The folder cannot be written.
    """
    if question.recipe is None:
        raise ConfigError(
            "--write: a recipe needs data and settings. Name one to build on with --recipe, or a "
            "run folder as MODEL."
        )
    return [_write(question, budget_text, proposal, folder, form) for proposal in proposals]


def _write(
    question: ProposalRequest, budget_text: str, proposal: Proposal, folder: Path, form: Form
) -> Path:
    assert question.recipe is not None
    candidate = proposal.candidate
    student: dict[str, Any] = {"model": candidate.model, "settings": dict(candidate.settings)}
    if candidate.from_teacher:
        file = folder / f"{candidate.name}.safetensors"
        state = {k: v.detach().contiguous().clone() for k, v in state_of(candidate.network).items()}
        write_whole(file, lambda temporary: save_file(state, temporary))
        student["weights"] = str(file.resolve())
    content = question.recipe.model_dump(mode="json", exclude_defaults=True)
    content |= {"teacher": dict(question.teacher), "student": student}
    if form != FLOAT_ONNX:
        schemes = [] if form.scheme is None else [form.scheme]
        content["export"] = content.get("export", {}) | {"targets": [form.target], "int8": schemes}
    if proposal.fits:
        content["budget"] = budget_text
    output = question.recipe.output
    content["output"] = str(output.with_name(f"{output.name}-{candidate.name}"))
    content = Recipe.model_validate(content).model_dump(mode="json", exclude_defaults=True)
    path = folder / f"{candidate.name}.yaml"
    needs = needs_text(proposal.measured or proposal.predicted)
    head = f"# {candidate.name}: {candidate.parameters:,} parameters, {needs}.\n"
    write_text(path, head + yaml.safe_dump(content, sort_keys=False))
    return path


def form_of(job: Job) -> Form:
    """Format of a recipe's student: its first target, in int8 if it makes any."""
    target = job.export.targets[0] if job.export.targets else FLOAT_ONNX.target
    measured = () if job.measure is None or job.measure.int8 is None else (job.measure.int8,)
    schemes = (
        scheme for scheme in (*measured, *job.export.int8) if scheme in TARGETS[target].schemes
    )
    return Form(target, next(schemes, None))


def options_of(form: Form) -> str:
    """Command-line options of a format, without the defaults."""
    target = "" if form.target == FLOAT_ONNX.target else f" --target {form.target}"
    return target if form.scheme is None else f"{target} --int8 {form.scheme}"


def check_budget(job: Job, deliverable: nn.Module) -> str:
    """Refuse a student that exceeds the recipe's budget, before training.

    Args:
        job: With a budget.
        deliverable: The untrained student as it would be exported.

    Returns:
        What it needs, in words.

    Raises:
        ConfigError: It needs more; the message names students that come nearest.
    """
    assert job.budget is not None
    facts = _facts_of_images(job.splits)
    student = describe(Original("student", {}, deliverable.eval(), False), facts)
    form = form_of(job)
    needs = measure_needs([student], facts, seconds=1.0, form=form)[student.name]
    if job.budget.excess(needs) <= 1:
        return f"{needs_text(needs)} ({form}): within the budget of {job.budget}."
    over = ", ".join(f"{name} {share:.2f} times" for name, share in job.budget.shares(needs))
    raise ConfigError(
        f"budget: the student needs {needs_text(needs)} ({form}), "
        f"allowed are {job.budget} ({over}). "
        f"{_nearest(job, facts, form)}"
    )


def _nearest(job: Job, facts: Facts, form: Form) -> str:
    teacher = job.recipe.get("teacher", {})
    model = teacher.get("model", "")
    hint = f"More: tutelage propose MODEL_OR_RUN --budget '{job.budget}'{options_of(form)}."
    try:
        network = copied(job.teacher.make()).eval()
        original = Original(model, teacher.get("settings", {}), network, is_trained=False)
        assert job.budget is not None
        found = propose(original, facts, job.budget, count=3, form=form)
    except (ConfigError, ExportError):
        return hint
    return f"Nearest proposals: {'; '.join(map(_as_student, found))}. {hint}"


def _as_student(proposal: Proposal) -> str:
    candidate = proposal.candidate
    student = f"{{model: {candidate.model}, settings: {dict(candidate.settings)}}}"
    return f"{student} ({needs_text(proposal.measured or proposal.predicted)})"
