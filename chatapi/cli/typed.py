"""The input of the example client, typed or from a pipe: lines to send in order, and commands to execute."""

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
_MAX_LINE: Final = 1024 * 1024  # bytes of an unfinished line to keep; no server accepts a longer line
_MAX_UNANSWERED: Final = 256  # lines that may be unanswered before more input is read
_HISTORY: Final = 20
_MAX_HISTORY: Final = 1000


class Typed:
    """The input of one conversation. Lines are sent without waiting, in order; a command waits for their answers."""

    def __init__(
        self, connection: chatapi.Connection, screen: Screen, tasks: anyio.abc.TaskGroup, *, commands: bool
    ) -> None:
        self.line_bytes: int = _MAX_LINE
        """The longest line that the server accepts, in bytes."""
        self.unsure: bool = False
        """Whether a line may have been lost."""
        self._connection = connection
        self._screen = screen
        self._tasks = tasks
        self._commands = commands
        self._unanswered = 0
        self._answer = anyio.Event()  # set at the next answer

    async def take_all(self) -> bool:
        """Send each line and execute each command until the end of input or a goodbye; return True for a goodbye."""
        unfinished, dropped = b"", 0
        while data := await _read_input():
            *lines, unfinished = (unfinished + data).split(b"\n")
            for line in lines:
                if await self._take(line, dropped):
                    return True
                dropped = 0
            if len(unfinished) > _MAX_LINE:
                dropped, unfinished = dropped + len(unfinished), b""
        left = await self._take(unfinished, dropped)
        await self._answered()
        return left

    async def _take(self, line: bytes, dropped: int) -> bool:
        """Send or execute one line, of which `dropped` bytes are missing; return True for a goodbye."""
        fault = find_fault(line + b"\n", self.line_bytes)
        if dropped or fault:
            await self._answered()
            self._screen.tell(too_long(dropped + len(line), self.line_bytes) if dropped or not fault else fault.why)
            return False
        text = without_controls(line).decode()
        if self._commands and text[:1] in ("/", "@"):
            if text[1:2] != text[0]:
                return await self._execute(parse_command(text))
            text = text[1:]
        if text:
            await self._answered(_MAX_UNANSWERED)
            self._unanswered += 1
            self._tasks.start_soon(self._send, text)  # tasks start in this order, and the library keeps the order
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
        """Wait until fewer than `below` lines are unanswered."""
        while self._unanswered >= below:
            self._answer = anyio.Event()
            await self._answer.wait()

    async def _execute(self, command: Command | BadCommand) -> bool:
        """Execute a command and show its result; return True for a goodbye."""
        await self._answered()  # so that results are shown in the order of the input
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
        await anyio.lowlevel.checkpoint()  # let the task that prints events show a new name or room first
        return command.name == "bye"

    async def _history(self, asked: str) -> list[Message]:
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 9):
            raise ValueError(f"/history takes a number of messages, not {asked[:32]!r}")
        found: list[Message] = []
        more = True
        while more and (left := min(int(asked), _MAX_HISTORY) - len(found)) > 0:
            page = await self._connection.history(before=found[0].seq if found else None, limit=min(left, 100))
            found[:0] = page.messages
            more = page.more and bool(page.messages)
        return found

    def _tell_error(self, error: Exception) -> None:
        if isinstance(error, chatapi.Disconnected | chatapi.EventsUnread):
            if self._connection.state is chatapi.State.CLOSED:
                return  # the task that prints events shows the reason
            self.unsure = True
        if isinstance(error, chatapi.Refused) and error.code == chatapi.RefusalCode.UNAVAILABLE:
            self.unsure = True  # the fault is not in the line
        self._screen.tell(error.detail if isinstance(error, chatapi.Refused | chatapi.SendRefused) else str(error))


async def _read_input() -> bytes:
    """Read the next input; return nothing at its end."""
    if sys.stdin is None:
        return b""
    descriptor = sys.stdin.fileno()
    try:
        await anyio.wait_readable(descriptor)
        in_thread = False
    except OSError:  # a file, which is always readable; or Windows, where a thread has to wait
        in_thread = True
    try:
        if in_thread:
            return await anyio.to_thread.run_sync(os.read, descriptor, _READ, abandon_on_cancel=True)
        return os.read(descriptor, _READ)
    except OSError as error:
        say(f"cannot read the input: {reason(error)}")
        return b""
