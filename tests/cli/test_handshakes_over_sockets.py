"""Handshakes over sockets, taken and refused by `python cmd/chatserver`, however they are cut into packets."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from executables import Server, handshake, hears_next

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)


FORMS = {
    "no line end": b'{"name":"Mina","room":"ROOM"}',
    "a line feed": b'{"name":"Mina","room":"ROOM"}\n',
    "a carriage return and a line feed": b'{"name":"Mina","room":"ROOM"}\r\n',
    "blanks before it": b' \r\n\t\n{"name":"Mina","room":"ROOM"}\n',
    "many blanks before it": b"\n" * 9000 + b'{"name":"Mina","room":"ROOM"}\n',
    "blanks and line ends within": b'{ "name" :\n"Mina",\r\n\t"room": "ROOM" }\n',
    "keys in any case": b'{"NAME":"Mina","Room":"ROOM"}',
    "unknown keys, braces in strings": b'{"color":{"a":["}",{}]},"note":"\\"}{","name":"Mina","room":"ROOM"}',
    "escapes": b'{"name":"\\u004dina","room":"ROOM"}\n',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", ["one packet", "two packets", "every byte its own packet"])
def test_a_handshake_and_the_lines_behind_it(server: Server, room: str, form: str, cut: str) -> None:
    zoe = server.member("Zoe", room, notices=True)
    mina = server.connect()
    opening = FORMS[form].replace(b"ROOM", room.encode())
    lines = "first\nsecond\r\n\n thïrd\n".encode()
    if cut == "one packet":
        mina.send(opening + lines)
    elif cut == "two packets":
        mina.send(opening)
        assert zoe.line() == "* Mina joined"
        mina.send(lines)
    else:
        mina.dribble(opening + lines)
    heard = zoe.lines(3 if cut == "two packets" else 4)
    assert heard[-3:] == ["Mina:first", "Mina:second", "Mina: thïrd"]
    assert heard[:-3] in ([], ["* Mina joined"])
    hears_next(mina, zoe, "Zoe")


REFUSED = {
    "not an object": (b"hello\n", "bad_handshake", ""),
    "a list": (b'["Mina", "hall"]\n', "bad_handshake", ""),
    "not JSON": (b'{"name":}', "bad_handshake", "JSON"),
    "an unbalanced bracket": (b'{"name":"Mina","room":"hall"]', "bad_handshake", "JSON"),
    "not UTF-8": (b'{"name":"Min\xe4","room":"hall"}', "bad_handshake", ""),
    "half a surrogate pair": (b'{"name":"Mi\\ud800na","room":"hall"}', "bad_handshake", ""),
    "a number of 5,000 digits": (b'{"name":' + b"1" * 5000 + b',"room":"hall"}', "bad_handshake", ""),
    "a number of 4,000 digits": (b'{"name":"Mina","room":"hall","history":-' + b"1" * 4000 + b"}", "bad_handshake", ""),
    "nested too deep": (b'{"name":' + b"[" * 4000 + b"]" * 4000 + b"}", "bad_handshake", ""),
    "no name": (b'{"room":"hall"}', "bad_handshake", "name"),
    "no room": (b'{"name":"Mina"}', "bad_handshake", "room"),
    "a name that is a number": (b'{"name":5,"room":"hall"}', "bad_handshake", "name"),
    "a room that is null": (b'{"name":"Mina","room":null}', "bad_handshake", "room"),
    "echo as a string": (b'{"name":"Mina","room":"hall","echo":"yes"}', "bad_handshake", "echo"),
    "commands as a number": (b'{"name":"Mina","room":"hall","commands":1}', "bad_handshake", "commands"),
    "notices as a list": (b'{"name":"Mina","room":"hall","notices":[]}', "bad_handshake", "notices"),
    "history below 0": (b'{"name":"Mina","room":"hall","history":-1}', "bad_handshake", "history"),
    "history as a string": (b'{"name":"Mina","room":"hall","history":"3"}', "bad_handshake", "history"),
    "an unknown protocol": (b'{"name":"Mina","room":"hall","protocol":"smtp"}', "bad_handshake", "protocol"),
    "too large": (b'{"name":"Mina","note":"' + b"x" * 8192, "handshake_too_large", "8192"),
    "an empty name": (handshake("", "hall"), "bad_name", "name"),
    "a name of 33 characters": (handshake("é" * 33, "hall"), "bad_name", "33"),
    "a name with a colon": (handshake("a:b", "hall"), "bad_name", ":"),
    "a name with a comma": (handshake("a,b", "hall"), "bad_name", ","),
    "a name with a blank": (handshake("a b", "hall"), "bad_name", "name"),
    "a name with a line feed": (b'{"name":"a\\nb","room":"hall"}', "bad_name", "name"),
    "a name with an escape": (b'{"name":"a\\u001b[2Jb","room":"hall"}', "bad_name", "name"),
    "a name with a format character": (handshake("a\u202eb", "hall"), "bad_name", "name"),
    "a name with an unassigned character": (handshake("a\u0378b", "hall"), "bad_name", "name"),
    "a name with @": (handshake("@Mina", "hall"), "bad_name", "@"),
    "a name with /": (handshake("/Mina", "hall"), "bad_name", "/"),
    "a name with *": (handshake("*", "hall"), "bad_name", "*"),
    "a name with #": (handshake("#Mina", "hall"), "bad_name", "#"),
    "an empty room": (handshake("Mina", ""), "bad_room", "room"),
    "a room of 65 characters": (handshake("Mina", "r" * 65), "bad_room", "65"),
    "a room with a blank": (handshake("Mina", "the hall"), "bad_room", "room"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_handshake_gets_one_line_of_json_and_the_end(server: Server, case: str) -> None:
    opening, code, named = REFUSED[case]
    for behind in (b"", b"\nfirst\nsecond\n"):
        peer = server.connect()
        peer.send(opening + behind)
        refusal = peer.refusal()
        assert refusal["code"] == code, refusal
        assert named in refusal["detail"].replace(",", "") or named in refusal["detail"], refusal


def test_a_handshake_that_ends_half_way_is_refused(server: Server) -> None:
    peer = server.connect()
    peer.send(b'{"name":"Mi')
    peer.end()
    assert peer.refusal()["code"] == "bad_handshake"


def test_a_connection_that_ends_without_a_byte_gets_the_end(server: Server) -> None:
    peer = server.connect()
    peer.end()
    peer.rest()


@pytest.mark.parametrize(
    ("shown", "again"),
    [("Mina", "Mina"), ("Mina", "mINA"), ("Stra\u00dfe", "STRASSE"), ("Zo\u00eb", "Zoe\u0308"), ("Ｍｉｎａ", "mina")],
)
def test_a_name_is_taken_in_every_spelling(server: Server, room: str, shown: str, again: str) -> None:
    holder = server.member(shown, room, notices=True)
    other = server.connect()
    other.send(handshake(again, room.upper()) + b"\nhello\n")
    refusal = other.refusal()
    assert refusal["code"] == "name_taken"
    assert refusal["detail"] == f"'{unicodedata.normalize('NFC', shown)}' is already in '{room}'"
    elsewhere = server.member(unicodedata.normalize("NFC", again), room + "-2")  # but not in another room
    elsewhere.send("/bye\n")
    elsewhere.rest()
    friend = server.member("Friend", room)
    assert holder.line() == "* Friend joined"
    hears_next(holder, friend, "Friend")


def test_the_longest_names(server: Server) -> None:
    name, room = "é" * 32, "r" * 64
    mina = server.member(name, room, echo=True)
    mina.send("hello\n")
    assert mina.line() == f"{name}:hello"
