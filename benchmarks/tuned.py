"""Whether tuned settings are at least as good as a recipe's own, on test data and fresh seeds.

    python benchmarks/tuned.py digits --trials 30 --seeds 5 output=runs/tuned-digits

Tunes on validation data, then trains the distilled student of both recipes under seeds that the
search never saw, and gives the paired interval of the difference over seeds and test samples. What
was done before is not done again.
"""

import argparse

from arms import right_answers
from torch import Tensor

from tutelage.config import build_job, read_recipe
from tutelage.config.read import recipe_path
from tutelage.job import Job
from tutelage.pipeline.run import prepare_teacher
from tutelage.significance import paired_interval
from tutelage.tune import Search, tune


def students_of(job: Job, seeds: range) -> Tensor:
    """Whether each seed's student is right on each test sample."""
    job, _, teacher = prepare_teacher(job, lambda _: None)
    assert teacher is not None  # a recipe that can be tuned has one
    return right_answers(job, teacher, seeds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_intermixed_args()
    recipe = read_recipe(chosen.recipe, chosen.overrides)
    folder = recipe_path(chosen.recipe).parent
    tuned = tune(Search(recipe, trials=chosen.trials, folder=folder), say)
    best = read_recipe(recipe.output / "tune" / "best.yaml", [f"output={recipe.output}/best"])
    seeds = range(chosen.seeds)
    default = students_of(build_job(recipe, folder=folder), seeds)
    better = students_of(build_job(best, folder=folder), seeds)
    found = paired_interval(better, default)
    settings = dict(tuned.trial(tuned.best).settings)
    print(f"best trial {tuned.best + 1} of {len(tuned.trials)}: {settings}")
    means = [float(right.double().mean()) for right in (default, better)]
    print(f"test accuracy, default {means[0]:.4f}, tuned {means[1]:.4f}")
    print(f"tuned - default: {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]")


def say(event: object) -> None:
    """One line a stage."""
    if type(event).__name__ == "StageDone":
        print(event, flush=True)


if __name__ == "__main__":
    main()
