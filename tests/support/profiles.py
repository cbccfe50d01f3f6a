"""How many examples the tests of properties try: a quarter by default, all of them in the nightly run.

The nightly run chooses the profile `full`: `pytest --hypothesis-profile=full`.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings

FULL, DEFAULT = 100, 25


def examples(number: int, **options: Any) -> settings:
    """Try this many examples in the nightly run, and a quarter of them otherwise."""
    return settings(max_examples=max(1, number * settings().max_examples // FULL), **options)
