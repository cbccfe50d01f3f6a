"""The chat inside a program: `python -m bench.embedded asyncio|uvloop|trio PORT [LIMIT=VALUE …]`."""

from __future__ import annotations

import sys
from typing import Any

import anyio

from chatapi import ChatAPI, Limits


def on_loop(name: str) -> dict[str, Any]:
    """What `anyio.run` is told for asyncio, uvloop or trio."""
    if name == "trio":
        return {"backend": "trio"}
    return {"backend": "asyncio", "backend_options": {"use_uvloop": name == "uvloop"}}


async def main(port: str, limits: list[str]) -> None:
    """Serve until the process ends."""
    given: dict[str, Any] = dict(limit.split("=") for limit in limits)
    await ChatAPI(Limits(**{"rate": 0, **given})).serve(f"127.0.0.1:{port}")


if __name__ == "__main__":
    loop, port, *limits = sys.argv[1:]
    anyio.run(main, port, limits, **on_loop(loop))
