"""The event loops that tests run on, and which of them only the nightly run uses."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

_UVLOOP_IS_MISSING = importlib.util.find_spec("uvloop") is None

ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
TRIO = pytest.param(("trio", {}), id="trio")
UVLOOP = pytest.param(
    ("asyncio", {"use_uvloop": True}),
    id="uvloop",
    marks=pytest.mark.skipif(_UVLOOP_IS_MISSING, reason="uvloop is not installed"),
)


def nightly(loop: Any) -> Any:
    """The same event loop, for the nightly run alone."""
    return pytest.param(*loop.values, id=loop.id, marks=[*loop.marks, pytest.mark.long])


ONE_LOOP = [ASYNCIO, nightly(TRIO), nightly(UVLOOP)]
"""For tests whose subject does not depend on the event loop."""
BOTH_LOOPS = [ASYNCIO, TRIO, nightly(UVLOOP)]
"""For tests of what waits or uses sockets itself: chats, hooks, doors and the client library."""
EVERY_LOOP = [ASYNCIO, TRIO, UVLOOP]
"""For the smoke tests."""
