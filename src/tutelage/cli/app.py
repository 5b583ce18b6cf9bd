"""The `tutelage` command: the arguments of each subcommand, and how errors are printed."""

import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage import __version__
from tutelage.cli.explain import explain_command
from tutelage.errors import TutelageError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="tutelage",
    help="A large network teaches a small one, with numbers that mean something.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Build, describe and verify a teacher cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Recipe = Annotated[
    str, typer.Argument(help="A recipe file, or the name of a shipped recipe.", metavar="RECIPE")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: train.epochs=5 ...", metavar="[KEY=VALUE]..."),
]
CachePlace = Annotated[
    str, typer.Argument(help="A run folder, a cache's folder, or its address.", metavar="PLACE")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Run code that the run brings; only if you trust its sender."
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before the command."""
    if version:
        typer.echo(f"tutelage {__version__}")
        raise typer.Exit
    _State.debug = debug


class _State:
    """Whether errors show their traceback."""

    debug = False


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
) -> None:
    """Distil on real handwritten digits: about a minute on two cores, no download."""
    from tutelage.cli.commands import run_recipe

    run_recipe(
        "digits", [f"output={out}"], command=shlex.join(["tutelage", "demo", "--out", str(out)])
    )


@app.command()
def run(recipe: Recipe, overrides: Overrides = None) -> None:
    """Run a recipe from data to report; an interrupted run resumes."""
    from tutelage.cli.commands import run_recipe

    run_recipe(recipe, overrides or [], command=shlex.join(["tutelage", *sys.argv[1:]]))


@app.command()
def check(recipe: Recipe, overrides: Overrides = None) -> None:
    """Report problems, and the cost in memory and time, before training."""
    from tutelage.cli.commands import check_recipe

    raise typer.Exit(check_recipe(recipe, overrides or []))


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="Name of a shipped recipe.")] = None,
) -> None:
    """Print a shipped recipe, or list them all."""
    from tutelage.cli.commands import print_recipe

    print_recipe(name)


@app.command()
def report(folder: RunFolder) -> None:
    """Write a run's report again from its results."""
    from tutelage.cli.commands import rewrite_report

    rewrite_report(folder)


@app.command()
def playground(
    folder: RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Where it goes; RUN/playground if not given.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Serve it on the loopback address and open it.")
    ] = False,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One HTML file that needs no server.")
    ] = False,
    runtime: Annotated[
        Path | None, typer.Option(help="A folder with the unpacked npm package onnxruntime-web.")
    ] = None,
) -> None:
    """Write a page that runs teacher and student in the browser, on images and texts."""
    from tutelage.cli.playground import make_playground

    make_playground(folder, out, show=show, is_single_file=single_file, runtime=runtime)


