"""A chat server over Redis as a program, on the event loop and with the times that a test wants; else as chatserver."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chatapi import ChatAPI, Limits
from chatapi.brokers.redis.broker import RedisBroker


async def serve(address: str, broker: RedisBroker) -> None:
    """Serve until SIGTERM."""
    chat = ChatAPI(Limits(rate=0), broker=broker)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            listening = await tasks.start(partial(chat.serve, address))
            print(f"chatserver: listening on {listening[0].address}", flush=True)  # noqa: T201

            async def drain() -> None:
                await anext(signals)
                await chat.drain()

            tasks.start_soon(drain)
            await chat.stopped()
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=["asyncio", "trio", "uvloop"])
    parser.add_argument("-a", dest="address")
    parser.add_argument("-redis")
    parser.add_argument("-redis-wait", type=int, default=0)
    parser.add_argument("-lease", type=float, default=10)
    parser.add_argument("-patience", type=float, default=3)
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("coredis").setLevel("CRITICAL")  # it has a traceback for every connection that breaks
    broker = RedisBroker(given.redis, replicas=given.redis_wait, lease=given.lease, patience=given.patience)
    options = {} if given.loop == "trio" else {"use_uvloop": given.loop == "uvloop"}
    backend = "trio" if given.loop == "trio" else "asyncio"
    anyio.run(serve, given.address, broker, backend=backend, backend_options=options)
