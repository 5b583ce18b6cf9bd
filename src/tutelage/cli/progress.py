"""Progress in the terminal: a bar with rate and remaining time of the current stage."""

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tutelage.cli.console import PlainConsole
from tutelage.engine.events import Advanced, Event, StageDone, StageStarted

REFRESH_SHARE = 200


class _Rate(ProgressColumn):
    """Units per second, or the speed that the stage itself reports."""

    def render(self, task: Task) -> Text:
        told = task.fields.get("rate")
        return Text(told or (f"{task.speed:,.0f}/s" if task.speed else ""), style="dim")


class ProgressListener:
    """Shows events as they come, one line per finished stage.

    Args:
        console: Where to.
    """

    def __init__(self, console: PlainConsole) -> None:
        """Prepare the bar."""
        self.console = console
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.shown = 0

    def __enter__(self) -> "ProgressListener":
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing, and show where an interrupt came."""
        self.bar.stop()
        if isinstance(error, KeyboardInterrupt) and str(error):
            self.console.print(str(error), soft_wrap=True)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case StageStarted(name=name, total=total):
                self.task = self.bar.add_task(name, total=total)
                self.shown = 0
            case Advanced(done=done, total=total, note=note):
                self._advance(done, total, note)
            case StageDone():
                self._finish(event)

    def _advance(self, done: int, total: int, rate: str) -> None:
        """Move the bar, but not at every step of a fast training."""
        if self.task is None or (done < total and done - self.shown < total // REFRESH_SHARE):
            return
        self.shown = done
        self.bar.update(self.task, completed=done, total=total, rate=rate)

    def _finish(self, event: StageDone) -> None:
        elapsed = ""
        if self.task is not None:
            elapsed = f"{self.bar.tasks[-1].elapsed or 0:6.1f} s"
            self.bar.remove_task(self.task)
            self.task = None
        state = "kept" if event.was_there else elapsed.strip()
        line = (f"{state:>9}", "dim")
        self.bar.print(
            Text.assemble(("✓", "green"), f" {event.name:<20} ", line, f"  {event.note}")
        )
