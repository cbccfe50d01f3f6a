"""The JSON protocol after the opening: each line is a frame that asks for something, and is answered by frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias, TypeGuard

from ...core import views
from ...core.client import Client
from ...core.entries import REFUSED, Said
from ...core.history import read_page
from ...core.hooks import OnMessage, ask, passed
from ...core.remembered import Remembered
from ...core.sessions import Session
from ...core.style import Style
from ...errors import ChatError, FrameError, Refused
from ...pending import Pending
from ...text import cut_lines
from ..connection_protocol import ConnectionProtocol, Conversation, code_and_detail, not_kept_as
from ..framing import LineTooLong, ReceiveBuffer, largest_run
from .frames import (
    AskHistory,
    AskMembers,
    AskRooms,
    BadFrame,
    Bye,
    Frame,
    Messages,
    Move,
    Ping,
    Rename,
    Say,
    Tell,
    is_plain,
    may_be_alike,
    parse_alike,
    parse_frame,
)
from .rendering import JSON, already_sent, error_frame, frame, history_page, page, ref_of, welcome

_BLANKS: Final = b" \t\r\n"
_BLANK_LINES: Final = re.compile(rb"(?:[ \t\r]{0,64}\n)+")  # short ones, at C speed: longer ones may be too long
_WHISPER: Final = "whisper ".rjust(65)
"""Put before the id of a whisper, because the ids of whispers and messages are counted apart. It is longer than any id
of a message (`frames.Id`), so that no message can have such an id."""

Step: TypeAlias = Frame | BadFrame | Messages


class JsonProtocol(ConnectionProtocol):
    """A member that sends and reads frames."""

    __slots__ = ("_one_by_one", "client", "session")

    resumable: ClassVar[bool] = True
    style: Style = JSON

    client: Client
    session: Session[Client]

    def __init__(self, connection: Conversation, received: ReceiveBuffer | None = None) -> None:
        super().__init__(connection, received)
        self._one_by_one = 0  # frames that are parsed one by one, because some of them have ids that were used before

    # Parsing

    def next_step(self, most: int) -> Step | None:
        """Return the next frame, or a run of at most `most` plain messages, which are new if they have ids."""
        received, limits = self.received, self.connection.hub.limits
        while True:
            try:
                if not (last := received.lines_end(limits.frame_bytes)):
                    return None
            except LineTooLong as error:
                return self._too_large(error.size)
            several = received.data.find(b"\n", received.at) + 1 < last
            if several and most > 1 and (alike := self._frames_alike(last, most)) is not None:
                return alike
            if blank := _BLANK_LINES.match(received.data, received.at):
                received.wasted += blank.end() - received.at
                received.advance(blank.end())
            end = received.data.find(b"\n", received.at)
            if end < 0:
                continue
            line = received.data[received.at : end].removesuffix(b"\r")
            received.advance(end + 1)
            if len(line) > limits.frame_bytes:
                received.lines += 1
                return self._too_large(len(line))
            if stripped := line.strip(_BLANKS):
                received.lines += 1
                asked = parse_frame(stripped)
                return self._run(asked, most) if most > 1 and self._is_plain(asked) else asked
            received.wasted += len(line) + 1

    def _too_large(self, size: int) -> BadFrame:
        most = self.connection.hub.limits.frame_bytes
        return BadFrame(FrameError.FRAME_TOO_LARGE, f"the frame has {size:,} bytes; at most {most:,} are allowed")

    @property
    def _runs_have_ids(self) -> bool:
        """Whether messages with ids may be one run: where servers share the rooms, only the broker knows all ids."""
        return self.connection.hub.broker.presence is None

    def _is_plain(self, asked: Frame | BadFrame) -> TypeGuard[Say]:
        """Return whether this is a message that may be a part of a run."""
        if not is_plain(asked, self.connection.hub.limits.line_bytes):
            return False
        return asked.id is None or (self._runs_have_ids and self.session.is_new(asked.id))

    def _run(self, first: Say, most: int) -> Messages:
        """Return this message and the plain ones right behind it, which have ids too or have none either."""
        received, limits = self.received, self.connection.hub.limits
        ids = {} if first.id is None else {first.id: None}
        if not received.data:
            return Messages(first.text.encode() + b"\n", 1, tuple(ids), 0)
        texts = [first.text]
        most, most_bytes = largest_run(limits, most)
        data, at = received.data, received.at
        stop = at + most_bytes
        while len(texts) < most and at < stop:
            end = data.find(b"\n", at)
            if not 0 <= end - at <= limits.frame_bytes:
                break
            asked = parse_frame(data[at:end].strip(_BLANKS))
            if not self._is_plain(asked) or bool(asked.id) != bool(ids) or asked.id in ids:
                break
            texts.append(asked.text)
            if asked.id is not None:
                ids[asked.id] = None
            at = end + 1
        received.advance(at)
        received.lines += len(texts) - 1
        return Messages("\n".join([*texts, ""]).encode(), len(texts), tuple(ids), at)

    def _frames_alike(self, last: int, most: int) -> Messages | None:
        """Return the plain messages in the next frames, if these are alike and not just a few.

        `last` is the end of the last whole line.
        """
        received, limits = self.received, self.connection.hub.limits
        if self._one_by_one:
            self._one_by_one -= 1
            return None
        start = received.at
        if not may_be_alike(received.data, start, last, ids=self._runs_have_ids):
            return None
        most, most_bytes = largest_run(limits, most)
        run = parse_alike(received.data, start, min(most_bytes, limits.frame_bytes, limits.line_bytes), most)
        if run is None:
            return None
        if run.ids and (new := self.session.count_new(run.ids)) < run.number:
            self._one_by_one = run.number - new
            if not new:
                return None
            end = start + len(cut_lines(received.data[start : run.end], new))
            run = Messages(cut_lines(run.block, new), new, run.ids[:new], end)
        received.advance(run.end)
        received.lines += run.number
        return run

    # Handling

    def joined(self, client: Client) -> None:
        """Note which member this is, and its session."""
        assert client.session is not None
        self.client, self.session = client, client.session

    def welcome(self, client: Client, recovered: bool | None, reason: str) -> bytes:
        """Render a `welcome`."""
        return welcome(client, recovered, reason)

    def handle(self, step: Step) -> None:
        """Do what a frame asks for, and answer it; or say a run of messages."""
        if isinstance(step, Messages):
            self._submit(step.block, step.number, step.ids, self.connection.hub.clock.monotonic())
        elif isinstance(step, BadFrame):
            self._answer_error(step, step.code, step.detail)
            self.connection.fault()
        else:
            try:
                _HANDLERS[type(step)](self, step)
            except ChatError as error:
                self._fail(step, error)

    def refuse(self, error: ChatError) -> None:
        """Never called: `handle` answers each error, with the id or the ref of the frame that caused it."""
        raise error

    def _wait(self, asked: Frame, pending: Pending[Any], then: Callable[[], None]) -> None:
        """Call `then` once the result is there; an error that it raises is the answer to the frame."""

        def go_on() -> None:
            try:
                then()
            except ChatError as error:
                self._fail(asked, error)

        self.connection.wait(pending, go_on)

    def _fail(self, asked: Frame, error: ChatError) -> None:
        """Answer a frame by an error, and count that as a fault of the member's, if it is."""
        self._answer_error(asked, *_code_and_detail(error))
        self.blame(error)

    def _answer_error(self, asked: Frame | BadFrame, code: str, detail: str) -> None:
        self.client.push(error_frame(code, detail, getattr(asked, "id", None), getattr(asked, "ref", None)))

    def not_kept(self, said: Said, reason: Refused) -> None:
        """Answer each message by an `error`."""
        detail = f"{not_kept_as(reason)}: {reason.detail}"
        for i in range(said.count):
            self.client.push(error_frame(reason.code, detail, said.id_of(i)))

    def already_sent(self, said: Said) -> None:
        """Answer by an `ack` with what was kept, as far as the room still holds it."""
        kept = None if self.client.room is None else self.client.room.log.message(said.seq, said.ts)
        sent = said.texts()[0] if "text" not in said.ack_tells else None
        self.client.push(already_sent(self.client.name, said.id_of(0), said.seq, said.ts, kept, sent))

    def _say(self, asked: Say) -> None:
        client, hub = self.client, self.connection.hub
        now = hub.clock.monotonic()
        if asked.id is not None and (known := self.session.recall(asked.id, now)) is not None:
            if (said := known.pending) is not None:
                self.connection.wait(said.when_settled(), lambda: self._say_again(asked))
                return
            (seq, ts), room = known.place(asked.id), hub.rooms.get(known.room)
            kept = None if room is None else room.log.message(seq, ts)
            client.push(already_sent(client.name, asked.id, seq, ts, kept, asked.text))
            return
        block = client.prepare(asked.text)
        if not block:
            raise _EmptyTextError
        if (hook := hub.hooks.on_message) is None:
            self._submit_one(asked, block, now)
        else:
            self._ask_to_say(hook, asked, block, now)

    def _say_again(self, asked: Say) -> None:
        """Answer a message whose copy was settled behind the answers to the member's messages between the two."""
        self.connection.wait(self.connection.kept(), lambda: self.handle(asked))

    def _ask_to_say(self, hook: OnMessage, asked: Say, block: bytes, now: float) -> None:
        """Say a message as the program's hook lets it pass."""
        client, text = self.client, block[:-1].decode()
        answer = ask(self.connection.hub.spawn, lambda: hook(views.Client(client), text), "on_message")

        def say() -> None:
            if client.room is not None:
                try:
                    self._submit_one(asked, passed(block, answer.result(), client.prepare), now)
                except ChatError as error:  # no fault: the hook decides, or has made the text too long
                    self._answer_error(asked, *_code_and_detail(error))

        self.connection.wait(answer, say)

    def _submit_one(self, asked: Say, block: bytes, now: float) -> None:
        tells = () if block[:-1] == asked.text.encode(errors="replace") else ("text",)
        self._submit(block, 1, () if asked.id is None else (asked.id,), now, tells)

    def _submit(self, block: bytes, count: int, ids: tuple[str, ...], now: float, tells: tuple[str, ...] = ()) -> None:
        """Say messages, and remember their ids. `tells` are the fields in which they differ from what was sent."""
        client, room = self.client, self.client.room
        said = Said(client.id, client.name, block, count, ids or None, self.session.key)
        said.ack_tells = tells
        client.submit(said)
        if ids and room is not None and said.seq != REFUSED:
            on_its_way = said if said.pending else None
            self.session.remember(Remembered(ids, said.seq, said.ts, now, room.key, on_its_way))

    def _whisper(self, asked: Tell) -> None:
        client, session, now = self.client, self.session, self.connection.hub.clock.monotonic()
        if not client.prepare(asked.text):
            raise _EmptyTextError
        if asked.id is not None and (known := session.recall(_WHISPER + asked.id, now)) is not None:
            client.push(already_sent(client.name, asked.id, None, known.ts))
            return
        assert client.room is not None
        ts = client.room.micros()
        about = "" if asked.id is None else f"{session.key} {asked.id}"
        delivered = client.ask_whisper(asked.to, asked.text, about)

        def acknowledge() -> None:
            delivered.result()
            if asked.id is not None:
                session.remember(Remembered((_WHISPER + asked.id,), 0, ts, now))
            client.push(frame("ack", id=asked.id, seq=None, ts=ts))

        self._wait(asked, delivered, acknowledge)

    def _rename(self, asked: Rename) -> None:
        renamed = self.client.ask_rename(asked.to, asked.ref)
        self._wait(asked, renamed, renamed.result)

    def _join(self, asked: Move) -> None:
        moved = self.connection.move(asked.room)

        def greet() -> None:
            moved.result()
            self.client.push(welcome(self.client, None, "", **ref_of(asked.ref)))

        self._wait(asked, moved, greet)

    def _members(self, asked: AskMembers) -> None:
        room = self.client.room
        assert room is not None
        names = room.first_members(asked.limit + 1, after=asked.after)
        self.client.push(page("members", names, asked.limit, len(room), asked.ref, lambda name: name))

    def _rooms(self, asked: AskRooms) -> None:
        hub = self.connection.hub
        after = None if asked.after is None else hub.naming.room_key(asked.after)
        listed = hub.room_list.page(after, asked.limit + 1)

        def answer() -> None:
            rooms, count = listed.result()
            shown = [{"name": room.name, "count": room.members} for room in rooms]
            self.client.push(page("rooms", shown, asked.limit, count, asked.ref, lambda room: room["name"]))

        self._wait(asked, listed, answer)

    def _history(self, asked: AskHistory) -> None:
        room = self.client.room
        assert room is not None
        before = min(room.seq + 1, asked.before or room.seq + 1)
        most, most_bytes = min(asked.limit, room.limits.history), room.limits.lane_bytes
        read = read_page(self.connection.hub.broker, room, before, most, most_bytes)

        def answer() -> None:
            shown, messages = history_page(*read.result(), most_bytes, asked.ref)
            self.connection.shows_past(messages, len(shown))
            self.client.push(shown)

        self._wait(asked, read, answer)

    def _ping(self, asked: Ping) -> None:
        self.client.push(frame("pong", **ref_of(asked.ref)))

    def _bye(self, asked: Bye) -> None:
        self.connection.wait(self.connection.kept(), self.connection.bye)  # the acks of what was said come first


_HANDLERS: Final[Mapping[type, Callable[[JsonProtocol, Any], None]]] = MappingProxyType(
    {
        Say: JsonProtocol._say,
        Tell: JsonProtocol._whisper,
        Rename: JsonProtocol._rename,
        Move: JsonProtocol._join,
        AskMembers: JsonProtocol._members,
        AskRooms: JsonProtocol._rooms,
        AskHistory: JsonProtocol._history,
        Ping: JsonProtocol._ping,
        Bye: JsonProtocol._bye,
    }
)


class _EmptyTextError(ChatError):
    """Nothing is left of a text."""


def _code_and_detail(error: ChatError) -> tuple[str, str]:
    if isinstance(error, _EmptyTextError):
        return FrameError.EMPTY_TEXT, "the text is empty, or has only control characters and empty lines"
    return code_and_detail(error)
