"""The codes that go over the wire, and the exceptions that programs catch."""

from __future__ import annotations

import pytest

from chatapi import errors
from chatapi.errors import DISCONNECTS, ChatError, Disconnect, Disconnected, RefusalCode, Refused

REASONS = pytest.mark.parametrize("row", DISCONNECTS.values(), ids=DISCONNECTS)


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        ("bye", False),
        ("slow_consumer", True),
        ("idle_timeout", True),
        ("flood", True),
        ("replaced", False),
        ("name_lost", True),
        ("kicked", False),
        ("banned", False),
        ("draining", True),
        ("token_expired", True),
        ("protocol_error", False),
        ("insufficient_state", True),
        ("server_error", True),
    ],
)
def test_every_code_of_the_protocol_is_in_the_table(code: str, reconnect: bool) -> None:
    assert DISCONNECTS[code].reconnect is reconnect


@REASONS
def test_every_reason_makes_sense_to_a_program_and_to_a_person(row: Disconnect) -> None:
    assert DISCONNECTS[row.code] is row
    assert row.code.replace("_", "").isalpha()
    assert row.detail.strip()
    assert "\n" not in row.detail
    assert row.after >= 0
    assert row.reconnect or row.after == 0
    assert 1000 <= row.websocket <= 1014 or 4000 <= row.websocket <= 4999


def test_every_reason_has_a_websocket_code_of_its_own() -> None:
    assert len({row.websocket for row in DISCONNECTS.values()}) == len(DISCONNECTS)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DISCONNECTS["bye"] = DISCONNECTS["kicked"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        DISCONNECTS["bye"].after = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "code",
    [
        "bad_handshake",
        "handshake_too_large",
        "handshake_timeout",
        "bad_name",
        "bad_room",
        "name_taken",
        "room_full",
        "server_full",
        "draining",
    ],
)
def test_a_refusal_code_is_the_word_that_goes_over_the_wire(code: str) -> None:
    assert str(RefusalCode(code)) == f"{RefusalCode(code)}" == code


def test_a_refusal_says_both_its_code_and_why() -> None:
    refused = Refused(RefusalCode.NAME_TAKEN, "'Mina' is already in 'devroom'")
    assert str(refused) == "name_taken: 'Mina' is already in 'devroom'"
    assert (refused.code, refused.detail) == ("name_taken", "'Mina' is already in 'devroom'")


def test_a_disconnect_says_its_reason_in_its_own_words_or_the_tables() -> None:
    disconnected = Disconnected(DISCONNECTS["kicked"])
    assert str(disconnected) == f"kicked: {disconnected.detail}" == "kicked: you were removed from the room"
    disconnected = Disconnected(DISCONNECTS["kicked"], "spam")
    assert (str(disconnected), disconnected.detail) == ("kicked: spam", "spam")
    assert disconnected.reason is DISCONNECTS["kicked"]


def test_one_except_catches_everything_about_a_chat_and_no_wrong_argument() -> None:
    raised = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]
    assert {error.__name__ for error in raised if not issubclass(error, ChatError)} == {"AddressError"}
    assert issubclass(errors.AddressError, ValueError)


def test_the_tree_in_the_documentation_names_every_exception() -> None:
    raised = [name for name, error in vars(errors).items() if isinstance(error, type) and issubclass(error, Exception)]
    assert [name for name in raised if name not in (errors.__doc__ or "")] == []
