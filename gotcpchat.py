"""MaChat's entry points: a chat server in one call, in a program of its own or inside another one."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.abc

from chatapi import ChatAPI, Disconnected, Listening, RefusalCode, Refused
from chatapi.addresses import DEFAULT_ADDRESS
from chatapi.tasks import task_group

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

    The first signal drains: no new connections, everybody is told, what was read is delivered; a server that still
    starts ends without listening. A second one ends at once. A SIGINT that was ignored when the process started stays
    ignored, as a shell wants it for a background job. `started` is called with where it listens. `beside` is an async
    function that runs beside the server, a bot for instance, and is cancelled when the server has ended. Returns
    whether it ended in good order.

    Raises what `ChatAPI.serve` raises: `AddressError`, `OSError` (an address is in use), `StoreError`, `Refused` (the
    lobby's name), `RuntimeError` (the chat is being served already); and what `started` or `beside` raises, which ends
    the server. That the server drains is no error: `Disconnected` and `Refused` with ``draining`` just end `beside`.
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

        async def accompany(function: Callable[[], Coroutine[Any, Any, object]]) -> None:
            try:
                await function()
            except (Disconnected, Refused) as error:
                code = error.reason.code if isinstance(error, Disconnected) else error.code
                if code != RefusalCode.DRAINING:  # that the server is shutting down is no fault of a bot
                    raise

        with anyio.open_signal_receiver(*_signals()) as signals:
            async with task_group() as tasks:
                tasks.start_soon(obey, signals)
                listening = await tasks.start(partial(api.serve, address, telnet=telnet, lobby=lobby))
                if listening:  # not where a signal came first
                    if started is not None:
                        started(listening)
                    if beside is not None:
                        tasks.start_soon(accompany, beside)
                await api.stopped()
                tasks.cancel_scope.cancel()
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
