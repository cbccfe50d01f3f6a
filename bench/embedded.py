"""The chat inside a program: `python -m bench.embedded asyncio|uvloop|trio PORT [FILE full|normal]`."""

from __future__ import annotations

import sys
from typing import Any

import anyio

from chatapi import ChatAPI, Limits
from chatapi.brokers.sqlite import SQLiteBroker


async def main(arguments: list[str]) -> None:
    """Serve until the process ends."""
    port, *store = arguments
    broker = SQLiteBroker(store[0], sync="normal" if store[1] == "normal" else "full") if store else None
    await ChatAPI(Limits(rate=0), broker=broker).serve(f"127.0.0.1:{port}")


if __name__ == "__main__":
    backend, *arguments = sys.argv[1:]
    options: dict[str, Any] = {"use_uvloop": True} if backend == "uvloop" else {}
    anyio.run(main, arguments, backend="trio" if backend == "trio" else "asyncio", backend_options=options)
