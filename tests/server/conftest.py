"""The tests of sockets and doors run on asyncio and on trio."""

from __future__ import annotations

from typing import Any

import pytest
from loops import BOTH_LOOPS


@pytest.fixture(params=BOTH_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
