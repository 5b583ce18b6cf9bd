"""Each example runs, from its own file, cut to two epochs a training."""

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.engine.inversion import InversionSettings

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
TRAINERS = ("train", "distil")


def cut(function):
    """The same training, of two epochs."""

    def short(*args, epochs=2, **settings):
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        place = names.index("epochs")
        return function(
            *[2 if i == place else a for i, a in enumerate(args)],
            **settings | ({} if len(args) > place else {"epochs": 2}),
        )

    return short


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def accuracy(line):
    return float(line.split(": ")[1].split("%")[0])


def run(path, is_cut):
    space = runpy.run_path(str(path))
    main = space["main"]
    if is_cut:
        for name in TRAINERS:
            if name in main.__globals__:
                main.__globals__[name] = cut(main.__globals__[name])
        if "InversionSettings" in main.__globals__:
            main.__globals__["InversionSettings"] = lambda steps: InversionSettings(
                steps=steps // 20
            )
    main()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path, capsys):
    run(path, is_cut=True)
    last = capsys.readouterr().out.splitlines()[-1]
    assert accuracy(last) > 15


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_whole_example_teaches_its_student(path, capsys):
    run(path, is_cut=False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert accuracy(last) > 85
