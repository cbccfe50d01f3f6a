"""Wrong flags and values, help and the version: what the executables print, and the code with which they end.

Each call runs `main` in this process. `test_smoke.py` and `test_executables.py` start the executables themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

import pytest

import chatapi
from chatapi import Limits
from chatapi.cli import client, server

Run = Callable[..., tuple[int, str, str]]
"""Runs the `main` of a program with arguments and environment variables: its exit code, its output, its errors."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    for name in os.environ:
        if name.startswith("MACHAT_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(server, "_raise_descriptor_limit", lambda: None)  # of this process

    def run(main: Callable[[Sequence[str]], int], *arguments: str, **env: str) -> tuple[int, str, str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert isinstance(end.value.code, int)
        return end.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """The one line with which the server refuses to start."""

    def refused(*flags: str, **env: str) -> str:
        code, out, err = run(server.main, *flags, **env)
        assert (code, out) == (2, ""), (code, out, err)
        assert re.fullmatch(r"chatserver: [^\n]+\n", err), err
        return err

    return refused


Refused = Callable[..., str]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "localhost", "127.0.0.1:port", "127.0.0.1:99999", "::1:80", "192.0.2.1:0", "no host:0"]
)
def test_a_bad_address_is_one_line_that_shows_it(refused: Refused, address: str) -> None:
    assert address in refused("-a", address)


def test_a_bad_address_of_the_telnet_door_is_one_line_that_shows_it(refused: Refused) -> None:
    assert "127.0.0.1:port" in refused("-a", "127.0.0.1:0", "-telnet", "127.0.0.1:port")
    assert "127.0.0.1:port" in refused("-a", "127.0.0.1:0", MACHAT_TELNET="127.0.0.1:port")


def test_a_bad_address_in_the_environment_is_one_line_that_shows_it(refused: Refused) -> None:
    assert "127.0.0.1:port" in refused(MACHAT_ADDRESS="127.0.0.1:port")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["-rat", "5"], "-rate"),
        (["--no-comands"], "-no-commands"),
        (["-x"], "-x"),
        (["localhost:8989"], "localhost:8989"),
        (["-rate"], "-rate"),
        (["-rate", "fast"], "fast"),
        (["-rate", "-1"], "-1"),
        (["-rate", "nan"], "nan"),
        (["-burst", "0"], "-burst"),
        (["-burst", "2.5"], "2.5"),
        (["-line-bytes", "1000000000000"], "1000000000000"),
        (["-log-level", "loud"], "loud"),
        (["-telnet", "127.0.0.1:0", "-lobby", "a:b"], "a:b"),
        (["-trusted", "10.0.0.0/8,proxy"], "-trusted 'proxy': "),
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_one_line_that_names_it(refused: Refused, flags: list[str], named: str) -> None:
    assert named in refused(*flags)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BURST", "many"),
        ("RATE", "-1"),
        ("GRACE", "1s"),
        ("ECHO", "perhaps"),
        ("LOG_LEVEL", "loud"),
        ("TRUSTED", "proxy"),
    ],
)
def test_a_wrong_environment_variable_is_one_line_that_names_it(refused: Refused, name: str, value: str) -> None:
    assert f"MACHAT_{name}" in refused("-a", "127.0.0.1:0", "-telnet", "127.0.0.1:0", **{f"MACHAT_{name}": value})


def test_help_shows_every_flag_and_examples(run: Run) -> None:
    code, out, err = run(server.main, "-help")
    assert (code, err) == (0, "")
    names = ["a", "address", "telnet", "lobby", "echo", "no-commands", "log-level", "version", "h"]
    names += [name.replace("_", "-") for name in Limits.model_fields]
    for name in names:
        assert re.search(rf"(?<![\w-])-{name}\b", out), name
    _, _, examples = out.partition("examples:")
    assert "chatserver -a" in examples
    assert "nc -N localhost" in examples


def test_help_of_the_example_client_shows_every_flag_and_examples(run: Run) -> None:
    code, out, err = run(client.main, "-h")
    assert (code, err) == (0, "")
    for flag in ("-client", "-room", "-address", "-s", "-p", "-version", "-h"):
        assert re.search(rf"(?<![\w-]){flag}\b", out), flag
    assert "examplechatclient -client" in out.partition("examples:")[2]


@pytest.mark.parametrize("program", [server, client], ids=["server", "client"])
def test_the_version_is_that_of_the_package(run: Run, program: object) -> None:
    prog: str = program.PROG  # type: ignore[attr-defined]
    assert run(program.main, "-version") == (0, f"{prog} {chatapi.__version__}\n", "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["-clinet", "Mina"], "-client"),
        (["-x"], "-x"),
        (["Mina"], "Mina"),
        (["-room"], "-room"),
        (["-address", "127.0.0.1"], "127.0.0.1"),
        (["-address", "127.0.0.1:port"], "port"),
        (["-p", "99999"], "99999"),
        (["-p", "http"], "http"),
        (["-address", "127.0.0.1:1", "-p", "1"], "-address"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_flag_of_the_example_client_is_one_line_that_names_it(run: Run, flags: list[str], named: str) -> None:
    code, out, err = run(client.main, *flags)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"examplechatclient: [^\n]+\n", err), err
    assert named in err
