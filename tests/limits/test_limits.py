"""The limits of a chat: values that they cannot have. `test_docs_tables.py` compares their defaults with the pages."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from chatapi.limits import Limits


def test_a_limit_that_cannot_work_is_refused_by_name() -> None:
    for field, least, too_little in (
        ("line_bytes", 64, 63),
        ("handshake_bytes", 128, 127),
        ("handshake_seconds", 0.001, 0),
        ("nickname_seconds", 0.001, 0),
        ("log_bytes", 65536, 65535),
        ("log_entries", 64, 63),
        *((field, 0, -0.5) for field in ("keep", "rate", "grace", "idle")),
        *((field, 0, -1) for field in ("history", "announce")),
        *((field, 1, 0) for field in ("room_members", "rooms", "connections", "burst")),
    ):
        assert getattr(Limits(**{field: least}), field) == least
        with pytest.raises(ValidationError, match=field):
            Limits(**{field: too_little})


@pytest.mark.parametrize("value", [math.inf, math.nan, "many", None])
def test_every_limit_is_a_number_that_deadlines_can_be_counted_with(value: Any) -> None:
    for field in Limits.model_fields:
        with pytest.raises(ValidationError, match=field):
            Limits(**{field: value})


def test_a_limit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="line_byte"):
        Limits(line_byte=100)  # type: ignore[call-arg]


def test_a_limit_is_accepted_under_the_name_that_it_had_before() -> None:
    assert Limits(unforgiven=30).slow_penalty_seconds == 30  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="unforgiven"):
        Limits(unforgiven=-1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="unforgiven"):
        Limits(slow_penalty_seconds=1, unforgiven=2)  # type: ignore[call-arg]


def test_limits_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Limits().line_bytes = 100


def test_every_limit_says_what_it_is() -> None:
    assert [name for name, field in Limits.model_fields.items() if not field.description] == []
