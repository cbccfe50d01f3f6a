"""MaChat's entry points: a chat server in one call, in a program of its own or inside another one."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.abc

from chatapi import ChatAPI, ChatError, Listening
from chatapi.addresses import DEFAULT_ADDRESS

__all__ = ["run_tcp", "run_tcp_with_existing_api"]


def run_tcp(
    address: str = DEFAULT_ADDRESS,
    chat: ChatAPI | None = None,
    *,
    telnet: str | None = None,
    lobby: str = "lounge",
    started: Callable[[list[Listening]], None] | None = None,
    beside: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> bool:
    """Serve a chat until SIGINT or SIGTERM; blocks, owns both signals, and uses uvloop where it is installed.

    The first signal drains: no new connections, everybody is told, what was read is delivered. A second one ends at
    once. A SIGINT that was ignored when the process started stays ignored, as a shell wants it for a background job.
    `started` is called with where it listens. `beside` is an async function that runs beside the server, a bot for
    instance, and is cancelled when the server has ended. Returns whether it ended in good order. Raises what
    `ChatAPI.serve` raises: `AddressError`, `OSError` (an address is in use), `StoreError`, `Refused` (the lobby's
    name).
    """

    async def main() -> bool:
        api = chat or ChatAPI()
        at_once = False

        async def obey(signals: AsyncIterator[signal.Signals]) -> None:
            nonlocal at_once
            await anext(signals)
            tasks.start_soon(api.drain)
            await anext(signals)
            at_once = True
            tasks.cancel_scope.cancel()

        refused: Exception | None = None
        with anyio.open_signal_receiver(*_signals()) as signals:
            async with anyio.create_task_group() as tasks:
                try:
                    listening = await tasks.start(partial(api.serve, address, telnet=telnet, lobby=lobby))
                except (OSError, ValueError, ChatError) as error:
                    refused = error  # raised below: out of the task group it would come wrapped
                else:
                    if started is not None:
                        started(listening)
                    tasks.start_soon(obey, signals)
                    if beside is not None:
                        tasks.start_soon(beside)
                    await api.stopped()
                tasks.cancel_scope.cancel()
        if refused is not None:
            raise refused
        return not at_once

    uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": uvloop})


def _signals() -> list[signal.Signals]:
    ignores_ctrl_c = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [signal.SIGTERM] if ignores_ctrl_c else [signal.SIGINT, signal.SIGTERM]


async def run_tcp_with_existing_api(
    address: str,
    chat: ChatAPI,
    *,
    telnet: str | None = None,
    lobby: str = "lounge",
    task_status: anyio.abc.TaskStatus[list[Listening]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an existing chat inside a program's own event loop, asyncio or trio, until it is drained or cancelled.

    Owns no signal. The same as ``chat.serve``; see there for what it raises and what cancelling it does.
    """
    await chat.serve(address, telnet=telnet, lobby=lobby, task_status=task_status)
