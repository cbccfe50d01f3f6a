"""The server's command line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

import chatapi
from chatapi import AddressError, Broker, ChatAPI, Limits, Listening, Refused, StoreError
from chatapi.addresses import DEFAULT_ADDRESS
from chatapi.core.origins import LOOPBACK, networks
from chatapi.limits import Keep

from .flags import Parser, fail
from .lines import Lines, LinesHandler

_logger = logging.getLogger("chatapi")

PROG: Final = "chatserver"
SUB_COMMANDS: Final = ("rooms", "export", "import", "check")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
FORMER_NAMES: Final = MappingProxyType({"slow-penalty-seconds": "unforgiven"})
"""Flags by the names that they had before, which still work, also as environment variables."""
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

_EXAMPLES: Final = """\
examples:
  chatserver                                      listen on localhost:8989
  chatserver -a :8989 -telnet :6000               reachable from the network, with a telnet door
  chatserver -store chat.db                       keep history in a file
  chatserver -rate 0 -log-level warning           no limit of lines a second, and only warnings in the log
  MACHAT_RATE=10 chatserver                       every flag can also be set by an environment variable

then, in another terminal:
  examplechatclient -client Mina -room dev
  printf '{"name":"Zoe","room":"dev"}\\nhello\\n' | nc -N localhost 8989
  telnet localhost 6000                           (if the server has -telnet localhost:6000)

and, for a file of -store (`chatserver export -h` explains export, and so on):
  chatserver rooms FILE                           list its rooms
  chatserver export FILE ROOM [PATH]              write a room as lines of JSON
  chatserver import FILE ROOM [PATH]              make a room from such lines
  chatserver check FILE                           check it for damage
"""


def environment_name(flag: str) -> str:
    """Return the name of the environment variable for a flag."""
    return "MACHAT_" + flag.replace("-", "_").upper()


def build_parser() -> Parser:
    """Return the parser of all flags of the server."""
    parser = Parser(prog=PROG, description="A room-based chat server.", epilog=_EXAMPLES)
    switch = partial(parser.flag, nargs="?", const="1", metavar="BOOL")
    parser.flag(
        "-a", "-address", "-tcp", dest="address", metavar="ADDRESS", help=f"where to listen (default {DEFAULT_ADDRESS})"
    )
    parser.flag("-telnet", metavar="ADDRESS", help="where to listen for telnet clients (default: nowhere)")
    parser.flag("-lobby", metavar="ROOM", help="the room that telnet clients join (default lounge)")
    switch("-echo", help="send each message to its sender too, as MaChat in Go does")
    switch("-no-commands", help="send lines that start with / or @ to the room as text")
    switch(
        "-machat",
        help="behave as MaChat in Go: -echo, -no-commands, any name and room, blank lines, lines of 65,535 bytes",
    )
    parser.flag(
        "-log-level", metavar="LEVEL", help=f"the lowest level that is logged: {', '.join(LOG_LEVELS)} (default info)"
    )
    parser.flag(
        "-version", action="version", version=f"%(prog)s {chatapi.__version__}", help="show the version and exit"
    )
    parser.flag("-store", metavar="FILE", help="keep history in this SQLite file (default: only in memory)")
    parser.flag(
        "-store-sync",
        metavar="HOW",
        help="full: acknowledged messages survive a power cut; normal: they survive only a crash of the server "
        "(default full)",
    )
    parser.flag("-redis", metavar="URL", help="keep rooms in this Redis, and share them with all servers that use it")
    parser.flag(
        "-redis-prefix",
        metavar="TEXT",
        help="how keys in Redis begin: servers with the same prefix are one chat (default machat)",
    )
    parser.flag("-redis-wait", metavar="N", help="acknowledge a message when N replicas of Redis have it (default 0)")
    parser.flag(
        "-trusted",
        metavar="ADDRESSES",
        help="addresses and networks, separated by commas, that many clients share, such as a proxy's: the limits for "
        f"one address do not apply to them (default {','.join(LOOPBACK)})",
    )
    _add_fields(parser, parser, Keep, "-keep-")
    _add_fields(parser, parser.add_argument_group("limits"), Limits, "-")
    return parser


def _add_fields(parser: Parser, to: argparse._ActionsContainer, model: type[BaseModel], prefix: str) -> None:
    for name, field in model.model_fields.items():
        text = " ".join((field.description or "").split()).rstrip(".")
        text = re.sub(r"`(\w+)`", lambda found: f"{prefix}{found[1].replace('_', '-')}", text)
        default = f"{field.default:,}" if isinstance(field.default, int) else f"{field.default:g}"
        flag = f"{prefix}{name.replace('_', '-')}"
        former = [f"-{FORMER_NAMES[flag[1:]]}"] if flag[1:] in FORMER_NAMES else []
        parser.flag(flag, *former, to=to, metavar="N", help=f"{text} (default {default})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return its exit code."""
    _open_standard_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in SUB_COMMANDS:
        from . import store

        return store.main(arguments)
    parser = build_parser()
    given = _Settings(parser.parse(arguments), os.environ)
    level = given.text("log-level", "info").lower()
    if level not in LOG_LEVELS:
        fail(PROG, f"{given.source('log-level')} {level!r}: it must be one of {', '.join(LOG_LEVELS)}")
    log = Lines(2, encoding="utf-8" if sys.stderr is None else sys.stderr.encoding)
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        handlers=[LinesHandler(log)],
    )
    try:
        return _serve(given)
    finally:
        log.close()


