"""The server of a module that starts no other one, and a member of a room of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from executables import Peer, Server


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def zoe(server: Server, room: str) -> Peer:
    """A member that sees everything that happens in the room."""
    return server.member("Zoe", room, notices=True)
