"""MaChat's entry points: a chat server in one call, as a program of its own or inside another program."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from chatapi import ChatAPI, Disconnected, Listening, RefusalCode, Refused
from chatapi.addresses import DEFAULT_ADDRESS
from chatapi.doors import Door
from chatapi.tasks import task_group

__all__ = ["run_tcp", "run_tcp_with_existing_api"]


def run_tcp(
    address: str = DEFAULT_ADDRESS,
    chat: ChatAPI | None = None,
    *,
    telnet: str | None = None,
    lobby: str = "lounge",
    doors: Mapping[str, tuple[str, Door]] | None = None,
    started: Callable[[list[Listening]], None] | None = None,
    beside: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> bool:
    """Serve a chat until SIGINT or SIGTERM; blocks, handles both signals, and uses uvloop if it is installed.

    The first signal drains: the server accepts no new connections, tells all members, and delivers what it has read; a
    server that is still starting ends without listening. A second signal ends the server at once. If SIGINT was ignored
    when the process started, it stays ignored, as a shell expects of a background job. `started` is called with the
    addresses on which the server listens. `beside` is an async function that runs beside the server, for example a bot,
    and is cancelled when the server has ended. Returns whether the server ended in good order.

    Raises what `ChatAPI.serve` raises: `AddressError`, `OSError` (an address is in use), `StoreError`, `Refused` (the
    lobby's name), `ValueError` (one of `doors`), `RuntimeError` (the chat is being served already); and what `started`
    or `beside` raises, which ends the server. `Disconnected` and `Refused` with ``draining`` are no errors: they only
    end `beside`.
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
                if code != RefusalCode.DRAINING:  # draining is no error of the bot
                    raise

        with anyio.open_signal_receiver(*_signals()) as signals:
            async with task_group() as tasks:
                tasks.start_soon(obey, signals)
                listening = await tasks.start(partial(api.serve, address, telnet=telnet, lobby=lobby, doors=doors))
                if listening:  # empty if a signal came first
                    if beside is not None:  # first, so that a bot is in its room before anybody can connect
                        tasks.start_soon(accompany, beside)
                        await anyio.lowlevel.checkpoint()
                    if started is not None:
                        started(listening)
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
    doors: Mapping[str, tuple[str, Door]] | None = None,
    task_status: anyio.abc.TaskStatus[list[Listening]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an existing chat inside a program's own event loop, asyncio or trio, until it is drained or cancelled.

    Handles no signals. It does the same as ``chat.serve``, which documents its errors and cancellation.
    """
    await chat.serve(address, telnet=telnet, lobby=lobby, doors=doors, task_status=task_status)