def _serve(given: _Settings) -> int:
    """Run the server, after the log is set up."""
    trusted = [text for text in given.text("trusted", ",".join(LOOPBACK)).split(",") if text.strip()]
    try:
        networks(trusted)
    except AddressError as error:
        fail(PROG, f"{given.source('trusted')} {error}")
    chat = ChatAPI(
        _checked(given, Limits, ""),
        machat=bool(given.switch("machat")),
        echo=given.switch("echo"),
        commands=None if (no_commands := given.switch("no-commands")) is None else not no_commands,
        broker=_broker(given),
        trusted=trusted,
    )
    _raise_descriptor_limit()
    kept = "redis" if given.text("redis") else "store"
    address, telnet, lobby = given.text("address", DEFAULT_ADDRESS), given.text("telnet"), given.text("lobby", "lounge")
    return _run(chat, kept, address, telnet or None, lobby)


class _Settings:
    """The values of flags, and of environment variables for flags that were not given."""

    def __init__(self, flags: argparse.Namespace, environment: Mapping[str, str]) -> None:
        self._flags = {name: value for name, value in vars(flags).items() if value is not None}
        self._environment = environment

    def text(self, flag: str, default: str = "") -> str:
        """Return the value of a flag."""
        value = self._flags.get(flag.replace("-", "_"), self._environment.get(self._variable(flag)))
        return default if value is None else str(value)

    def is_empty(self, flag: str) -> bool:
        """Whether a flag was given with an empty value, as by a shell variable that is not set."""
        return self._flags.get(flag.replace("-", "_")) == ""

    def switch(self, flag: str) -> bool | None:
        """Whether a flag is on; None if it was not given. As in Go, ``-flag=false`` switches it off."""
        value = self.text(flag)
        if not value:
            return None
        if value.lower() in _YES:
            return True
        if value.lower() not in _NO:
            fail(PROG, f"{self.source(flag)} {value!r}: it must be true or false")
        return False

    def source(self, flag: str) -> str:
        """Return the flag or the variable that gave the value, for an error text."""
        return f"-{flag}" if flag.replace("-", "_") in self._flags else self._variable(flag)

    def _variable(self, flag: str) -> str:
        """Return the environment variable for a flag: that of its former name if only that one is set."""
        name, former = environment_name(flag), environment_name(FORMER_NAMES.get(flag, flag))
        return name if name in self._environment or former not in self._environment else former


def _run(chat: ChatAPI, kept: str, address: str, telnet: str | None, lobby: str) -> int:
    from gotcpchat import run_tcp

    output = Lines(1, _listening_not_printed)
    try:
        return 0 if run_tcp(address, chat, telnet=telnet, lobby=lobby, started=partial(_print_listening, output)) else 1
    except AddressError as error:
        fail(PROG, str(error))
    except StoreError as error:
        fail(PROG, f"-{kept} {error}")
    except Refused as refused:
        fail(PROG, f"-lobby {lobby!r}: {refused.detail}")
    except OSError as error:
        fail(PROG, f"cannot listen on {error.filename or address}: {error.strerror or error}")
    finally:
        output.close()


