"""Waiting for something that calls back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio


async def answer(ask: Callable[[Callable[[Any], None]], None]) -> Any:
    """Ask for something that calls back on this event loop, at once or later, and wait until it has.

    Raises what it calls back with, where that is an exception. Cancelling only ends the waiting.
    """
    answers: list[Any] = []
    answered = anyio.Event()

    def then(given: Any) -> None:
        answers.append(given)
        answered.set()

    ask(then)
    await answered.wait()
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]
