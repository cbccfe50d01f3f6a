"""The handshake's fields: what each may be, and that whoever gets one wrong is told which."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples

from chatapi.core.handshake import Handshake
from chatapi.errors import RefusalCode, Refused
from chatapi.protocol.handshake import parse_handshake


def parse(**fields: Any) -> Handshake:
    return parse_handshake(json.dumps({"name": "Mina", "room": "devroom"} | fields).encode())


def outcome(data: bytes) -> Handshake | Refused:
    try:
        return parse_handshake(data)
    except Refused as refused:
        return refused


def refusal(data: bytes) -> Refused:
    answer = outcome(data)
    assert isinstance(answer, Refused)
    return answer


def test_a_name_and_a_room_are_enough() -> None:
    said = parse()
    assert (said.name, said.room) == ("Mina", "devroom")
    assert (said.protocol, said.notices, said.history) == ("text", False, 0)
    assert said.echo is said.commands is None  # as the server has it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", "text"),
        ("echo", True),
        ("echo", False),
        ("commands", True),
        ("commands", False),
        ("notices", True),
        ("history", 1),
        ("history", 10**30),
    ],
)
@pytest.mark.parametrize("spelled", [str.lower, str.upper, str.title])
def test_every_field_is_taken_without_regard_to_the_case_of_its_key(field: str, value: object, spelled: Any) -> None:
    said = parse(**{spelled(field): value})
    assert getattr(said, field) == value


def test_the_required_keys_match_without_regard_to_case_too() -> None:
    said = parse_handshake(b'{"Name":"Mina","ROOM":"devroom"}')
    assert (said.name, said.room) == ("Mina", "devroom")


@pytest.mark.parametrize("unknown", [{"color": "red"}, {"": None}, {"names": [1, {"name": {}}]}, {"Näme": 1}])
def test_unknown_keys_are_ignored(unknown: dict[str, Any]) -> None:
    assert parse(**unknown) == parse()


def test_names_are_composed() -> None:
    said = parse(name="Zoe\u0308", room="cafe\u0301")
    assert (said.name, said.room) == ("Zoë", "café")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", 1),
        ("name", ["Mina"]),
        ("room", None),
        ("room", {"room": "devroom"}),
        ("protocol", "morse"),
        ("protocol", 1),
        ("protocol", "TEXT"),
        ("echo", 1),
        ("echo", "true"),
        ("commands", "no"),
        ("notices", 0),
        ("notices", []),
        ("history", -1),
        ("history", "3"),
        ("history", 1.5),
        ("history", True),
    ],
)
def test_a_field_of_a_wrong_type_or_value_is_named(field: str, value: object) -> None:
    fields = {"name": "Mina", "room": "devroom", field: value}
    refused = refusal(json.dumps(fields).encode())
    assert refused.code == RefusalCode.BAD_HANDSHAKE
    assert repr(field) in refused.detail
    assert '{"name": "Mina", "room": "devroom"}' in refused.detail


@pytest.mark.parametrize(("fields", "missing"), [({"room": "a"}, "name"), ({"name": "a"}, "room"), ({}, "name")])
def test_a_missing_field_is_named(fields: dict[str, str], missing: str) -> None:
    refused = refusal(json.dumps(fields).encode())
    assert refused.code == RefusalCode.BAD_HANDSHAKE
    assert repr(missing) in refused.detail


@pytest.mark.parametrize(
    ("field", "value", "code", "told"),
    [
        ("name", "", RefusalCode.BAD_NAME, "the name is empty"),
        ("name", "a:b", RefusalCode.BAD_NAME, "the name has a ':'"),
        ("name", "#mina", RefusalCode.BAD_NAME, "the name starts with '#'"),
        ("name", "x" * 33, RefusalCode.BAD_NAME, "the name has 33 characters; at most 32"),
        ("room", "", RefusalCode.BAD_ROOM, "the room is empty"),
        ("room", "dev room", RefusalCode.BAD_ROOM, "the room has white space"),
        ("room", "x" * 65, RefusalCode.BAD_ROOM, "the room has 65 characters; at most 64"),
    ],
)
def test_a_name_or_room_that_cannot_be_had_has_a_code_of_its_own(
    field: str, value: str, code: RefusalCode, told: str
) -> None:
    refused = refusal(json.dumps({"name": "Mina", "room": "devroom", field: value}).encode())
    assert refused.code == code
    assert told in refused.detail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"hello",
        b'{"name": "Mina",}',
        b"{'name': 1}",
        b'{"name": "\xff"}',
        b'{"name": "Mina", "room": "a", "x": NaN}',
    ],
)
def test_what_is_not_json_is_refused_with_an_example(data: bytes) -> None:
    refused = refusal(data)
    assert refused.code == RefusalCode.BAD_HANDSHAKE
    assert "not JSON" in refused.detail
    assert '{"name": "Mina", "room": "devroom"}' in refused.detail


@pytest.mark.parametrize("data", [b"[]", b'["Mina", "devroom"]', b"1", b"null", b'"Mina"'])
def test_json_that_is_no_object_is_refused(data: bytes) -> None:
    refused = refusal(data)
    assert refused.code == RefusalCode.BAD_HANDSHAKE
    assert "not a JSON object" in refused.detail


def test_what_is_told_is_short_whatever_was_sent() -> None:
    assert len(refusal(json.dumps({"name": ["x" * 8000], "room": "a"}).encode()).detail) < 300


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["name", "Room", "protocol", "echo", "commands", "notices", "history", "x"])


@examples(300)
@given(
    st.binary(max_size=40)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(fields, anything | st.just("a")).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
)
@example(b'{"name":' + b"9" * 4300 + b"}")  # as many digits as Python writes out
@example(b'{"name":' + b"9" * 4301 + b"}")
@example(b'{"name":' * 1000 + b"1" + b"}" * 1000)
@example(b'{"name":"\\ud800","room":"a"}')
def test_any_bytes_are_a_handshake_or_refused(data: bytes) -> None:
    answer = outcome(data)
    if isinstance(answer, Refused):
        assert answer.code in (RefusalCode.BAD_HANDSHAKE, RefusalCode.BAD_NAME, RefusalCode.BAD_ROOM)
        assert answer.detail.isprintable()
    else:
        assert answer.name
        assert answer.room
        assert answer.history >= 0
