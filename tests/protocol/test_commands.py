"""The commands of the text protocol: how they are typed, and what the wrong use of each is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from chatapi.protocol.text.commands import TABLE, BadCommand, Command, help_lines, parse_command

WORDS = [word for spec in TABLE for word in (spec.name, *spec.aliases)]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/username Zoe", Command("username", "Zoe")),
        ("/nick Zoe", Command("username", "Zoe")),
        ("/NICK  Zoe ", Command("username", "Zoe")),
        ("/msg Zoe hi there", Command("msg", "Zoe", "hi there")),
        ("/msg  Zoe   hi  there ", Command("msg", "Zoe", "hi  there")),
        ("@Zoe hi there", Command("msg", "Zoe", "hi there")),
        ("@Zoe @Mina says hi", Command("msg", "Zoe", "@Mina says hi")),
        ("@Zoe /list", Command("msg", "Zoe", "/list")),
        ("/list", Command("list", "")),
        ("/who", Command("list", "")),
        ("/who ", Command("list", "")),
        ("/rooms", Command("rooms", "")),
        ("/join devroom", Command("join", "devroom")),
        ("/history", Command("history", "")),
        ("/history 5", Command("history", "5")),
        ("/bye", Command("bye", "")),
        ("/quit", Command("bye", "")),
        ("/help", Command("help", "")),
    ],
)
def test_a_command_means_what_the_table_says(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/username", "/username needs NAME"),
        ("/nick  ", "/nick needs NAME: /username NAME"),
        ("/join", "/join needs ROOM"),
        ("/msg", "@NAME TEXT"),
        ("/msg Zoe", "@NAME TEXT"),
        ("@", "@NAME TEXT"),
        ("@Zoe", "@NAME TEXT"),
        ("@Zoe  ", "@NAME TEXT"),
        ("/list all", "/list takes no argument"),
        ("/who is it", "/who takes no argument"),
        ("/rooms a", "/rooms takes no argument"),
        ("/bye all", "/bye takes no argument"),
        ("/quit now", "/quit takes no argument"),
        ("/help me", "/help takes no argument"),
    ],
)
def test_the_wrong_use_of_a_command_is_told_how_it_is_used(line: str, told: str) -> None:
    answer = parse_command(line)
    assert isinstance(answer, BadCommand)
    assert told in answer.why


@pytest.mark.parametrize("line", ["/", "/ ", "/frobnicate", "/lists", "/etc/passwd", "/ list", "/msgZoe hi"])
def test_an_unknown_command_points_at_help(line: str) -> None:
    answer = parse_command(line)
    assert isinstance(answer, BadCommand)
    assert f"no command {line.partition(' ')[0]};" in answer.why
    assert "/help" in answer.why


def test_what_is_told_about_an_unknown_command_is_short_however_long_it_was() -> None:
    answer = parse_command("/" + "x" * 8000)
    assert isinstance(answer, BadCommand)
    assert len(answer.why) < 200


def test_help_shows_every_command_with_its_aliases_and_the_way_around_them() -> None:
    lines = help_lines()
    for spec, line in zip(TABLE, lines, strict=False):
        assert line.startswith(spec.usage)
        assert all(f"/{alias}" in line for alias in spec.aliases)
    assert "//TEXT" in lines[len(TABLE)]


def test_no_two_commands_share_a_word() -> None:
    assert len(set(WORDS)) == len(WORDS)


@examples(300)
@given(st.sampled_from(["@", *(f"/{word}" for word in WORDS), "/"]), st.text("aZ /@:é", max_size=12))
def test_any_line_is_a_command_or_an_error_and_a_name_never_loses_a_part(start: str, rest: str) -> None:
    answer = parse_command(start + rest)
    if isinstance(answer, BadCommand):
        assert answer.why
        return
    assert answer.name in [spec.name for spec in TABLE]
    assert answer.argument == answer.argument.strip()
    assert bool(answer.text) == (answer.name == "msg")
    if start == "@":
        assert [answer.argument, *answer.text.split()] == rest.split()
