"""A Redis that each test can kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_servers import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis that keeps what it has acknowledged, even if it is killed."""
    with RedisServer(appendfsync="always") as server:
        yield server
