"""What a client on the other end of a socket sees of `python cmd/chatserver`: lines, commands, bad input, and ends.

One server serves most of these tests, each in a room of its own; what takes other flags starts its own server.
"""

from __future__ import annotations

import re
import sys

import pytest
from executables import Server, comes_in, eventually, handshake, hears_next

from chatapi.protocol.text.commands import TABLE

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)


def _numbers_in(line: str) -> set[int]:
    return {int(digits) for digits in re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d{3})", "", line))}


# Talking


def test_everybody_else_in_the_room_hears_it_in_the_order_said(server: Server, room: str) -> None:
    mina, zoe, ann = (server.member(name, room) for name in ("Mina", "Zoe", "Ann"))
    elsewhere = server.member("Eve", room + "-2", echo=True)
    lines = [f"line {i}" for i in range(50)]
    mina.send("".join(f"{line}\n" for line in lines))
    for listener in (zoe, ann):
        assert listener.lines(50) == [f"Mina:{line}" for line in lines]
    zoe.send("answer\n")
    assert mina.line() == "Zoe:answer"  # and none of her own lines before it
    assert ann.line() == "Zoe:answer"
    elsewhere.send("alone\n")
    assert elsewhere.line() == "Eve:alone"


def test_the_go_client_of_machat(server: Server, room: str) -> None:
    """It writes what json.Marshal returned, each typed line with its line feed, and prints line by line."""
    mina, zoe = server.connect(), server.connect()
    mina.send(handshake("Mina", room))
    zoe.send(handshake("Zoe", room))
    eventually(lambda: f"Mina joined {room}" in server.err and f"Zoe joined {room}" in server.err, lambda: server.err)
    for i in range(3):
        mina.send(f"ping {i}\n")
        assert zoe.line() == f"Mina:ping {i}"
        zoe.send(f"pong {i}: a colon\n")
        assert mina.line() == f"Zoe:pong {i}: a colon"
    mina.close()
    late = eventually(lambda: comes_in(server, "Mina", room), "the name of who hung up is not free")
    hears_next(zoe, late, "Mina")


def test_echo(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room, echo=True), server.member("Zoe", room)
    mina.send("hello\nagain\n")
    assert mina.lines(2) == zoe.lines(2) == ["Mina:hello", "Mina:again"]


def test_without_commands_every_line_is_text(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room, commands=False), server.member("Zoe", room)
    lines = ["/list", "@Zoe not a whisper", "//x", "@@x", "/bye", "/"]
    mina.send("".join(f"{line}\n" for line in lines))
    assert zoe.lines(6) == [f"Mina:{line}" for line in lines]
    hears_next(mina, zoe, "Zoe")


@pytest.mark.slow
def test_the_server_can_be_started_in_the_ways_of_the_go_server() -> None:
    with Server("-echo", "-no-commands") as server:
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall", echo=False, commands=True)
        mina.send("/list\n@Zoe hello\n")
        assert mina.lines(2) == zoe.lines(2) == ["Mina:/list", "Mina:@Zoe hello"]
        zoe.send("hello\n@Mina psst\n")
        assert mina.lines(2) == ["Zoe:hello", "* Zoe whispers: psst"]
        hears_next(zoe, mina, "Mina")


def test_notices_come_in_order_and_only_to_members_that_asked_for_them(server: Server, room: str) -> None:
    ann, zoe = server.member("Ann", room), server.member("Zoe", room, notices=True)
    mina = server.connect()
    mina.send(handshake("Mina", room) + b"one\n/username Nina\ntwo\n/bye\n")
    assert mina.lines(2)[0].startswith("* ")
    assert mina.rest() == b""
    assert ann.lines(2) == ["Mina:one", "Nina:two"]
    joined, one, renamed, two, left = zoe.lines(5)
    assert (one, two) == ("Mina:one", "Nina:two")
    assert re.fullmatch(r"\* Mina .*joined.*|\* Mina joined", joined)
    assert re.fullmatch(r"\* Mina .*Nina.*", renamed)
    assert re.fullmatch(r"\* Nina .*left.*|\* Nina left", left)
    hears_next(ann, zoe, "Zoe")
    hears_next(zoe, ann, "Ann")


