"""A program with the chat inside: `python -m bench.peers.embedded asyncio|trio PORT`."""

from __future__ import annotations

import sys

import anyio

from chatapi import ChatAPI, Limits


async def main(port: str) -> None:
    """Serve until the process ends."""
    await ChatAPI(Limits(rate=0)).serve(f"127.0.0.1:{port}")


if __name__ == "__main__":
    backend, port = sys.argv[1:]
    anyio.run(main, port, backend=backend)