def _open_standard_streams() -> None:
    """Open closed descriptors among 0 to 2 on the null device, so that no socket gets one and the log's lines."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _print_listening(output: Lines, listening: list[Listening]) -> None:
    for door in dict.fromkeys(item.door for item in listening):
        addresses = " and ".join(str(item.address) for item in listening if item.door == door)
        output.put(f"{PROG}: {'telnet ' if door == 'telnet' else ''}listening on {addresses}")


def _listening_not_printed(line: str, error: OSError) -> None:
    """Log that standard output cannot be written; the server goes on."""
    _logger.error(
        "listening on %s; cannot write that to the standard output: %s", line.partition(" on ")[2], error.strerror
    )


def _broker(given: _Settings) -> Broker | None:
    """Return a broker that keeps rooms, if a file or a Redis is given for it."""
    if given.text("redis") or given.is_empty("redis"):
        return _redis(given)
    for flag in ("redis-prefix", "redis-wait"):
        if given.text(flag):
            fail(PROG, f"{given.source(flag)} needs -redis")
    keep = _checked(given, Keep, "keep-")
    sync, path = given.text("store-sync", "full"), given.text("store")
    if sync not in ("full", "normal"):
        fail(PROG, f"{given.source('store-sync')} {sync!r}: it must be full or normal")
    if given.is_empty("store"):
        fail(PROG, "-store '': it needs the name of a file")
    if path:
        from chatapi.brokers.sqlite.broker import SQLiteBroker

        return SQLiteBroker(path, sync="full" if sync == "full" else "normal", keep=keep)
    for flag in ("store-sync", *(f"keep-{name}" for name in Keep.model_fields)):
        if given.text(flag):
            fail(PROG, f"{given.source(flag)} needs -store")
    return None


def _redis(given: _Settings) -> Broker:
    """Return a broker whose rooms several servers share."""
    if given.is_empty("redis"):
        fail(PROG, "-redis '': it needs a URL, such as redis://localhost:6379/0")
    for flag in ("store", "store-sync"):
        if given.text(flag):
            fail(PROG, f"{given.source(flag)} and {given.source('redis')}: rooms can be kept in only one of them")
    replicas = given.text("redis-wait", "0")
    if not (replicas.isascii() and replicas.isdigit() and len(replicas) < 4):
        fail(PROG, f"{given.source('redis-wait')} {replicas!r}: it must be a number from 0 to 999")
    try:
        from chatapi.brokers.redis.broker import KEEP, RedisBroker
    except ImportError as error:
        fail(PROG, f"{given.source('redis')}: {error}")
    logging.getLogger("coredis").setLevel(logging.CRITICAL)  # the broker logs what matters
    keep, asked = _checked(given, Keep, "keep-"), [name for name in Keep.model_fields if given.text(f"keep-{name}")]
    keep = KEEP.model_copy(update={name: getattr(keep, name) for name in asked})
    prefix = given.text("redis-prefix", "machat")
    try:
        return RedisBroker(given.text("redis"), prefix=prefix, keep=keep, replicas=int(replicas))
    except (ValueError, OSError) as error:  # also a file of certificates that cannot be read
        fail(PROG, f"{given.source('redis')} {error}")


_Model = TypeVar("_Model", bound=BaseModel)


def _checked(given: _Settings, model: type[_Model], prefix: str) -> _Model:
    flags = {name: prefix + name.replace("_", "-") for name in model.model_fields}
    values: dict[str, Any] = {name: value for name, flag in flags.items() if (value := given.text(flag))}
    try:
        return model(**values)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
    name = str(first["loc"][0])
    fail(PROG, f"{given.source(flags[name])} {values[name]!r}: {first['msg'][0].lower()}{first['msg'][1:]}")


def _raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to the system's maximum, because each connection needs one."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS reports "unlimited" and accepts less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
