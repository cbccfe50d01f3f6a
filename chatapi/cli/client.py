"""The example client's command line: what you type goes to the room, what the room says is printed."""

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

from .flags import Parser, fail
from .screen import PROG, Screen, listed, say
from .typed import Typed

_BECAUSE: Final = {"bye": "", "moved": " for another room"}

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
        return _failed(f"cut off: {error}")
    return talk.verdict()


class _Talk:
    """One conversation: what was typed, what came, and how it ended."""

    def __init__(self, connection: chatapi.Connection, commands: bool) -> None:
        self._connection = connection
        self._commands = commands
        self._screen = Screen(self._end)
        self._name = self._room = ""  # as of the last event that was printed
        self._trouble: str | None = None  # why it ended before its time; empty where nobody wants to know
        self._tasks: anyio.abc.TaskGroup
        self._typed: Typed

    async def run(self, where: Address) -> None:
        """Talk until the input ends or something else does."""
        left = False
        welcome = await anext(self._connection)
        async with anyio.create_task_group() as self._tasks:
            self._typed = Typed(self._connection, self._screen, self._tasks, commands=self._commands)
            self._stand(welcome)
            if sys.stdin is not None and sys.stdin.isatty():
                say(f"in {self._room} as {self._name} on {where}; /help for commands, Ctrl-D to leave")
            self._tasks.start_soon(self._print_news)
            left = await self._typed.take_all()
            await self._connection.close()
        if left and self._trouble is None:
            self._screen.tell("goodbye")

    def verdict(self) -> int:
        """The exit code, with a message where it is not 0."""
        if self._trouble is None and self._typed.unsure:
            self._trouble = "not everything that was typed is known to have arrived"
        if self._trouble:
            say(self._trouble)
        return 0 if self._trouble is None else 1

    async def _print_news(self) -> None:
        try:
            async for news in self._connection:
                self._print(news)
        except chatapi.ChatError as error:
            self._end(f"cut off: {error}")

    def _print(self, news: News) -> None:
        if isinstance(news, Message):
            self._screen.messages(news)
        elif isinstance(news, Whisper):
            self._screen.whisper(news)
        elif isinstance(news, chatapi.Lost) and news.reason.code == "flood":
            self._end(f"cut off: flood: {news.detail}")  # what is typed here would only be refused again
        elif isinstance(news, chatapi.Lost):
            say(f"connection lost: {news.detail}; trying again")
        elif isinstance(news, chatapi.Recovered):
            say("back, nothing was missed")
            self._stand(news.welcome)
        elif isinstance(news, chatapi.Gap):
            say(f"back; what was said in between is not known ({news.reason})")
            self._stand(news.welcome)
        elif isinstance(news, chatapi.Notice):
            say(f"{news.code}: {news.detail}")
        elif isinstance(news, Welcome):
            self._stand(news, "now" if news.room != self._room else "already")
        elif isinstance(news, Renamed) and news.name == self._name:
            self._name = news.to
            self._screen.tell(f"you are now {news.to}")
        elif self._screen.is_terminal:
            self._screen.tell(_notice(news))

    def _end(self, trouble: str) -> None:
        if self._trouble is None:
            self._trouble = trouble
        self._tasks.cancel_scope.cancel()

    def _stand(self, here: News, moved: str = "") -> None:
        """Take note of where this is, and tell what has changed, as by a `/join` whose own answer was lost."""
        assert isinstance(here, Welcome)
        if moved or (self._room and here.room != self._room):
            self._screen.tell(listed(f"you are {moved or 'now'} in {here.room}", here.members, here.count))
        if self._name and here.name != self._name:
            self._screen.tell(f"you are now {here.name}")
        self._name, self._room = here.name, here.room
        limit = here.limits.get("line_bytes")
        if isinstance(limit, int):
            self._typed.line_bytes = limit


def _notice(news: Joined | Left | Renamed | Deleted) -> str:
    if isinstance(news, Joined):
        return f"{news.name} joined"
    if isinstance(news, Left):
        return f"{news.name} left" + _BECAUSE.get(news.reason, f" ({news.reason})")
    if isinstance(news, Deleted):
        return f"{news.name} deleted a message"
    return f"{news.name} is now {news.to}"


def _failed(message: str) -> int:
    say(message)
    return 1
