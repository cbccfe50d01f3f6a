"""A task group whose error comes out as it was raised, not inside an `ExceptionGroup`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

_logger = logging.getLogger("chatapi")


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
            _logger.error("another error, after %s", repr(failed), exc_info=other)
    if failed is not None:
        try:
            raise failed  # here, because in the `except` block the group would become its context
        finally:
            del failed  # break the reference cycle with the traceback
