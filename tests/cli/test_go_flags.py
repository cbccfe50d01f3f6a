"""Flags are given as Go's package `flag` takes them, to the server, its sub-commands and the client."""

from __future__ import annotations

import pytest

from chatapi.cli import client, flags, server, store


def _parsers() -> list[flags.Parser]:
    return [server.build_parser(), client.build_parser(), *(store.build_parser(word) for word in store.COMMANDS)]


@pytest.mark.parametrize("parser", _parsers(), ids=lambda parser: parser.prog)
def test_every_flag_takes_one_dash_or_two(parser: flags.Parser) -> None:
    for action in parser._actions:
        one = {name for name in action.option_strings if name[1] != "-"}
        assert set(action.option_strings) == one | {f"-{name}" for name in one}


SPELLINGS = ["-{} {}", "--{} {}", "-{}={}", "--{}={}"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_server_s_address_is_given_as_in_go(spelling: str) -> None:
    for name in ("a", "address", "tcp"):
        given = server.build_parser().parse(spelling.format(name, "localhost:1").split())
        assert given.address == "localhost:1", name


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_client_s_flags_are_given_as_in_go(spelling: str) -> None:
    fields = {"client": "client", "room": "room", "address": "address", "s": "server", "server": "server", "p": "port"}
    for name, field in fields.items():
        given = client.build_parser().parse(spelling.format(name, "value=1").split())
        assert getattr(given, field) == "value=1", name


@pytest.mark.parametrize("flag", ["-h", "--h", "-help", "--help"])
def test_help_is_asked_for_as_in_go(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for parser in _parsers():
        with pytest.raises(SystemExit) as end:
            parser.parse([flag])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: {parser.prog} ")


@pytest.mark.parametrize("flag", ["-alocalhost:1", "---a", "--", "-ws"])
def test_what_is_no_flag_in_go_is_none_here(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        server.build_parser().parse([flag, "localhost:1"])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "seconds"),
    [
        ([], {}, 60),
        (["-slow-penalty-seconds", "7"], {}, 7),
        (["-unforgiven", "8"], {}, 8),
        (["--unforgiven=9"], {"MACHAT_SLOW_PENALTY_SECONDS": "1"}, 9),
        ([], {"MACHAT_SLOW_PENALTY_SECONDS": "10"}, 10),
        ([], {"MACHAT_UNFORGIVEN": "11"}, 11),
        ([], {"MACHAT_UNFORGIVEN": "11", "MACHAT_SLOW_PENALTY_SECONDS": "12"}, 12),
    ],
)
def test_flags_and_variables_still_have_the_names_that_they_had_before(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], seconds: float
) -> None:
    for name in ("MACHAT_SLOW_PENALTY_SECONDS", "MACHAT_UNFORGIVEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found: list[float] = []
    monkeypatch.setattr(server, "_run", lambda chat, *_: found.append(chat.limits.slow_penalty_seconds) or 0)
    monkeypatch.setattr(server, "_raise_descriptor_limit", lambda: None)
    assert server.main(arguments) == 0
    assert found == [seconds]


def test_a_wrong_value_of_a_former_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MACHAT_SLOW_PENALTY_SECONDS", raising=False)
    monkeypatch.setenv("MACHAT_UNFORGIVEN", "-3")
    with pytest.raises(SystemExit) as end:
        server.main([])
    assert end.value.code == 2
    assert "MACHAT_UNFORGIVEN '-3'" in capsys.readouterr().err


def test_the_defaults_are_those_of_go(monkeypatch: pytest.MonkeyPatch) -> None:
    given = client.build_parser().parse([])
    assert (given.room, given.address) == ("lounge", None)
    addresses: list[str] = []
    monkeypatch.setattr(server, "_run", lambda chat, kept, address, *_: addresses.append(address) or 0)
    monkeypatch.setattr(server, "_raise_descriptor_limit", lambda: None)
    monkeypatch.delenv("MACHAT_ADDRESS", raising=False)
    assert server.main([]) == 0
    assert addresses == ["localhost:8989"] == [str(client.DEFAULT_ADDRESS)]
