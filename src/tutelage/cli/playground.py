"""The `tutelage playground` command."""

from pathlib import Path

from tutelage.cli.console import PlainConsole
from tutelage.playground import (
    find_runtime,
    open_file,
    serve,
    write_folder,
    write_single_file,
)
from tutelage.report import formatting


def make_playground(
    run: Path, out: Path | None, *, show: bool, is_single_file: bool, runtime: Path | None
) -> None:
    """Write the playground, print its path, and open it if asked."""
    console = PlainConsole(highlight=False, soft_wrap=True)
    found = find_runtime(runtime)
    if is_single_file:
        written = write_single_file(run, out or run / "playground.html", found, runtime)
    else:
        written = write_folder(run, out or run / "playground", found, runtime)
    console.print(f"Playground: {written.page}  ({formatting.size(written.size_bytes)})")
    if show and is_single_file:
        open_file(written.page)
    elif show:
        serve(
            written.page.parent,
            lambda address: console.print(f"Served at {address}  Ctrl-C stops."),
            written.names,
        )
    elif not is_single_file:
        console.print("Serve that folder with any web server, or add --open.")
