"""The example client's command line: it sends the input to a room and prints the messages of the room."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from typing import Final

import anyio
import anyio.abc

import chatapi
from chatapi import Address, AddressError, Deleted, Joined, Left, Message, News, Renamed, Welcome, Whisper
from chatapi.addresses import DEFAULT_ADDRESS, parse_address, reason

from .flags import Parser, fail, interrupted
from .screen import PROG, Screen, listed, say
from .typed import Typed

_BECAUSE: Final = {"bye": "", "moved": " for another room"}

_EXAMPLES: Final = """\
examples:
  examplechatclient -client Mina -room dev            talk; Ctrl-D leaves
  examplechatclient -client Mina -address chat:8989   use a server on another machine
  examplechatclient -s localhost -p 6969              the same with GoChat's flags
  echo deployed | examplechatclient -client ci        send one line and leave
  examplechatclient -client log -room dev >dev.txt    write only the messages to a file
"""


def build_parser() -> Parser:
    """Return the parser of all flags of the client."""
    parser = Parser(prog=PROG, description="Talk in a room of a chat server.", epilog=_EXAMPLES)
    parser.flag("-client", metavar="NAME", help="your name (default User and a number)")
    parser.flag("-room", metavar="ROOM", default="lounge", help="the room to join (default lounge)")
    parser.flag("-address", metavar="ADDRESS", help=f"where the server listens (default {DEFAULT_ADDRESS})")
    parser.flag("-no-commands", action="store_true", help="send lines that start with / or @ as text")
    parser.flag("-s", "-server", dest="server", metavar="HOST", help="the server's host, in place of -address")
    parser.flag("-p", "-port", dest="port", metavar="PORT", help="the server's port, in place of -address")
    parser.flag(
        "-version", action="version", version=f"%(prog)s {chatapi.__version__}", help="show the version and exit"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the client; return its exit code."""
    given = build_parser().parse(arguments)
    if given.address is not None and (given.server is not None or given.port is not None):
        fail(PROG, "-address cannot be combined with -s or -p")
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
        return interrupted()


async def _talk(address: Address, name: str, room: str, commands: bool) -> int:
    where = Address(address.host or "localhost", address.port)
    try:
        async with chatapi.connect(where, name=name, room=room) as connection:
            talk = _Talk(connection, commands)
            try:
                await talk.run(where)
            except anyio.get_cancelled_exc_class():  # Ctrl-C: a goodbye frees the name at once
                with anyio.move_on_after(1, shield=True):
                    await connection.close()
                raise
    except chatapi.Unreachable as error:
        if not isinstance(error.__cause__, OSError):
            return _failed(str(error))
        return _failed(f"cannot reach {where}: {reason(error)}; is the server running?")
    except chatapi.ProtocolError as error:
        return _failed(str(error))
    except chatapi.Refused as refused:
        again = "" if refused.after is None else f"; try again in {max(1, math.ceil(refused.after))} s"
        return _failed(f"refused: {refused.detail} ({refused.code}){again}")
    except chatapi.ChatError as error:
        return _failed(f"disconnected: {error}")
    return talk.verdict()


class _Talk:
    """One conversation: its input, its events, and how it ended."""

    def __init__(self, connection: chatapi.Connection, commands: bool) -> None:
        self._connection = connection
        self._commands = commands
        self._screen = Screen(self._end)
        self._name = self._room = ""  # as of the last event that was printed
        self._error: str | None = None  # why it ended early; empty if there is nothing to print
        self._tasks: anyio.abc.TaskGroup
        self._typed: Typed

    async def run(self, where: Address) -> None:
        """Send the input and print the events, until the input or the connection ends."""
        left = False
        welcome = await anext(self._connection)
        async with anyio.create_task_group() as self._tasks:
            self._typed = Typed(self._connection, self._screen, self._tasks, commands=self._commands)
            self._enter(welcome)
            if sys.stdin is not None and sys.stdin.isatty():
                say(f"in {self._room} as {self._name} on {where}; /help for commands, Ctrl-D to leave")
            self._tasks.start_soon(self._print_events)
            left = await self._typed.take_all()
            await self._connection.close()
        if left and self._error is None:
            self._screen.tell("goodbye")

    def verdict(self) -> int:
        """Return the exit code, after a message if it is not 0."""
        if self._error is None and self._typed.unsure:
            self._error = "some lines may not have arrived"
        if self._error:
            say(self._error)
        return 0 if self._error is None else 1

    async def _print_events(self) -> None:
        try:
            async for event in self._connection:
                self._print(event)
        except chatapi.ChatError as error:
            self._end(f"disconnected: {error}")

    def _print(self, event: News) -> None:
        if isinstance(event, Message):
            self._screen.messages(event)
        elif isinstance(event, Whisper):
            self._screen.whisper(event)
        elif isinstance(event, chatapi.Lost) and event.reason.code == "flood":
            self._end(f"disconnected: flood: {event.detail}")  # the server would refuse the same input again
        elif isinstance(event, chatapi.Lost):
            say(f"connection lost: {event.detail}; trying again")
        elif isinstance(event, chatapi.Recovered):
            say("connected again; no message was missed")
            self._enter(event.welcome)
        elif isinstance(event, chatapi.Gap):
            say(f"connected again; messages may have been missed ({event.reason})")
            self._enter(event.welcome)
        elif isinstance(event, chatapi.Notice):
            say(f"{event.code}: {event.detail}")
        elif isinstance(event, Welcome):
            self._enter(event, "now" if event.room != self._room else "already")
        elif isinstance(event, Renamed) and event.name == self._name:
            self._name = event.to
            self._screen.tell(f"you are now {event.to}")
        elif self._screen.is_terminal:
            self._screen.tell(_notice(event))

    def _end(self, error: str) -> None:
        if self._error is None:
            self._error = error
        self._tasks.cancel_scope.cancel()

    def _enter(self, here: News, moved: str = "") -> None:
        """Store name and room, and show what has changed, also after a `/join` whose answer was lost."""
        assert isinstance(here, Welcome)
        if moved or (self._room and here.room != self._room):
            self._screen.tell(listed(f"you are {moved or 'now'} in {here.room}", here.members, here.count))
        if self._name and here.name != self._name:
            self._screen.tell(f"you are now {here.name}")
        self._name, self._room = here.name, here.room
        limit = here.limits.get("line_bytes")
        if isinstance(limit, int):
            self._typed.line_bytes = limit


def _notice(event: Joined | Left | Renamed | Deleted) -> str:
    if isinstance(event, Joined):
        return f"{event.name} joined"
    if isinstance(event, Left):
        return f"{event.name} left" + _BECAUSE.get(event.reason, f" ({event.reason})")
    if isinstance(event, Deleted):
        return f"{event.name} deleted a message"
    return f"{event.name} is now {event.to}"


def _failed(message: str) -> int:
    say(message)
    return 1
