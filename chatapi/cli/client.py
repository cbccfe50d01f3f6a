"""The example client's command line: what you type goes to the room, what the room says is printed."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread

import chatapi
from chatapi import DISCONNECTS, Address, AddressError
from chatapi.addresses import parse_address
from chatapi.chat import DEFAULT_ADDRESS

from .flags import Parser, fail

PROG: Final = "examplechatclient"
_GOODBYES: Final = (b"/bye", b"/quit")
_GOODBYE: Final = b"* goodbye"
_CUT_OFF: Final = frozenset(DISCONNECTS) - {"bye"}
_READ: Final = 64 * 1024

_EXAMPLES: Final = """\
examples:
  examplechatclient -client Mina -room dev            talk; Ctrl-D leaves
  examplechatclient -client Mina -address chat:8989   to a server elsewhere
  examplechatclient -s localhost -p 6969              the same in GoChat's way
  echo deployed | examplechatclient -client ci        say one line and leave
  examplechatclient -client log -room dev >dev.txt    keep what is said: the output is the lines, nothing else
"""


def build_parser() -> Parser:
    """Every flag of the client."""
    parser = Parser(prog=PROG, description="Talk in a room of a chat server.", epilog=_EXAMPLES)
    parser.flag("-client", metavar="NAME", help="your name (default User and a number)")
    parser.flag("-room", metavar="ROOM", default="lounge", help="the room to join (default lounge)")
    parser.flag("-address", metavar="ADDRESS", help=f"where the server listens (default {DEFAULT_ADDRESS})")
    parser.flag("-no-commands", action="store_true", help="say lines that start with / or @ like any other")
    parser.flag("-s", "-server", dest="server", metavar="HOST", help="the host alone, as in GoChat")
    parser.flag("-p", "-port", dest="port", metavar="PORT", help="the port alone, as in GoChat")
    parser.flag(
        "-version", action="version", version=f"%(prog)s {chatapi.__version__}", help="show the version and exit"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the client; returns its exit code."""
    given = build_parser().parse(arguments)
    if given.address is not None and (given.server is not None or given.port is not None):
        fail(PROG, "-address says what -s and -p say; give one or the other")
    try:
        address = parse_address(given.address or DEFAULT_ADDRESS)
        if given.port is not None:
            address = Address(address.host, parse_address(f":{given.port}").port)
    except AddressError as error:
        fail(PROG, str(error))
    if given.server is not None:
        address = Address(given.server.strip("[]"), address.port)
    name = f"User{random.randint(1, 9999)}" if given.client is None else given.client
    try:
        return anyio.run(_talk, address, name, given.room, not given.no_commands)
    except KeyboardInterrupt:
        if sys.stderr is not None and sys.stderr.isatty():
            print(file=sys.stderr)  # noqa: T201  # the ^C stands on a line of its own
        return 130


async def _talk(address: Address, name: str, room: str, commands: bool) -> int:
    where = Address(address.host or "localhost", address.port)
    try:
        stream = await anyio.connect_tcp(where.host, where.port)
    except OSError as error:
        return _failed(f"cannot reach {where}: {_reason(error)}; is the server running?")
    async with stream:
        handshake = {"name": name, "room": room, "commands": commands}
        await stream.send(json.dumps(handshake).encode() + b"\n")
        if sys.stdin is not None and sys.stdin.isatty():
            _say(f"joining {room} as {name} on {where}; /help for commands, Ctrl-D to leave")
        talk = _Talk(stream, commands)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk.send_typed)
            await talk.print_received()
            tasks.cancel_scope.cancel()
    return talk.verdict()


