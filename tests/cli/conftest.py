"""The server of a module that starts no other one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from executables import Server


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server
