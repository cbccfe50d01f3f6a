"""Parameters of which only a few are tried in the default run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(values: Iterable[str], *quick: str) -> list[Any]:
    """All values, marked `slow` except for the quick ones."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
