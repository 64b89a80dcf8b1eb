"""A folder shown on this machine, and on no other."""

import functools
import http.server
import os
import pathlib
import sys
from typing import Any

TYPES = {  # which Python takes from the system where there are any, right or wrong
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = TYPES

    def end_headers(self) -> None:
        # A page that is isolated from all others may use several threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser that left before all was sent
            super().handle_error(request, client_address)


def server(folder: str | os.PathLike, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a page's folder at 127.0.0.1 and this port (0: any that is free), not yet running.

    Raises ValueError for a folder that holds no page, and where the port is taken or no port.
    """
    folder = pathlib.Path(folder)
    if not (folder / "index.html").is_file():
        raise ValueError(f"{folder} holds no page (no index.html): make one with `ddim-export SRC {folder} --to=page`")
    if not 0 <= port <= 65535:
        raise ValueError(f"the port is {port}; expected a whole number from 0 (any that is free) to 65535")
    try:
        return _Server(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port {port} cannot be used ({error.strerror}): give another with --port, or 0 for any") from error


def serve(folder: str | os.PathLike, port: int = 8000) -> None:
    """Shows a page's folder at 127.0.0.1 until Ctrl+C. Raises ValueError as `server` does."""
    with server(folder, port) as running:
        print(f"http://127.0.0.1:{running.server_address[1]}/ shows {folder}; Ctrl+C ends it", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            pass
