"""What the frames of the JSON protocol do, and how they are answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic_core import to_json

from ...core import views
from ...core.broker import RoomCount
from ...core.client import Client
from ...core.entries import Said
from ...core.history import read_page
from ...core.sessions import Kept
from ...errors import FrameError, NotDelivered, Refused, TextTooLong
from ...events import Message
from ...limits import LISTED
from ...pending import Pending
from ...server.asking import ask, blame, is_open, passed
from ...text import one_line
from ..parser import Lines
from ..text.handler import not_kept_as
from .frames import AskHistory, AskMembers, AskRooms, BadFrame, Bye, Frame, Move, Ping, Rename, Say, Tell
from .rendering import frame

if TYPE_CHECKING:
    from ...server.connection import Connection

_T = TypeVar("_T")
_TOLD: Final = ("line_bytes", "frame_bytes", "remember", "remember_ids", "reserve")
"""The limits that a client needs to know."""


def welcome(client: Client, recovered: bool | None = None, reason: str = "", **ref: Any) -> bytes:
    """The first frame that a member gets in a room: what it missed follows where `recovered`."""
    room, session = client.room, client.session
    assert room is not None
    assert session is not None
    return frame(
        "welcome",
        name=client.name,
        room=room.name,
        session=session.key,
        epoch=room.epoch,
        seq=room.seq,
        ts=room.ts,
        members=room.first_members(LISTED),
        count=len(room),
        recovered=recovered,
        **({"reason": reason} if reason else {}),
        limits={name: getattr(room.limits, name) for name in _TOLD},
        **ref,
    )


def take(connection: Connection, client: Client, asked: Frame | BadFrame | Lines) -> None:
    """Take a frame: do what it asks for, and answer it; or a run of messages that nobody asks about."""
    assert client.session is not None
    assert client.room is not None
    if isinstance(asked, Lines):
        connection.pace.spend(asked.cost)
        said = Said(client.id, client.name, asked.block, asked.messages, session=client.session.key)
        said.ack_tells = ()  # they are plain
        client.submit(said)
        return
    if isinstance(asked, Move | Bye) and client.waits:
        connection.hold(asked)  # the acks of what was said before it come first
        return
    if isinstance(asked, Move):
        if not client.ready_to_leave():
            connection.hold(asked)  # it would leave messages of this room behind
            return
        if not is_open(
            connection, client, asked.room, asked, lambda refused: _refuse(connection, client, asked, refused)
        ):
            return
    connection.pace.spend(1)
    if not _answer(connection, client, asked):
        connection.fault()


def _answer(connection: Connection, client: Client, asked: Frame | BadFrame) -> bool:
    """Do and answer; False where it was refused."""
    if isinstance(asked, BadFrame):
        _turn_down(client, asked, asked.code, asked.detail)
        return False
    try:
        _HANDLERS[type(asked)](connection, client, asked)
    except Refused as refused:
        code, detail = str(refused.code), refused.detail
    except NotDelivered as error:
        code, detail = FrameError.NOT_DELIVERED, str(error)
    except TextTooLong as error:
        code, detail = FrameError.TEXT_TOO_LONG, str(error)
    except _EmptyTextError:
        code, detail = FrameError.EMPTY_TEXT, "nothing is left of the text without control characters and empty lines"
    else:
        return True
    _turn_down(client, asked, code, detail)
    return False


def _refuse(connection: Connection, client: Client, asked: Frame, refused: Refused) -> None:
    _turn_down(client, asked, str(refused.code), refused.detail)
    blame(connection, refused)


def not_kept(connection: Connection, client: Client, said: Said, reason: Refused) -> None:
    """Tell a member that what it said was not kept."""
    detail = one_line(f"{not_kept_as(reason)}: {reason.detail}")
    for i in range(said.count):
        id_ = said.id_of(i)
        about = {} if id_ is None else {"id": id_}
        client.push(frame("error", code=reason.code, detail=detail, **about))


def already_sent(client: Client, said: Said) -> None:
    """Tell a member that it has said this before, as far as the room still holds it: with what was kept."""
    kept = None if client.room is None else client.room.log.message(said.seq, said.ts)
    sent = said.texts()[0] if "text" not in said.ack_tells else None
    client.push(_duplicate(client, said.id_of(0), said.seq, said.ts, kept, sent))


def _duplicate(
    client: Client, id_: str | None, seq: int | None, ts: int, kept: Message | None = None, sent: str | None = None
) -> bytes:
    """The answer to what was said before; `sent` is the text with which it was sent again."""
    differs: dict[str, str] = {}
    if kept is not None:
        if kept.name != client.name:
            differs["name"] = kept.name
        if kept.text != sent:
            differs["text"] = kept.text
    return frame("ack", id=id_, seq=seq, ts=ts, **differs, duplicate=True)


def _turn_down(client: Client, asked: Frame | BadFrame, code: str, detail: str) -> None:
    """Answer by an error, with the `id` or the `ref` of what it answers."""
    id_ = getattr(asked, "id", None)
    about = _ref(getattr(asked, "ref", None)) if id_ is None else {"id": id_}
    client.push(frame("error", code=code, detail=one_line(detail), **about))


class _EmptyTextError(Exception):
    pass


def _ref(ref: str | int | None) -> dict[str, Any]:
    return {} if ref is None else {"ref": ref}


def _say(connection: Connection, client: Client, asked: Say) -> None:
    session = client.session
    assert session is not None
    now = connection.hub.clock.monotonic()
    if asked.id is not None and (known := session.recall(asked.id, now)) is not None:
        said = known.said
        if said.seq:
            room = connection.hub.rooms.get(known.room)
            kept = None if room is None else room.log.message(said.seq, said.ts)
            client.push(_duplicate(client, asked.id, said.seq, said.ts, kept, asked.text))
        elif isinstance(said, Said):
            connection.hold_for(said, asked)
        return
    block = client.prepare(asked.text)
    if not block:
        raise _EmptyTextError
    hook = connection.hub.hooks.on_message
    if hook is None:
        _submit(client, asked, block, now)
        return
    text = block[:-1].decode()

    def say(result: object) -> None:
        if client.room is not None:
            try:
                said = passed(client, block, result)
            except TextTooLong as error:
                _turn_down(client, asked, FrameError.TEXT_TOO_LONG, str(error))
            else:
                _submit(client, asked, said, now)

    def refused(error: Refused) -> None:
        _turn_down(client, asked, error.code, error.detail)

    ask(connection, lambda: hook(views.Client(client), text), "on_message", say, refused)


def _submit(client: Client, asked: Say, block: bytes, now: float) -> None:
    assert client.session is not None
    id_ = asked.id
    said = Said(client.id, client.name, block, 1, None if id_ is None else (id_,), client.session.key)
    said.ack_tells = () if block[:-1] == asked.text.encode(errors="replace") else ("text",)
    if id_ is not None:
        client.session.remember(id_, said, now, "" if client.room is None else client.room.key)
    client.submit(said)


def _whisper(connection: Connection, client: Client, asked: Tell) -> None:
    if not client.prepare(asked.text):
        raise _EmptyTextError
    session, room, now = client.session, client.room, connection.hub.clock.monotonic()
    assert session is not None
    assert room is not None
    if asked.id is not None and (known := session.recall(_whispered(asked.id), now)) is not None:
        client.push(_duplicate(client, asked.id, None, known.said.ts))
        return
    ts = room.micros()

    def not_delivered(error: NotDelivered) -> None:
        _turn_down(client, asked, FrameError.NOT_DELIVERED, str(error))
        connection.fault()

    def delivered(_: None) -> None:
        if asked.id is not None:
            session.remember(_whispered(asked.id), Kept(0, ts), now)
        client.push(frame("ack", id=asked.id, seq=None, ts=ts))

    about = "" if asked.id is None else f"{session.key} {asked.id}"
    connection.wait_for(client.ask_whisper(asked.to, asked.text, about), delivered, not_delivered)


def _whispered(id_: str) -> str:
    return f"whisper {id_}"  # the ids of whispers are counted apart


def _rename(connection: Connection, client: Client, asked: Rename) -> None:
    _wait(connection, client, asked, client.ask_rename(asked.to, asked.ref), lambda _: None)


def _join(connection: Connection, client: Client, asked: Move) -> None:
    connection.move(asked.room)
    client.push(welcome(client, **_ref(asked.ref)))


def _members(connection: Connection, client: Client, asked: AskMembers) -> None:
    room = client.room
    assert room is not None
    names = room.first_members(asked.limit + 1, after=asked.after)
    client.push(_page("members", names, asked.limit, len(room), asked.ref, lambda name: name))


def _rooms(connection: Connection, client: Client, asked: AskRooms) -> None:
    after = None if asked.after is None else connection.hub.naming.room_key(asked.after)

    def answer(found: tuple[Sequence[RoomCount], int]) -> None:
        rooms, count = found
        listed = [{"name": room.name, "count": room.members} for room in rooms]
        client.push(_page("rooms", listed, asked.limit, count, asked.ref, lambda room: room["name"]))

    rooms = connection.hub.room_list
    _wait(connection, client, asked, rooms.page(after, asked.limit + 1), answer)


def _page(
    kind: str, found: list[Any], limit: int, count: int, ref: str | int | None, name: Callable[[Any], str]
) -> bytes:
    more = {"next": name(found[limit - 1])} if len(found) > limit else {}
    return frame(kind, **{kind: found[:limit]}, count=count, **more, **_ref(ref))


def _history(connection: Connection, client: Client, asked: AskHistory) -> None:
    room = client.room
    assert room is not None
    before = min(room.seq + 1, asked.before or room.seq + 1)
    most = min(asked.limit, room.limits.history)

    most_bytes = room.limits.lane_bytes

    def answer(page: tuple[list[Message], bool]) -> None:
        """Answer with as many of the newest messages as `lane_bytes` have room for, at least one."""
        messages, more = page
        left = most_bytes + 1 - len(frame("history", messages=[], more=False, **_ref(asked.ref)))
        listed: list[dict[str, Any]] = []
        for m in reversed(messages):
            shown = {"seq": m.seq, "ts": m.ts, "name": m.name, "text": m.text}
            left -= len(to_json(shown)) + 1
            if left < 0 and listed:
                more = True
                break
            listed.append(shown)
        answered = frame("history", messages=listed[::-1], more=more, **_ref(asked.ref))
        connection.shows_past(len(listed), len(answered))
        client.push(answered)

    broker = connection.hub.broker
    _wait(connection, client, asked, read_page(broker, room, before, most, most_bytes), answer)


def _wait(
    connection: Connection,
    client: Client,
    asked: Frame,
    pending: Pending[_T],
    then: Callable[[_T], None],
) -> None:
    """Go on with the value once it is there; a refusal is the answer to the frame."""
    connection.wait_for(pending, then, lambda refused: _refuse(connection, client, asked, refused))


def _ping(connection: Connection, client: Client, asked: Ping) -> None:
    client.push(frame("pong", **_ref(asked.ref)))


def _bye(connection: Connection, client: Client, asked: Bye) -> None:
    connection.bye()


_HANDLERS: Final[Mapping[type, Callable[[Any, Client, Any], None]]] = MappingProxyType(
    {
        Say: _say,
        Tell: _whisper,
        Rename: _rename,
        Move: _join,
        AskMembers: _members,
        AskRooms: _rooms,
        AskHistory: _history,
        Ping: _ping,
        Bye: _bye,
    }
)
