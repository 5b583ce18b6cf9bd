"""A page and its files on the loopback address, until Ctrl-C."""

import mimetypes
import webbrowser
from collections.abc import Callable, Collection
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tutelage.files import open_regular

HOST = "127.0.0.1"
PAGE = "index.html"
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm"}
HEADERS = {
    "Cache-Control": "no-store",  # the folder may be written anew
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class _Listed(BaseHTTPRequestHandler):
    """Serves listed files only, and only to pages of this address."""

    def __init__(self, *request: Any, folder: Path, names: Collection[str]) -> None:
        self.folder = folder
        self.names = names
        super().__init__(*request)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix("/") or PAGE
        if not self._is_asked_for_here():
            self._end(HTTPStatus.MISDIRECTED_REQUEST)
            return
        if name not in self.names or not self._lies_inside(name):
            self._end(HTTPStatus.NOT_FOUND)
            return
        try:
            with open_regular(self.folder / name) as file:
                content = file.read()
        except OSError:
            self._end(HTTPStatus.NOT_FOUND)
            return
        self._end(HTTPStatus.OK, content, Path(name).suffix, has_body=has_body)

    def _is_asked_for_here(self) -> bool:
        """Whether the request came to this address, not to a name that resolves to it.

        A page elsewhere could let its own name point to this machine and read what is served.
        """
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        return self.headers.get("Host", "") in (f"{HOST}:{port}", f"localhost:{port}")

    def _lies_inside(self, name: str) -> bool:
        place = (self.folder / name).resolve()
        return place == self.folder.resolve() / name

    def _end(
        self, status: HTTPStatus, content: bytes = b"", suffix: str = "", *, has_body: bool = True
    ) -> None:
        kind = TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if "text" in kind else kind)
        self.send_header("Content-Length", str(len(content)))
        for header, value in HEADERS.items():
            self.send_header(header, value)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def version_string(self) -> str:
        """An empty version, so that none is disclosed."""
        return "tutelage"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def make_server(folder: Path, names: Collection[str] = (PAGE,)) -> ThreadingHTTPServer:
    """A server of some files on the loopback address, at any free port.

    Args:
        folder: Where they lie.
        names: Names of the files, below the folder; nothing else is served, and no link is
            followed.
    """
    listed = frozenset({PAGE, *names})
    return ThreadingHTTPServer((HOST, 0), partial(_Listed, folder=folder, names=listed))


def serve(folder: Path, tell: Callable[[str], None], names: Collection[str] = (PAGE,)) -> None:
    """Serve a page on the loopback address and open it in the browser, until Ctrl-C.

    Args:
        folder: With an index.html.
        tell: Told the address before the browser is opened.
        names: See `make_server`.
    """
    with make_server(folder, names) as server:
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
