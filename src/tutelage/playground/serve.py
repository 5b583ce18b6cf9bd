"""A folder on the loopback address, until Ctrl-C."""

import webbrowser
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files, tells nobody, and lets nothing be kept: the folder may be written anew."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def make_server(folder: Path) -> ThreadingHTTPServer:
    """A server of a folder's files on the loopback address, at any free port."""
    return ThreadingHTTPServer((HOST, 0), partial(_Quiet, directory=str(folder)))


def serve(folder: Path, tell: Callable[[str], None]) -> None:
    """Serve a folder on the loopback address and open it in the browser, until Ctrl-C.

    Args:
        folder: With an index.html.
        tell: Told the address before the browser is opened.
    """
    with make_server(folder) as server:
        address = f"http://{HOST}:{server.server_port}/"
        tell(address)
        webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def open_file(path: Path) -> None:
    """Open a file in the browser."""
    webbrowser.open(path.resolve().as_uri())
