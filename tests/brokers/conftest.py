"""Files of `-store`, and disks that fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import FaultyDisk, build


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a disk fail."""
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def disk(tmp_path: Path, shim: Path) -> FaultyDisk:
    """The disk of `path`, which fails when it is told to."""
    return FaultyDisk(tmp_path / "chat.db", shim)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "chat.db"
