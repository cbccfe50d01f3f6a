"""The text protocol after the opening: plain lines are messages, and some lines are commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from ...core import views
from ...core.client import Client
from ...core.entries import Said
from ...core.hooks import OnMessage, ask, passed
from ...core.room import Room
from ...errors import ChatError
from ...limits import LISTED
from ...pending import Pending
from ...text import clean, close_lines, cut_lines, find_fault, without_controls
from ..connection_protocol import ConnectionProtocol, Conversation, code_and_detail
from ..framing import Lines, LineTooLong, ReceiveBuffer, largest_run
from .commands import BadCommand, Command, help_lines, parse_command
from .rendering import TextStyle

_HISTORY: Final = 20


class BadLine(NamedTuple):
    """A line that cannot be taken, with what its sender is told; the following line is intact."""

    why: str


Step: TypeAlias = Lines | Command | BadCommand | BadLine


class TextProtocol(ConnectionProtocol):
    """A member that sends and reads lines."""

    __slots__ = ("client", "commands", "style")

    style: TextStyle

    def __init__(
        self, connection: Conversation, received: ReceiveBuffer, style: TextStyle, commands: bool | None
    ) -> None:
        super().__init__(connection, received)
        self.style = style  # pyright: ignore[reportIncompatibleVariableOverride]
        self.commands: bool = connection.hub.commands if commands is None else commands
        """Whether lines that start with ``/`` or ``@`` are commands."""
        self.client: Client

    # Parsing

    def next_step(self, most: int) -> Step | None:
        """Return a run of at most `most` plain lines, or the one line that is not plain, if that comes first."""
        received, limits = self.received, self.connection.hub.limits
        try:
            end = received.lines_end(limits.line_bytes)
        except LineTooLong as error:
            return BadLine(str(error))
        if not end:
            return None
        data, at = received.data, received.at
        if self.commands:
            if data[at] in b"/@":
                return self._command(data.index(b"\n", at) + 1)
            for start in (b"/", b"@"):
                if data.find(start, at, end) < 0:  # forty times as fast as to look for both
                    continue
                found = data.find(b"\n" + start, at, end)
                if found >= 0:
                    end = found + 1
        block = data[at:end]
        cost = block.count(b"\n")
        if cost == 1 and 1 < len(block) <= limits.line_bytes and block.isascii() and block[:-1].decode().isprintable():
            received.lines += 1  # as most lines of people are: nothing is to be cut, refused or cleaned
            received.advance(end)
            return Lines(block, 1, 1)
        if cost > 1:
            most, most_bytes = largest_run(limits, most)
            if len(block) > most_bytes:
                block = block[: block.rfind(b"\n", 0, most_bytes) + 1 or block.index(b"\n") + 1]
                cost = block.count(b"\n")
            if cost > most:
                block = cut_lines(block, most)
                cost = most
        fault = find_fault(block, limits.line_bytes)
        if fault is not None:
            if fault.start == 0:
                received.lines += 1
                received.advance(at + fault.end)
                return BadLine(fault.why)
            block = block[: fault.start]
            cost = block.count(b"\n")
        cleaned, messages = self._clean(block, cost)
        if self.commands and cleaned != block and _has_command(cleaned):
            # control characters stood before a command: what members say is cleaned before it is understood
            received.data = without_controls(block) + data[at + len(block) :]
            received.at = 0
            return self.next_step(most)
        received.lines += cost
        received.advance(at + len(block))
        return Lines(cleaned, messages, cost)

    def _command(self, end: int) -> Step:
        """Return the line that starts with ``/`` or ``@``: a command, or text if that character is doubled."""
        received = self.received
        line = received.data[received.at : end]
        received.lines += 1
        received.advance(end)
        fault = find_fault(line, self.connection.hub.limits.line_bytes)
        if fault is not None:
            return BadLine(fault.why)
        line = without_controls(line)
        if line[1:2] == line[:1]:
            return Lines(*self._clean(line[1:], 1), 1)
        return parse_command(line.decode().rstrip("\n"))

    def _clean(self, block: bytes, lines: int) -> tuple[bytes, int]:
        """Return a block of `lines` lines as it is shown, and how many messages it has."""
        if self.connection.hub.naming.allows_empty:
            return close_lines(without_controls(block)), lines
        cleaned = clean(block)
        return cleaned, lines if cleaned == block else cleaned.count(b"\n")

    # Handling

    def handle(self, step: Step) -> None:
        """Say lines, carry out a command, or tell why a line cannot be taken. Raises `ChatError`."""
        if isinstance(step, Lines):
            if not step.messages:
                return
            if (hook := self.connection.hub.hooks.on_message) is None:
                client = self.client
                client.submit(Said(client.id, client.name, step.block, step.messages))
            else:
                self._ask_to_say(hook, step.block)
        elif isinstance(step, Command):
            _HANDLERS[step.name](self, step)
        else:
            self.tell(step.why)
            if isinstance(step, BadCommand):  # a bad line is none: a file that is not text is pasted by mistake
                self.connection.fault()

    def refuse(self, error: ChatError) -> None:
        """Tell the member why a command was refused, and count that as a fault of its own, if it is."""
        self.tell(code_and_detail(error)[1])
        self.blame(error)

    def tell(self, text: str) -> None:
        """Tell the member something, as a line of the server's own."""
        self.connection.write(self.style.line(text))

    def joined(self, client: Client) -> None:
        """Note which member this is."""
        self.client = client

    def _ask_to_say(self, hook: OnMessage, block: bytes) -> None:
        """Say one message as the program's hook lets it pass."""
        client, text = self.client, block[:-1].decode()
        answer = ask(self.connection.hub.spawn, lambda: hook(views.Client(client), text), "on_message")
        self.connection.wait(answer, lambda: self._say_as_passed(block, answer))

    def _say_as_passed(self, block: bytes, answer: Pending[object]) -> None:
        client = self.client
        if client.room is not None:
            try:
                block = passed(block, answer.result(), client.prepare)
                client.submit(Said(client.id, client.name, block, 1))
            except ChatError as error:  # no fault: the hook decides, or has made the text too long
                self.tell(code_and_detail(error)[1])

    def _rename(self, command: Command) -> None:
        renamed = self.client.ask_rename(command.argument)
        self.connection.wait(renamed, renamed.result)

    def _whisper(self, command: Command) -> None:
        delivered = self.client.ask_whisper(command.argument, command.text)
        self.connection.wait(delivered, delivered.result)

    def _list(self, command: Command) -> None:
        self._show_room("in")

    def _show_room(self, heading: str) -> None:
        assert self.client.room is not None
        self.tell(who_is_here(self.client.room, f"{heading} {self.client.room.name}"))

    def _rooms(self, command: Command) -> None:
        listed = self.connection.hub.room_list.page(None, LISTED)

        def show() -> None:
            rooms, count = listed.result()
            shown = ", ".join(f"{room.name} ({room.members:,})" for room in rooms)
            more = f" and {count - len(rooms):,} more" if count > len(rooms) else ""
            self.tell(f"rooms ({count:,}): {shown}{more}")

        self.connection.wait(listed, show)

    def _join(self, command: Command) -> None:
        before = self.client.room
        moved = self.connection.move(command.argument)

        def show() -> None:
            moved.result()
            self._show_room("you are already in" if self.client.room is before else "you are now in")

        self.connection.wait(moved, show)

    def _history(self, command: Command) -> None:
        asked = command.argument or str(_HISTORY)
        if asked.isascii() and asked.isdigit() and len(asked) <= 9:
            self.client.replay(int(asked))
        else:
            self.handle(BadCommand(f"/history takes a number of messages, not {asked[:32]!r}"))

    def _bye(self, command: Command) -> None:
        self.connection.wait(self.connection.kept(), self.connection.bye)

    def _help(self, command: Command) -> None:
        for line in help_lines():
            self.tell(line)


_HANDLERS: Final[Mapping[str, Callable[[TextProtocol, Command], None]]] = MappingProxyType(
    {
        "username": TextProtocol._rename,
        "msg": TextProtocol._whisper,
        "list": TextProtocol._list,
        "rooms": TextProtocol._rooms,
        "join": TextProtocol._join,
        "history": TextProtocol._history,
        "bye": TextProtocol._bye,
        "help": TextProtocol._help,
    }
)


def who_is_here(room: Room, heading: str) -> str:
    """Return the members of a room, sorted, at most `LISTED` of them, and their number."""
    names = room.first_members(LISTED)
    more = f" and {len(room) - len(names):,} more" if len(room) > len(names) else ""
    return f"{heading} ({len(room):,}): {', '.join(names)}{more}"


def _has_command(block: bytes) -> bool:
    return block.startswith((b"/", b"@")) or b"\n/" in block or b"\n@" in block
