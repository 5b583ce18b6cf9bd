"""Whether students cut out of the teacher learn better from its weights than from random ones.

    python benchmarks/slices.py RUN --shares 0.5 0.25 0.125 --seeds 5

RUN is a finished run; its teacher, data, objective and training settings are taken. For each share
of the teacher's channels two students of one architecture learn from the teacher: one starts from
the weights that `tutelage propose` would give it, one from fresh weights. Seeds, order of data and
budget are the same in pairs; the interval is of the difference on test data, over other seeds and
other samples. `--depth` cuts rows of blocks instead. What was trained before is not trained again.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from arms import right_answers
from torch import nn

from tutelage.config import build_job, read_recipe
from tutelage.config.build import data_facts
from tutelage.job import Job
from tutelage.models.cost import count_parameters
from tutelage.models.propose import Facts
from tutelage.models.slices import initialise, slice_network
from tutelage.pipeline.run import prepare_teacher
from tutelage.significance import paired_interval


def main() -> None:
    """Print one row a share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25, 0.125])
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, nargs="+", help="several lengths; the run's if none")
    parser.add_argument("--out", type=Path, default=Path("runs/slices"))
    chosen = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    recipe = read_recipe(chosen.run / "recipe.yaml", chosen.overrides)
    job, trained, teacher = prepare_teacher(build_job(recipe, folder=chosen.run), lambda _: None)
    assert teacher is not None
    facts = Facts(**data_facts(job.splits))
    print("| share | parameters | epochs | random weights | the teacher's weights | difference |")
    print("|---|---|---|---|---|---|")
    for epochs in chosen.epochs or [job.settings.epochs]:
        for share in chosen.shares:
            sides = {"depth" if chosen.depth else "width": share}
            cut = slice_network(trained.selected, facts.example(), **sides).requires_grad_()
            right = []
            for name, make in (("random", fresh(cut)), ("slice", kept(cut))):
                place = chosen.out / job.name / f"{share:g}-{epochs}-{name}"
                side = of_length(job, epochs, place, make)
                right.append(right_answers(side, teacher, range(chosen.seeds)))
            found = paired_interval(right[1], right[0])
            means = [f"{100 * float(side.double().mean()):.2f}" for side in right]
            change = f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
            cells = [f"{share:g}", f"{count_parameters(cut):,}", str(epochs), *means, change]
            print(f"| {' | '.join(cells)} |", flush=True)


def fresh(cut: nn.Module) -> Callable[[], nn.Module]:
    """Students of this architecture with initial weights of their own."""
    return lambda: initialise(copy.deepcopy(cut)).train()


def kept(cut: nn.Module) -> Callable[[], nn.Module]:
    """Students that start from these weights."""
    return lambda: copy.deepcopy(cut).train()


def of_length(job: Job, epochs: int, out: Path, make: Callable[[], nn.Module]) -> Job:
    """The same job with another student and length."""
    settings = replace(job.settings, epochs=epochs)
    return replace(job, out=out, settings=settings, make_student=make)


if __name__ == "__main__":
    main()
