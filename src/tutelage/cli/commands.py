"""What the commands do; imported only once a command runs, since torch takes its time."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tutelage import doctor
from tutelage.cli.progress import ProgressListener
from tutelage.cli.results import print_results
from tutelage.config import build_job, read_recipe, shipped_recipes
from tutelage.config.read import recipe_path
from tutelage.errors import TutelageError
from tutelage.job import Job
from tutelage.locks import locked
from tutelage.pipeline import run_job
from tutelage.pipeline.delivery import deliverable
from tutelage.pipeline.proposals import check_budget
from tutelage.pipeline.run import rebuild_cache
from tutelage.ranks import first, join, leave
from tutelage.records import RunRecord, load_record
from tutelage.report import write_report
from tutelage.teachers import store

LOOKS = {doctor.PROBLEM: "red", doctor.WARNING: "yellow", doctor.FINE: "green"}


def run_recipe(name: str, overrides: Sequence[str], *, command: str) -> None:
    """Run a recipe and print what came out."""
    console = _console()
    job = _job(name, overrides, command)
    with ProgressListener(console) as listener:
        finished = run_job(job, listener)
    leave()
    print_results(console, finished.record, job.out)


def check_recipe(name: str, overrides: Sequence[str]) -> int:
    """Print what the doctor finds; 2 if there is a problem."""
    job = _job(name, overrides, "")
    findings = [*doctor.check(job), *_look_at_budget(job)]
    table = Table(box=None, pad_edge=False)
    for heading in ("", "about", "finding"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = LOOKS[finding.level]
        table.add_row(f"[{style}]{finding.level}[/]", finding.about, finding.text)
    Console().print(table)
    return 2 if any(finding.level == doctor.PROBLEM for finding in findings) else 0


def _look_at_budget(job: Job) -> list[doctor.Finding]:
    if job.budget is None:
        return []
    try:
        text = check_budget(job, deliverable(job, job.new_student(0)))
    except TutelageError as error:
        return [doctor.Finding(doctor.PROBLEM, "budget", str(error))]
    return [doctor.Finding(doctor.FINE, "budget", text)]


def print_recipe(name: str | None) -> None:
    """Print one shipped recipe, or their names with their first lines."""
    console = Console(highlight=False)
    if name is not None:
        console.out(recipe_path(name).read_text(encoding="utf-8"), end="", highlight=False)
        return
    for known, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        console.print(f"[bold]{known:15}[/] {first}")


def rewrite_report(folder: Path) -> None:
    """Write report.html from results.json."""
    record = load_record(folder / "results.json", RunRecord)
    with locked(folder, "report"):
        write_report(record, folder / "report.html")
    Console().print(f"Report: {folder / 'report.html'}")


def build_teacher_cache(name: str, overrides: Sequence[str]) -> None:
    """Train or load the teacher and build the cache of a recipe."""
    console = _console()
    job = _job(name, overrides, "")
    with ProgressListener(console) as listener:
        rebuild_cache(job, listener)
    first(lambda: describe_cache(job.out))
    leave()


def describe_cache(folder: Path) -> None:
    """Print a cache's manifest."""
    place = _cache_folder(folder)
    manifest = store.load_manifest(place)
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "cache": str(place),
        "samples x views": f"{manifest.key.num_samples:,} x {manifest.key.num_views}",
        "classes": str(manifest.key.num_classes),
        "codec": manifest.key.codec,
        "size": f"{manifest.size_bytes / 1e6:.2f} MB in {len(manifest.shards)} shard(s)",
        "bytes per item": f"{manifest.bytes_per_item:.1f}",
        "KL(live || cached)": f"{manifest.kl_to_live:.3g} nats",
        "built in": f"{manifest.build_seconds:.1f} s",
        "teacher": manifest.key.teacher,
        "data": manifest.key.data,
        "views": manifest.key.views,
    }
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)


def verify_cache(folder: Path) -> None:
    """Check a cache's shards."""
    place = _cache_folder(folder)
    manifest = store.load_manifest(place)
    store.verify(place, manifest)
    Console().print(f"{place}: {len(manifest.shards)} shard(s) are whole and unchanged.")


def _console() -> Console:
    """Where the first process prints; the others, if there are any, are silent."""
    return Console(quiet=not join().is_first)


def _cache_folder(folder: Path) -> Path:
    """A cache's folder, given itself or the run folder around it."""
    return folder / "cache" if (folder / "cache").is_dir() else folder


def _job(name: str, overrides: Sequence[str], command: str) -> Job:
    recipe = read_recipe(name, overrides)
    return build_job(recipe, folder=recipe_path(name).parent, command=command)
