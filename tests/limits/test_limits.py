"""The numbers that bound a chat: what they are unless told otherwise, and what they cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from chatapi.limits import LISTED, NAME_CHARS, ROOM_CHARS, Limits


def test_the_defaults_are_those_of_the_protocol() -> None:
    limits = Limits()
    assert (NAME_CHARS, ROOM_CHARS, LISTED) == (32, 64, 100)
    assert limits.line_bytes == limits.handshake_bytes == 8192
    assert (limits.handshake_seconds, limits.grace, limits.linger, limits.idle) == (10, 5, 2, 0)
    assert (limits.announce, limits.slow_penalty_seconds) == (200, 60)
    assert (limits.log_bytes, limits.log_entries) == (8 * 1024 * 1024, 65_536)


@pytest.mark.parametrize(
    ("field", "least", "too_little"),
    [
        ("line_bytes", 64, 63),
        ("handshake_bytes", 128, 127),
        ("handshake_seconds", 0.001, 0),
        ("nickname_seconds", 0.001, 0),
        ("log_bytes", 65536, 65535),
        ("log_entries", 64, 63),
        ("keep", 0, -1),
        ("history", 0, -1),
        ("room_members", 1, 0),
        ("rooms", 1, 0),
        ("connections", 1, 0),
        ("rate", 0, -1),
        ("burst", 1, 0),
        ("grace", 0, -0.5),
        ("idle", 0, -1),
        ("announce", 0, -1),
    ],
)
def test_a_limit_that_cannot_work_is_refused_by_name(field: str, least: float, too_little: float) -> None:
    assert getattr(Limits(**{field: least}), field) == least  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=field):
        Limits(**{field: too_little})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", Limits.model_fields)
@pytest.mark.parametrize("value", [math.inf, math.nan, "many", None])
def test_every_limit_is_a_number_that_deadlines_can_be_counted_with(field: str, value: Any) -> None:
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


@pytest.mark.parametrize("field", Limits.model_fields)
def test_every_limit_says_what_it_is(field: str) -> None:
    assert Limits.model_fields[field].description
