"""Students to choose from in a search: proposals for the run's own teacher, with their latency."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.config.build import build_job
from tutelage.config.read import read_recipe
from tutelage.config.schema import Recipe
from tutelage.deploy.budgets import parse_budget
from tutelage.deploy.proposing import measure_needs, propose
from tutelage.engine.events import Listener, StageDone, StageStarted, ignore
from tutelage.locks import locked
from tutelage.models.propose import Original, describe
from tutelage.pipeline.proposals import read_request, write_proposals
from tutelage.pipeline.run import prepare_teacher
from tutelage.records import load_record, save_record

OWN = "own"


@dataclass(frozen=True, slots=True)
class Students:
    """The students that a search chooses from.

    Attributes:
        parts: Name to the student's part of a recipe.
        latencies_ms: Name to p50 of its exported file, all measured by turns.
    """

    parts: Mapping[str, Mapping[str, Any]]
    latencies_ms: Mapping[str, float]


def find_students(
    recipe: Recipe, folder: Path, budget: str, *, count: int, listener: Listener = ignore
) -> Students:
    """The recipe's own student and proposals, found and measured once per run folder.

    Args:
        recipe: Its teacher is trained or loaded first.
        folder: Folder of the recipe.
        budget: Budget as in a recipe.
        count: Proposals beside the own student.
        listener: Told of every stage.
    """
    place = recipe.output / "tune" / "students"
    file = place / "students.json"
    if not file.is_file():
        listener(StageStarted("proposals", None))
        save_record(file, _find(recipe, folder, budget, count, place, listener))
        listener(StageDone("proposals", was_there=False))
    return load_record(file, Students)


def _find(
    recipe: Recipe, folder: Path, budget: str, count: int, place: Path, listener: Listener
) -> Students:
    job = build_job(recipe, folder=folder)
    with locked(job.out, "tune"):
        prepare_teacher(job, listener)
    question = read_request(str(recipe.output))
    proposals = propose(question.original, question.facts, parse_budget(budget), count=count)
    paths = write_proposals(question, budget, proposals, place)
    own = job.new_student(0).eval()
    whole = describe(Original("own", {}, own, is_trained=False), question.facts, name=OWN)
    candidates = [whole, *(proposal.candidate for proposal in proposals)]
    needs = measure_needs(candidates, question.facts, seconds=1.0 * len(candidates))
    parts = {OWN: recipe.student.model_dump(mode="json")}
    for path, proposal in zip(paths, proposals, strict=True):
        parts[proposal.candidate.name] = read_recipe(path).student.model_dump(mode="json")
    return Students(parts, {name: need.latency_ms or 0.0 for name, need in needs.items()})