@app.command()
def export(
    folder: RunFolder,
    target: Annotated[
        str | None,
        typer.Option(
            help="onnx, executorch, litert, openvino or torch_export; the recipe's if not given."
        ),
    ] = None,
    int8: Annotated[
        str | None, typer.Option(help="Int8 too: minmax, percentile or dynamic.")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Export a finished run's student again, checked in its own runtime. Nothing is trained."""
    from tutelage.cli.exports import export_student

    export_student(folder, target=target, scheme=int8, allow_code=allow_code)


@cache_app.command("build")
def cache_build(
    recipe: Recipe,
    overrides: Overrides = None,
    part: Annotated[
        str, typer.Option(help="Only the shards of part K of N, which other jobs complete.")
    ] = "",
    only_teacher: Annotated[
        bool, typer.Option("--only-teacher", help="Train the teacher; build no shards yet.")
    ] = False,
) -> None:
    """Train or load the teacher, and write its outputs for every view."""
    from tutelage.cli.cache import build_cache_part, build_teacher_cache, train_teacher

    if only_teacher:
        train_teacher(recipe, overrides or [])
    elif part:
        build_cache_part(recipe, overrides or [], part)
    else:
        build_teacher_cache(recipe, overrides or [])


@cache_app.command("finish")
def cache_finish(place: CachePlace) -> None:
    """Complete a cache that several jobs built, or name the missing parts."""
    from tutelage.cli.cache import finish_cache

    finish_cache(place)


@cache_app.command("info")
def cache_info(place: CachePlace) -> None:
    """Show what a cache holds."""
    from tutelage.cli.cache import describe_cache

    describe_cache(place)


@cache_app.command("verify")
def cache_verify(place: CachePlace) -> None:
    """Check every shard of a cache against its checksum."""
    from tutelage.cli.cache import verify_cache

    verify_cache(place)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One loss; all if not given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print them for programs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print them as a page.")] = False,
) -> None:
    """List the losses: what each needs, its settings, its paper, when to use it."""
    from tutelage.cli.methods import print_methods

    print_methods(name, as_json=json, as_page=markdown)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="Which table: hinton-mnist.", metavar="NAME")],
    out: Annotated[Path | None, typer.Option(help="The folder; runs/NAME if not given.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Students a row.")] = 5,
    effort: Annotated[
        float, typer.Option(min=0.001, help="Multiplies every number of epochs; 0.1 for a trial.")
    ] = 1.0,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16 where the processor is faster with it.")
    ] = "float32",
    teacher_epochs: Annotated[
        int | None, typer.Option(min=1, help="Of the table's teacher; its own if not given.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Only these parts, with commas between; all if not given.")
    ] = "",
) -> None:
    """Repeat a published table, with our numbers beside the paper's; an interrupted one resumes."""
    from tutelage.cli.tables import reproduce_table

    reproduce_table(
        name,
        out or Path("runs") / name,
        num_seeds=seeds,
        effort=effort,
        precision=precision,
        teacher_epochs=teacher_epochs,
        only=_names(only),
    )


@app.command()
def bench(
    suite: Annotated[
        str, typer.Argument(help="fashion_mnist, cnn_to_mlp or vit_to_cnn.", metavar="SUITE")
    ],
    out: Annotated[Path, typer.Option(help="The folder of all suites.")] = Path("runs/bench"),
    length: Annotated[str, typer.Option(help="short, for two cores, or full.")] = "short",
    seeds: Annotated[int, typer.Option(min=1, help="Students of each method.")] = 3,
    methods: Annotated[
        str, typer.Option(help="Only these, with commas between; all if not given.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Where the data lie.")] = None,
) -> None:
    """Compare all methods under one protocol; an interrupted comparison resumes."""
    from tutelage.cli.tables import compare_methods

    compare_methods(suite, out, length=length, num_seeds=seeds, methods=_names(methods), data=data)


def _names(text: str) -> list[str]:
    """Split names at commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


@app.command()
def propose(  # noqa: PLR0913 - one argument an option
    model: Annotated[
        str,
        typer.Argument(help="A run folder, or a network named as in a recipe.", metavar="MODEL"),
    ],
    budget: Annotated[str, typer.Option(help='As in "1 MB, 2 ms, 8 MB ram".')],
    recipe: Annotated[str | None, typer.Option(help="Data and settings of the proposals.")] = None,
    write: Annotated[Path | None, typer.Option(help="Folder for recipes that run.")] = None,
    settings: Annotated[str, typer.Option(help="Of the network, as in '{width: 32}'.")] = "",
    weights: Annotated[Path | None, typer.Option(help="Of the teacher.")] = None,
    images: Annotated[
        str,
        typer.Option(
            "--images", "--pictures", help="Classes x channels x height, as in 1000x3x224."
        ),
    ] = "",
    count: Annotated[int, typer.Option(min=1, max=50, help="How many.")] = 5,
    target: Annotated[
        str, typer.Option(help="onnx, executorch, litert, openvino or torch_export.")
    ] = "onnx",
    int8: Annotated[str, typer.Option(help="As int8 files: minmax, percentile or dynamic.")] = "",
) -> None:
    """Propose students that fit a size, a latency, a memory: predicted, then measured."""
    from tutelage.cli.propose import propose_students
    from tutelage.deploy.proposing import Form

    propose_students(
        model,
        budget,
        settings=settings,
        weights=weights,
        recipe=recipe,
        images=images,
        count=count,
        write=write,
        form=Form(target, int8 or None),
    )


@app.command()
def measure(
    folder: RunFolder,
    batch_sizes: Annotated[str, typer.Option(help="Samples in one call, as in 1,32.")] = "1,32",
    threads: Annotated[str, typer.Option(help="Of the runtime, as in 1,2.")] = "1",
    seconds: Annotated[float, typer.Option(help="For all latencies together.")] = 20.0,
    name: Annotated[str, typer.Option(help="Of this machine, for the tables.")] = "",
    rows: Annotated[
        Path | None,
        typer.Option("--import", help="What export/measure.py printed on another machine."),
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Measure size, memory, latency, throughput and energy of a finished run's exported files."""
    from tutelage.cli.measure import import_rows, measure_files

    if rows is not None:
        import_rows(folder, rows)
        return
    measure_files(
        folder,
        batch_sizes=batch_sizes,
        threads=threads,
        seconds=seconds,
        name=name,
        allow_code=allow_code,
    )


