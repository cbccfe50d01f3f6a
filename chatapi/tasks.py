"""Helpers for code on an event loop: a task group that raises errors as they are, and waiting for a `Pending`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc

from .pending import Pending

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")


@asynccontextmanager
async def task_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """`anyio.create_task_group`, for a block that documents which exceptions it raises.

    The first error of the block or of a task is raised as it is. Further errors, raised while the first one cancelled
    the rest, are logged.
    """
    failed: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        cancelled = anyio.get_cancelled_exc_class()
        errors = [error for error in group.exceptions if not isinstance(error, cancelled)]
        if not errors:
            raise
        failed, *others = errors
        for other in others:
            _logger.error("another error occurred after %s", repr(failed), exc_info=other)
    if failed is not None:
        try:
            raise failed  # here, because in the `except` block the group would become its context
        finally:
            del failed  # break the reference cycle with the traceback


async def wait(pending: Pending[_T]) -> _T:
    """Wait for the result on this event loop; return the value or raise the error. Cancelling ends only the waiting."""
    if not pending.done:
        done = anyio.Event()
        pending.then(lambda _: done.set())
        await done.wait()
    return pending.result()
