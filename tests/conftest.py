"""What tests share: every async one runs on asyncio, on uvloop where it is there, and on trio."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from redis_servers import shared_cluster, shared_redis

if TYPE_CHECKING:
    from executables import Server

__all__ = ["shared_cluster", "shared_redis"]  # fixtures, for every module

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # a slow machine fails no test

BACKENDS: list[Any] = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if importlib.util.find_spec("uvloop"):
    BACKENDS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """A module's shared server, `running`; whatever a test did to it, it still runs and has shown no traceback."""
    yield running
    running.hang_up()
    assert not running.ended
    running.check()


_numbers = count(1)


@pytest.fixture
def room() -> str:
    """A room that no other test is in."""
    return f"room{next(_numbers)}"