def test_history_on_joining_comes_before_anything_live(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send("".join(f"line {i}\n" for i in range(10)))
    assert zoe.lines(10)[-1] == "Mina:line 9"
    ann = server.member("Ann", room, history=3)
    mina.send("live\n")
    assert ann.lines(4) == ["Mina:line 7", "Mina:line 8", "Mina:line 9", "Mina:live"]
    bob = server.member("Bob", room, history=1000)
    assert bob.lines(11) == [*(f"Mina:line {i}" for i in range(10)), "Mina:live"]


def test_control_characters_are_removed(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send("a\x1b[31mb\x07\x00\x7f\u009b2Jc\td\re\n\x00\n\x1b\n\nnext\n")
    assert zoe.lines(2) == ["Mina:a[31mb2Jc\tde", "Mina:next"]


# Commands


def test_username(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room, notices=True)
    mina.send("old\n/username Nina\nnew\n/nick zoe\nstill\n/username a:b\n/username\n/nick NINA\nlast\n")
    told = mina.lines(5)
    assert all(line.startswith("* ") for line in told)
    assert "Nina" in told[0]
    assert "'Zoe'" in told[1]
    assert "':'" in told[2]
    assert "/username" in told[3]
    assert "NINA" in told[4]
    heard = zoe.lines(6)
    assert [line for line in heard if line[0] != "*"] == ["Mina:old", "Nina:new", "Nina:still", "NINA:last"]
    assert [heard.index(line) for line in heard if line[0] == "*"] == [1, 4]
    again = server.member("Mina", room)  # the old name is free
    assert zoe.line() == "* Mina joined"
    hears_next(zoe, again, "Mina")


@pytest.mark.parametrize("command", ["@Zoe", "@zOE", "/msg Zoe"])
def test_a_whisper_reaches_one_member_alone(server: Server, room: str, command: str) -> None:
    mina, zoe, ann = (server.member(name, room) for name in ("Mina", "Zoe", "Ann"))
    mina.send(f"before\n{command} psst, over here\nafter\n")
    assert zoe.line() == "Mina:before"
    assert sorted(zoe.lines(2)) == ["* Mina whispers: psst, over here", "Mina:after"]
    assert ann.lines(2) == ["Mina:before", "Mina:after"]
    hears_next(mina, zoe, "Zoe")


@pytest.mark.parametrize(
    "line", ["@Nobody psst", "/msg Nobody psst", "@Eve psst", "@Zoe", "@", "/msg", "/msg Zoe", "@Zoe,psst"]
)
def test_a_whisper_that_cannot_be_delivered_is_an_error_and_never_a_broadcast(
    server: Server, room: str, line: str
) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    eve = server.member("Eve", room + "-2")
    mina.send(f"{line}\n")
    assert mina.line().startswith("* ")
    hears_next(zoe, mina, "Mina")
    eve.send("/list\n")
    assert eve.line().startswith("* ")
    assert eve.heard == b""


@pytest.mark.parametrize("command", ["/list", "/who"])
def test_list(server: Server, room: str, command: str) -> None:
    zoe, mina, ann = (server.member(name, room) for name in ("Zoe", "mina", "Ann"))
    mina.send(f"{command}\n")
    assert re.fullmatch(r"\* .*\b3\b.*\bAnn, mina, Zoe", mina.line())
    hears_next(zoe, ann, "Ann")


def test_list_names_at_most_a_hundred_and_the_number_of_all() -> None:
    with Server() as server:
        crowd = [server.connect() for _ in range(120)]
        for i, peer in enumerate(crowd):
            peer.send(handshake(f"member{i:03}", "hall"))
        eventually(lambda: server.err.count("joined hall") == 120, lambda: server.err)
        crowd[0].send("/list\n")
        line = crowd[0].line()
        assert re.findall(r"member\d+", line) == [f"member{i:03}" for i in range(100)]
        assert 120 in _numbers_in(line)


def test_rooms(server: Server, room: str) -> None:
    mina, _ = server.member("Mina", room), server.member("Zoe", room)
    server.member("Mina", room + "-2")
    mina.send("/rooms\n")
    line = mina.line()
    assert line.startswith("* ")
    assert re.search(rf"\b{room}\b\W+2\b", line)
    assert re.search(rf"\b{room}-2\b\W+1\b", line)


def test_join(server: Server, room: str) -> None:
    other = room + "-2"
    mina, zoe = server.member("Mina", room), server.member("Zoe", room, notices=True)
    bob, ann = server.member("Bob", other), server.member("Ann", other, notices=True)
    mina.send(f"here\n/join {other}\nthere\n")
    assert zoe.line() == "Mina:here"
    assert zoe.line().startswith("* Mina left")
    assert ann.lines(2) == ["* Mina joined", "Mina:there"]
    assert mina.line().startswith("* ")
    bob.send("welcome\n")
    assert mina.line() == "Bob:welcome"
    zoe.send("gone?\n/join Ö-" + room + "\n/bye\n")
    zoe.rest()
    hears_next(mina, bob, "Bob")


def test_join_that_is_refused_leaves_one_where_one_is(server: Server, room: str) -> None:
    other = room + "-2"
    mina, zoe = server.member("Mina", room), server.member("Zoe", room, notices=True)
    namesake = server.member("mina", other, notices=True)
    mina.send(f"/join {other}\n/join\n/join {'r' * 65}\n/join a:b\nstill here\n")
    told = mina.lines(4)
    assert all(line.startswith("* ") for line in told)
    assert "'mina'" in told[0]
    assert zoe.line() == "Mina:still here"
    friend = server.member("Friend", other)
    assert namesake.line() == "* Friend joined"
    hears_next(namesake, friend, "Friend")


def test_history(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send("".join(f"line {i}\n" for i in range(30)))
    zoe.lines(30)
    zoe.send("mine\n")
    assert mina.line() == "Zoe:mine"
    zoe.send("/history 3\n/list\n")
    assert zoe.lines(3) == ["Mina:line 28", "Mina:line 29", "Zoe:mine"]
    assert zoe.line().startswith("* ")
    zoe.send("/history\n/list\n")
    shown = zoe.until(b"* ").decode().splitlines()[:-1]
    assert shown[-2:] == ["Mina:line 29", "Zoe:mine"]
    assert zoe.line()
    zoe.send("/history 0\n/history x\n/history -1\n/history 99999999999999999999\n")
    assert all(line.startswith("* ") for line in zoe.lines(3))
    hears_next(zoe, mina, "Mina")


@pytest.mark.parametrize("command", ["/bye", "/quit"])
def test_bye(server: Server, room: str, command: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room, notices=True)
    mina.send(f"farewell\n{command}\nnever said\n")
    goodbye = mina.rest().decode()
    assert re.fullmatch(r"\* [^\n]*bye[^\n]*\n", goodbye)
    assert zoe.lines(2) == ["Mina:farewell", "* Mina left"]
    again = server.member("Mina", room)
    assert zoe.line() == "* Mina joined"
    hears_next(zoe, again, "Mina")


def test_help(server: Server, room: str) -> None:
    mina = server.member("Mina", room)
    mina.send("/help\n//that was all\n")
    mina.end()
    shown = mina.rest().decode().splitlines()
    assert all(line.startswith("* ") for line in shown)
    for spec in TABLE:
        for word in (spec.name, *spec.aliases):
            assert any(f"/{word}" in line for line in shown), word
    assert any("//" in line and "@@" in line for line in shown)


def test_doubled_signs_are_text(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send("//bye\n@@Zoe hi\n///\nhalf / way @ all\n")
    assert zoe.lines(4) == ["Mina:/bye", "Mina:@Zoe hi", "Mina://", "Mina:half / way @ all"]


def test_an_unknown_command_points_at_help_and_is_not_said(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send("/shutdown now\n/\n/listen\n")
    for _ in range(3):
        assert re.fullmatch(r"\* .*/help.*", mina.line())
    hears_next(zoe, mina, "Mina")


def test_a_stream_of_refused_commands_is_a_flood(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room, notices=True)
    mina.send("/nonsense\n" * 150)
    *refused, last = mina.rest().decode().splitlines()
    assert 50 <= len(refused) < 150
    assert last.startswith("* flood: ")
    assert zoe.line().startswith("* Mina left")


# Bad input: its sender alone is told, and the following line is intact


@pytest.mark.parametrize("behind", [b"", b"\r"], ids=["LF", "CRLF"])
def test_a_line_has_at_most_8192_bytes(server: Server, room: str, behind: bytes) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    longest = "ü" * 4096
    for line in (longest, longest + "x", "following"):
        mina.send(line.encode() + behind + b"\n")
    assert zoe.lines(2) == [f"Mina:{longest}", "Mina:following"]
    error = mina.line()
    assert error.startswith("* ")
    assert {8193, 8192} <= _numbers_in(error)


@pytest.mark.parametrize("filler", [b"x", b"\x00", b"\xff", b"/", b"@"])
def test_a_line_of_a_megabyte(server: Server, room: str, filler: bytes) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send(b"before\n" + filler * (1 << 20) + b"\nfollowing\n")
    assert zoe.lines(2) == ["Mina:before", "Mina:following"]
    error = mina.line()
    assert error.startswith("* ")
    assert {1 << 20, 8192} <= _numbers_in(error)
    hears_next(zoe, mina, "Mina")
    hears_next(mina, zoe, "Zoe")


def test_lines_that_are_not_utf8(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    bad = [
        b"caf\xe9",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"cut \xe2\x82",
        b"/nick \xff",
        b"@Zoe \xff",
    ]
    mina.send(b"before\n" + b"".join(line + b"\nbetween\n" for line in bad))
    assert zoe.lines(1 + len(bad)) == ["Mina:before"] + ["Mina:between"] * len(bad)
    for line in mina.lines(len(bad)):
        assert re.fullmatch(r"\* .*UTF-8.*", line)
    hears_next(mina, zoe, "Zoe")


def test_a_character_in_two_packets(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.dribble("€ 5, 😀\n".encode())
    assert zoe.line() == "Mina:€ 5, 😀"


# Ends and breaks


def test_a_half_closed_connection_gets_everything_it_is_owed(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room, notices=True)
    line = "x" * 4000
    for _ in range(2):  # far more than the kernel holds for who does not read
        zoe.send(f"{line}\n" * 90)
        zoe.send("/list\n")
        zoe.line()
    mina.send("/list\none\n/nonsense\ntwo, without a line feed")
    mina.end()
    assert zoe.lines(2) == ["Mina:one", "Mina:two, without a line feed"]
    assert zoe.line() == "* Mina left"
    zoe.send("too late for Mina\n")
    owed = mina.rest().decode().splitlines()
    assert owed[:180] == [f"Zoe:{line}"] * 180
    assert [re.sub(r"/help.*", "/help", text)[-5:] for text in owed[181:]] == ["/help"]
    assert owed[180].startswith("* ")
    assert len(owed) == 182


def test_a_broken_connection_frees_its_name(server: Server, room: str) -> None:
    zoe = server.member("Zoe", room, notices=True)
    for _ in range(3):
        mina = server.member("Mina", room)
        assert zoe.line() == "* Mina joined"
        zoe.send("she will never read this\n")
        mina.reset()
        assert zoe.line().startswith("* Mina left")
    mina = server.member("Mina", room)
    assert zoe.line() == "* Mina joined"
    hears_next(zoe, mina, "Mina")
    hears_next(mina, zoe, "Zoe")


def test_breaking_in_every_stage_touches_nobody_else(server: Server, room: str) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    for opening in (b"", b"{", b"nonsense", handshake("Eve", room)[:-1], handshake("Mina", room)):
        for behind in (b"", b"\n/list\n/he"):
            peer = server.connect()
            peer.send(opening + behind if opening else behind)
            peer.reset()
    hears_next(mina, zoe, "Zoe")
    hears_next(zoe, mina, "Mina")
