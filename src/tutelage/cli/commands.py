"""Bodies of the commands, imported only when a command runs because torch loads slowly."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from tutelage import doctor
from tutelage.cli.console import PlainConsole
from tutelage.cli.progress import ProgressListener
from tutelage.cli.results import print_results
from tutelage.config import build_job, read_recipe, shipped_recipes
from tutelage.config.read import recipe_path
from tutelage.distributed import destroy_process_group, init_process_group
from tutelage.errors import TutelageError
from tutelage.job import Job
from tutelage.locks import locked
from tutelage.pipeline import run_job
from tutelage.pipeline.delivery import wrap_for_export
from tutelage.pipeline.exporting import raise_refused
from tutelage.pipeline.proposals import check_budget
from tutelage.pipeline.rehearsal import rehearse_exports
from tutelage.records import RunRecord, load_record
from tutelage.report import write_report

LOOKS = {doctor.PROBLEM: "red", doctor.WARNING: "yellow", doctor.OK: "green"}


def run_recipe(name: str, overrides: Sequence[str], *, command: str) -> None:
    """Run a recipe and print its results."""
    console = open_console()
    job = job_of(name, overrides, command)
    with ProgressListener(console) as listener:
        finished = run_job(job, listener)
    destroy_process_group()
    print_results(console, finished.record, job.out)
    raise_refused(finished.record.refused, job.out)


def check_recipe(name: str, overrides: Sequence[str]) -> int:
    """Print the doctor's findings; exit code 2 if there is a problem."""
    job = job_of(name, overrides, "")
    findings = [*doctor.check(job), *_check_budget(job)]
    if not any(finding.level == doctor.PROBLEM for finding in findings):
        findings += rehearse_exports(job)
    table = Table(box=None, pad_edge=False)
    for heading in ("", "about", "finding"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = LOOKS[finding.level]
        table.add_row(Text(finding.level, style), finding.about, finding.text)
    PlainConsole().print(table)
    return 2 if any(finding.level == doctor.PROBLEM for finding in findings) else 0


def _check_budget(job: Job) -> list[doctor.CheckResult]:
    if job.budget is None:
        return []
    try:
        text = check_budget(job, wrap_for_export(job, job.new_student(0)))
    except TutelageError as error:
        return [doctor.CheckResult(doctor.PROBLEM, "budget", str(error))]
    return [doctor.CheckResult(doctor.OK, "budget", text)]


def print_recipe(name: str | None) -> None:
    """Print one shipped recipe, or their names with their first lines."""
    console = PlainConsole(highlight=False)
    if name is not None:
        console.out(recipe_path(name).read_text(encoding="utf-8"), end="", highlight=False)
        return
    for known, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        console.print(Text.assemble((f"{known:15}", "bold"), f" {first}"))


def rewrite_report(folder: Path) -> None:
    """Write report.html from results.json."""
    record = load_record(folder / "results.json", RunRecord)
    with locked(folder, "report"):
        write_report(record, folder / "report.html")
    PlainConsole().print(f"Report: {folder / 'report.html'}", soft_wrap=True)


def open_console() -> PlainConsole:
    """The console of the main process; other processes print nothing."""
    return PlainConsole(quiet=not init_process_group().is_main)


def job_of(name: str, overrides: Sequence[str], command: str) -> Job:
    """Build the job of a recipe."""
    recipe = read_recipe(name, overrides)
    return build_job(recipe, folder=recipe_path(name).parent, command=command)
