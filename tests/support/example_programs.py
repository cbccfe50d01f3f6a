"""The examples as programs and as an ASGI application, for the tests of both kinds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from executables import prepared

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
HERE = "127.0.0.1:0"
PATIENCE = 60


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A program, with every warning an error, whose output is read by line."""
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CHAT_ADDRESS": HERE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepared(),
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


async def request(app: Any, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
    """Ask an ASGI application something, without a web server."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    parts = urlsplit(url)
    scope = {"type": "http", "method": method, "path": parts.path, "query_string": parts.query.encode()}
    await app({**scope, "root_path": "", "headers": []}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
