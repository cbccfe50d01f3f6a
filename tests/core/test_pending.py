"""A pending result: set once, told to everybody who asks, and waited for on an event loop."""

from __future__ import annotations

import anyio
import pytest

from chatapi.pending import Pending
from chatapi.tasks import wait


def test_everybody_who_asks_is_told_the_value() -> None:
    pending: Pending[int] = Pending()
    found: list[tuple[str, int]] = []
    pending.then(lambda result: found.append(("before", result.result())))
    assert not pending.done
    pending.resolve(3)
    pending.then(lambda result: found.append(("behind", result.result())))
    assert found == [("before", 3), ("behind", 3)]


def test_an_error_takes_the_place_of_the_value() -> None:
    error = ValueError("no")
    pending: Pending[int] = Pending.failed(error)
    errors: list[Exception | None] = []
    pending.then(lambda result: errors.append(result.error))
    assert errors == [error]
    with pytest.raises(ValueError, match=r"^no$"):
        pending.result()


@pytest.mark.parametrize("set_again", [lambda p: p.resolve(2), lambda p: p.fail(ValueError())], ids=["value", "error"])
def test_a_result_is_set_once(set_again: object) -> None:
    pending = Pending.resolved(1)
    with pytest.raises(AssertionError):
        set_again(pending)  # type: ignore[operator]
    assert pending.result() == 1


@pytest.mark.anyio
async def test_a_task_waits_for_the_result() -> None:
    later: Pending[str] = Pending()
    async with anyio.create_task_group() as tasks:
        found: list[str] = []

        async def waiter() -> None:
            found.append(await wait(later))

        tasks.start_soon(waiter)
        await anyio.wait_all_tasks_blocked()
        assert found == []
        later.resolve("there")
    assert found == ["there"]
    assert await wait(Pending.resolved("at once")) == "at once"


@pytest.mark.anyio
async def test_cancelling_only_ends_the_waiting() -> None:
    later: Pending[str] = Pending()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wait(later)
    assert scope.cancelled_caught
    later.resolve("there")
    with pytest.raises(KeyError):
        await wait(Pending.failed(KeyError()))