class _Talk:
    """One conversation: what was typed, what came, and how it ended."""

    def __init__(self, stream: anyio.abc.SocketStream, commands: bool) -> None:
        self._stream = stream
        self._commands = commands
        self._refusal: bytes | None = b""  # a first line that may be a refusal, for as long as nothing follows it
        self._last = b""  # the last line that came, or what there is of it
        self._asked_to_leave = False  # by the end of input; where it was typed, the answer is for the user
        self._left = False  # whether everything typed has gone out, or a goodbye was typed
        self._broken: BaseException | None = None
        self._told = ""  # what the server itself said last, where nothing came after it
        self._unwritable: OSError | None = None  # why the output takes no more

    async def send_typed(self) -> None:
        """Send every line from the keyboard or the pipe; the end of input ends this side of the stream."""
        try:
            unfinished = b""
            while data := await _read_input():
                await self._stream.send(data)
                *lines, unfinished = (unfinished + data)[-_READ:].split(b"\n")
                self._left = self._left or any(line.strip().lower() in _GOODBYES for line in lines)
            if self._commands and not self._left:
                # The answer to a goodbye tells that all before it arrived; a mere end of stream tells nothing.
                self._asked_to_leave = True
                await self._stream.send(b"\n/bye\n")
            await self._stream.send_eof()
            self._left = not self._asked_to_leave
        except (anyio.BrokenResourceError, OSError):
            pass  # print_received finds out why

    async def print_received(self) -> None:
        """Print every line that comes, as it comes, until the server ends."""
        try:
            async for data in self._stream:
                _print(self._without_goodbye(self._without_refusal(data)))
        except OSError as error:
            self._unwritable = error
        except anyio.BrokenResourceError as error:
            self._broken = error.__cause__ or error

    def _without_refusal(self, data: bytes) -> bytes:
        """What is to be printed: all of it, but for a first line that says that one was refused."""
        if self._refusal is None:
            return data
        self._refusal += data
        line, newline, rest = self._refusal.partition(b"\n")
        if line.startswith(b"{") and not rest and (not newline or _as_refusal(line)) and len(line) < _READ:
            return b""
        data, self._refusal = self._refusal, None
        return data

    def _without_goodbye(self, data: bytes) -> bytes:
        """What is to be printed: all of it, but for the answer to a goodbye that nobody typed."""
        *lines, last = (self._last + data).split(b"\n")
        self._last = last
        printed = len(data)
        if self._asked_to_leave and not last and lines and lines[-1] == _GOODBYE:
            self._left = True
            printed -= len(_GOODBYE) + 1
        if lines and lines[-1].startswith(b"* "):
            self._told = lines[-1][2:].decode(errors="replace")
        elif lines:
            self._told = ""
        return data[: max(0, printed)]

    def verdict(self) -> int:
        """The exit code, with a message where it is not 0."""
        if self._unwritable is not None:
            sys.stdout = None  # or the interpreter complains when it flushes it
            closed = isinstance(self._unwritable, BrokenPipeError)  # as by `| head`: nobody wants to hear more
            return 1 if closed else _failed(f"cannot print: {_reason(self._unwritable)}")
        if self._refusal:
            if refusal := _as_refusal(self._refusal):
                return _failed(f"refused: {refusal}")
            _print(self._refusal)
        if self._told.partition(":")[0] in _CUT_OFF:
            return _failed(f"cut off: {self._told}")
        if self._left and self._broken is None:
            return 0
        return _failed(f"cut off: {_reason(self._broken) if self._broken else 'the server ended the connection'}")


def _as_refusal(line: bytes) -> str:
    """What a line of JSON that refuses a handshake says; empty where it is none."""
    try:
        error = json.loads(line)
        return f"{error['detail']} ({error['code']})" if error["type"] == "error" else ""
    except (ValueError, KeyError, TypeError):
        return ""


async def _read_input() -> bytes:
    """What was typed or piped in; empty at its end."""
    if sys.stdin is None:
        return b""
    descriptor = sys.stdin.fileno()
    try:
        await anyio.wait_readable(descriptor)
        in_thread = False
    except OSError:  # a file, which is always readable; or Windows, where somebody has to wait
        in_thread = True
    try:
        if in_thread:
            return await anyio.to_thread.run_sync(os.read, descriptor, _READ, abandon_on_cancel=True)
        return os.read(descriptor, _READ)
    except OSError as error:
        _say(f"cannot read the input: {_reason(error)}")
        return b""


def _print(data: bytes) -> None:
    if sys.stdout is not None:  # it may have been closed before this program began
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _say(message: str) -> None:
    print(f"{PROG}: {message}", file=sys.stderr)  # noqa: T201


def _failed(message: str) -> int:
    _say(message)
    return 1


def _reason(error: BaseException) -> str:
    while isinstance(error.__cause__, OSError | BaseExceptionGroup):  # anyio has tried several addresses
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[-1]
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
