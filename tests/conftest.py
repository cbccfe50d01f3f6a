"""What all tests share: the event loop of async tests, Redis servers, and the server of a module."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from loops import ONE_LOOP
from profiles import DEFAULT, FULL
from redis_servers import shared_cluster, shared_redis

if TYPE_CHECKING:
    from executables import Server

__all__ = ["shared_cluster", "shared_redis"]  # fixtures, for every module

for profile, number in (("default", DEFAULT), ("full", FULL)):
    # without a deadline, because a slow machine must fail no test
    settings.register_profile(profile, max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(params=ONE_LOOP)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop of an async test; a folder whose subject depends on it has a fixture of its own."""
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