@app.command()
def tune(
    recipe: Recipe,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, earlier ones counted.")] = 30,
    over: Annotated[
        str, typer.Option(help="Only these: temperature,weights,layers,schedule; all if empty.")
    ] = "",
    students: Annotated[
        int, typer.Option(min=0, max=50, help="Choose among so many proposals, too.")
    ] = 0,
    budget: Annotated[str, typer.Option(help="Of the proposals; the recipe's if empty.")] = "",
    confirm: Annotated[int, typer.Option(min=0, help="More seeds for the best few.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of what is tried.")] = 0,
) -> None:
    """Search temperature, weights, layers and schedule on validation data; stopped ones resume."""
    from tutelage.cli.tune import tune_recipe

    tune_recipe(
        recipe,
        overrides or [],
        trials=trials,
        over=over,
        students=students,
        budget=budget,
        confirm=confirm,
        seed=seed,
    )


app.command("explain")(explain_command)


def main() -> None:
    """Run the command line: exit 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    if "WORLD_SIZE" in os.environ:  # torch warns once a process of what is meant to be so
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end, as by Ctrl-C
    sys.exit(guarded(app))


def guarded(command: Callable[..., Any]) -> int:
    """Call a Typer application and turn its errors into one line and an exit code."""
    logging.basicConfig(level=logging.ERROR)
    warnings.showwarning = _show_warning
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # of what torchao registers
    try:
        result = command(standalone_mode=False)
        if result == INTERRUPTED:  # what Typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _tell("Interrupted. The same command resumes there.")
        return INTERRUPTED
    except TutelageError as error:
        if _State.debug:
            raise
        _tell(f"Error: {error}")
        return FAILED if _went_wrong(error) else WRONG_INPUT
    except Exception as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """Show an unexpected error of a library; raise it if it is a bug of ours."""
    shown = getattr(error, "show", None)
    if shown is not None:
        shown()
        return WRONG_INPUT
    if not _lost_another(error):
        raise error
    _tell(
        f"Error: another process of this run is gone ({str(error).splitlines()[0]}). Start all "
        "of them again with the same command: it resumes there."
    )
    return FAILED


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell(f"Warning: {message}")


def _may_speak() -> bool:
    """Whether this process of a run is the one that reports the error."""
    if "torch" not in sys.modules:
        return True
    from tutelage.distributed import should_report_error

    return should_report_error()


def _lost_another(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return False
    from tutelage.distributed import is_peer_failure

    return is_peer_failure(error)


def _went_wrong(error: TutelageError) -> bool:
    """Whether the run failed, as opposed to having wrong input."""
    from tutelage.errors import ExportError, LockedError, TrainingError, WriteError

    return isinstance(error, ExportError | LockedError | TrainingError | WriteError)


def _tell(text: str) -> None:
    """Print to stderr, once among the processes of a run."""
    if _may_speak():
        from tutelage.cli.console import without_controls

        typer.echo(without_controls(text), err=True)
