"""The server's command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

import chatapi
from chatapi import AddressError, ChatAPI, Limits, Listening, Refused
from chatapi.chat import DEFAULT_ADDRESS

from .flags import Parser, fail

PROG: Final = "chatserver"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")

_EXAMPLES: Final = """\
examples:
  chatserver                                      listen on localhost:8989
  chatserver -a :8989 -telnet :6000               for everybody, and a telnet door beside it
  chatserver -rate 0 -log-level warning           no bound on lines a second, and a quiet log
  MACHAT_RATE=10 chatserver                       every flag is an environment variable too

then, in another terminal:
  examplechatclient -client Mina -room dev
  printf '{"name":"Zoe","room":"dev"}\\nhello\\n' | nc localhost 8989
  telnet localhost 6000
"""


def environment_name(flag: str) -> str:
    """The environment variable that stands for a flag."""
    return "MACHAT_" + flag.replace("-", "_").upper()


def build_parser() -> Parser:
    """Every flag of the server."""
    parser = Parser(prog=PROG, description="A room-based chat server.", epilog=_EXAMPLES)
    parser.flag(
        "-a", "-address", dest="address", metavar="ADDRESS", help=f"where to listen (default {DEFAULT_ADDRESS})"
    )
    parser.flag("-telnet", metavar="ADDRESS", help="where to listen for people with telnet (default: nowhere)")
    parser.flag("-lobby", metavar="ROOM", help="the room that people on the telnet door come into (default lounge)")
    parser.flag(
        "-echo", action="store_true", default=None, help="send everybody their own messages too, as the Go server does"
    )
    parser.flag(
        "-no-commands", action="store_true", default=None, help="route lines that start with / or @ like any other"
    )
    parser.flag("-log-level", choices=LOG_LEVELS, metavar="LEVEL", help=f"{', '.join(LOG_LEVELS)} (default info)")
    parser.flag(
        "-version", action="version", version=f"%(prog)s {chatapi.__version__}", help="show the version and exit"
    )
    limits = parser.add_argument_group("limits")
    for name, field in Limits.model_fields.items():
        text = " ".join((field.description or "").split()).rstrip(".")
        default = f"{field.default:,}" if isinstance(field.default, int) else f"{field.default:g}"
        parser.flag(f"-{name.replace('_', '-')}", to=limits, metavar="N", help=f"{text} (default {default})")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; returns its exit code."""
    parser = build_parser()
    given = parser.parse(arguments)
    environment = os.environ
    for action in parser._actions:
        if action.dest in ("help", "version") or getattr(given, action.dest) is not None:
            continue
        value = environment.get(environment_name(action.dest))
        if value is not None:
            setattr(given, action.dest, _switch(action.dest, value) if action.nargs == 0 else value)
    level = given.log_level or "info"
    if level not in LOG_LEVELS:
        fail(PROG, f"MACHAT_LOG_LEVEL is {level!r}; it is one of {', '.join(LOG_LEVELS)}")
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S", stream=sys.stderr
    )
    chat = ChatAPI(_limits(given, environment), echo=bool(given.echo), commands=not given.no_commands)
    _raise_descriptor_limit()
    return _run(chat, given.address or DEFAULT_ADDRESS, given.telnet or None, given.lobby or "lounge")


def _run(chat: ChatAPI, address: str, telnet: str | None, lobby: str) -> int:
    from gotcpchat import run_tcp

    try:
        return 0 if run_tcp(address, chat, telnet=telnet, lobby=lobby, started=_say_where) else 1
    except AddressError as error:
        fail(PROG, str(error))
    except Refused as refused:
        fail(PROG, f"-lobby {lobby!r}: {refused.detail}")
    except OSError as error:
        fail(PROG, f"cannot listen on {address}{f' and {telnet}' if telnet else ''}: {error.strerror or error}")


def _say_where(listening: list[Listening]) -> None:
    for door in dict.fromkeys(item.door for item in listening):
        addresses = " and ".join(str(item.address) for item in listening if item.door == door)
        print(f"chatserver: {'telnet ' if door == 'telnet' else ''}listening on {addresses}", flush=True)  # noqa: T201


def _limits(given: argparse.Namespace, environment: Mapping[str, str]) -> Limits:
    values: dict[str, Any] = {
        name: value for name in Limits.model_fields if (value := getattr(given, name)) is not None
    }
    try:
        return Limits(**values)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
    name = str(first["loc"][0])
    flag = f"-{name.replace('_', '-')}"
    source = environment_name(name) if environment.get(environment_name(name)) == values[name] else flag
    fail(PROG, f"{source} {values[name]!r}: {first['msg'][0].lower()}{first['msg'][1:]}")


def _switch(dest: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() not in _NO:
        fail(PROG, f"{environment_name(dest)} is {value!r}; it is 1 or 0")
    return False


def _raise_descriptor_limit() -> None:
    """One descriptor a connection: take as many as the system gives."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
