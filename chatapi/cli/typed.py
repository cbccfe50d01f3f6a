"""What is typed at the example client, or piped into it: lines to say, in order, and commands to carry out."""

from __future__ import annotations

import os
import sys
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

import chatapi
from chatapi import Message
from chatapi.addresses import reason
from chatapi.protocol.text.commands import BadCommand, Command, help_lines, parse_command
from chatapi.text import find_fault, too_long, without_controls

from .screen import Screen, listed, say

_READ: Final = 64 * 1024
_LONGEST: Final = 1024 * 1024  # bytes of a line that are kept until its end comes: no server takes more
_AHEAD: Final = 256  # lines that may be on their way, in order, before more are read
_HISTORY: Final = 20
_MOST_HISTORY: Final = 1000


class Typed:
    """The input of one conversation. Lines are on their way at once and in order; a command waits for them."""

    def __init__(
        self, connection: chatapi.Connection, screen: Screen, tasks: anyio.abc.TaskGroup, *, commands: bool
    ) -> None:
        self.line_bytes: int = _LONGEST
        """What the server takes in one line."""
        self.unsure: bool = False
        """Whether a line may have been lost."""
        self._connection = connection
        self._screen = screen
        self._tasks = tasks
        self._commands = commands
        self._unanswered = 0
        self._answer = anyio.Event()  # there is one more

    async def take_all(self) -> bool:
        """Say every line, and carry out the commands, until the end of input, or a goodbye: True for that."""
        unfinished, dropped = b"", 0
        while data := await _read_input():
            *lines, unfinished = (unfinished + data).split(b"\n")
            for line in lines:
                if await self._take(line, dropped):
                    return True
                dropped = 0
            if len(unfinished) > _LONGEST:
                dropped, unfinished = dropped + len(unfinished), b""
        left = await self._take(unfinished, dropped)
        await self._answered()
        return left

    async def _take(self, line: bytes, dropped: int) -> bool:
        """Take one line, which had so many bytes more; True for a goodbye."""
        fault = find_fault(line + b"\n", self.line_bytes)
        if dropped or fault:
            await self._answered()
            self._screen.tell(too_long(dropped + len(line), self.line_bytes) if dropped or not fault else fault.why)
            return False
        text = without_controls(line).decode()
        if self._commands and text[:1] in ("/", "@"):
            if text[1:2] != text[0]:
                return await self._carry_out(parse_command(text))
            text = text[1:]
        if text:
            await self._answered(_AHEAD)
            self._unanswered += 1
            self._tasks.start_soon(self._send, text)  # they start in this order, which the library keeps
        return False

    async def _send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except chatapi.ChatError as error:
            self._tell_error(error)
        finally:
            self._unanswered -= 1
            self._answer.set()

    async def _answered(self, below: int = 1) -> None:
        """Wait until fewer lines than that are unanswered."""
        while self._unanswered >= below:
            self._answer = anyio.Event()
            await self._answer.wait()

    async def _carry_out(self, command: Command | BadCommand) -> bool:
        """Do what a command asks for and tell what came of it; True for a goodbye."""
        await self._answered()  # so that what is told has the order of what was typed
        if isinstance(command, BadCommand):
            self._screen.tell(command.why)
            return False
        there, argument = self._connection, command.argument
        try:
            if command.name == "username":
                await there.rename(argument)
            elif command.name == "msg":
                await there.whisper(argument, command.text)
            elif command.name == "join":
                await there.join(argument)
            elif command.name == "list":
                names = await there.members()
                self._screen.tell(listed(f"in {there.room}", names, len(names)))
            elif command.name == "rooms":
                rooms = await there.rooms()
                self._screen.tell(listed("rooms", [f"{name} ({count:,})" for name, count in rooms.items()], len(rooms)))
            elif command.name == "history":
                self._screen.messages(*await self._history(argument or str(_HISTORY)))
            elif command.name == "help":
                self._screen.tell(*help_lines())
        except (chatapi.ChatError, ValueError) as error:
            self._tell_error(error)
        await anyio.lowlevel.checkpoint()  # a new name or room is told at its place in what comes, which is now
        return command.name == "bye"

    async def _history(self, asked: str) -> list[Message]:
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 9):
            raise ValueError(f"/history takes a number of messages, not {asked[:32]!r}")
        found: list[Message] = []
        more = True
        while more and (left := min(int(asked), _MOST_HISTORY) - len(found)) > 0:
            page = await self._connection.history(before=found[0].seq if found else None, limit=min(left, 100))
            found[:0] = page.messages
            more = page.more and bool(page.messages)
        return found

    def _tell_error(self, error: Exception) -> None:
        if isinstance(error, chatapi.Disconnected | chatapi.EventsUnread):
            if self._connection.state is chatapi.State.CLOSED:
                return  # whoever prints what comes says why
            self.unsure = True
        if isinstance(error, chatapi.Refused) and error.code == chatapi.RefusalCode.UNAVAILABLE:
            self.unsure = True  # not the line's own fault
        self._screen.tell(error.detail if isinstance(error, chatapi.Refused | chatapi.SendRefused) else str(error))


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
        say(f"cannot read the input: {reason(error)}")
        return b""
