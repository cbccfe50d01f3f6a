"""One room in a real Redis, and nodes that share it, without network or event loop: the test moves each request."""

from __future__ import annotations

import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import resp

from chatapi.brokers.redis import batches, scripts
from chatapi.brokers.redis.room import Node, SharedRoom, State
from chatapi.brokers.redis.scripts import Keys, Section
from chatapi.brokers.redis.turns import Claiming, Deleting, Releasing, Renaming, Saying
from chatapi.core.broker import Past
from chatapi.core.entries import REFUSED, AnyEntry, AnyKept, Arrived, Deletion, Departed, NameChanged, Said
from chatapi.core.names import OURS, name_key
from chatapi.core.session_keys import hash_key
from chatapi.errors import Refused
from chatapi.events import Whisper
from chatapi.limits import Keep, Limits
from chatapi.pending import Pending


class Line:
    """A connection to Redis that waits for every answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._stream = self._socket.makefile("rb")

    def tell(self, *words: str | bytes | int) -> None:
        found = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        request = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in found)
        self._socket.sendall(b"*%d\r\n" % len(found) + request)

    def hear(self) -> Any:
        return resp.read(self._stream)

    def ask(self, *words: str | bytes | int) -> Any:
        self.tell(*words)
        return self.hear()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Redis:
    """One room in a real Redis, and the messages published there."""

    def __init__(self, port: int) -> None:
        self.keys = Keys(secrets.token_hex(8), "dev", 0)
        self._line, self._told = Line(port), Line(port)
        self._script = self._line.ask("SCRIPT", "LOAD", scripts.source(scripts.ROOM))
        self._told.ask("SUBSCRIBE", self.keys.channel)

    def run(self, section: Section) -> tuple[Any, list[bytes]]:
        """Run the script; return its answer, and the messages that it has published."""
        command, keys, arguments, _ = section
        lengths = len(keys), len(arguments)
        [answer] = self._line.ask("EVALSHA", self._script, len(keys), *keys, command, *lengths, *arguments)
        self._told.tell("PING")
        published = []
        while (message := self._told.hear())[0] == b"message":
            published.append(message[2])
        return answer, published

    def kept(self) -> list[AnyKept]:
        """The log."""
        answer, _ = self.run(Section("page", self.keys.common(), [2**40, 10**6, 10**9]))
        return [entry for batch in answer[1] for entry in batches.kept_entries(batch)]

    def who(self) -> dict[str, tuple[str, str]]:
        """The roster: node and name by the name's key."""
        flat = self._line.ask("HGETALL", self.keys.common()[3])
        held = [value.decode().split(" ", 2) for value in flat[1::2]]
        return {key.decode(): (node, name) for key, (node, _, name) in zip(flat[::2], held, strict=True)}

    def counts(self) -> dict[str, int]:
        """How many members each node has."""
        flat = self._line.ask("HGETALL", self.keys.common()[0])
        found = zip(flat[::2], flat[1::2], strict=True)
        return {key[2:].decode(): int(number) for key, number in found if key.startswith(b"n:")}

    def _names(self) -> list[bytes]:
        found: list[bytes] = self._line.ask("KEYS", self.keys.common()[0].removesuffix("meta") + "*")
        return found

    def copy(self) -> dict[bytes, bytes]:
        return {name: self._line.ask("DUMP", name) for name in self._names()}

    def put_back(self, copy: dict[bytes, bytes]) -> None:
        """Forget everything since."""
        if names := self._names():
            self._line.ask("DEL", *names)
        for name, value in copy.items():
            self._line.ask("RESTORE", name, 0, value)

    def close(self) -> None:
        self.put_back({})
        self._line.close()
        self._told.close()


class Place:
    """A room of a chat, as long as it is open on one node: records its calls, and raises for wrong ones."""

    def __init__(self) -> None:
        self.seq = self.ts = 0
        self.log: dict[int, tuple[int, str, str]] = {}
        """ts, name and text by seq."""
        self.members: dict[str, tuple[str, str]] = {}
        """The members on this node: the name and the session, by key."""
        self.others: dict[str, str] = {}
        self.listed: set[str] | None = None
        """The members, for a client that got them at first and has followed the events since."""

    def begin(self, past: Past) -> None:
        """Take over the room as it was opened."""
        self.seq, self.ts = past.seq, past.ts
        for entry in past.tail:
            self._take(entry)
        if past.tail:
            last = past.tail[-1]
            assert last.seq + last.count - 1 == past.seq

    def append(self, entry: AnyEntry) -> None:
        """Append an entry; check that none is missing or comes twice."""
        if isinstance(entry, Said | Deletion):
            assert entry.seq == self.seq + 1, f"{entry.seq} follows {self.seq}"
            assert entry.ts > self.ts, "time does not grow"
            self._take(entry)
            self.seq, self.ts = entry.seq + entry.count - 1, entry.ts + entry.count - 1
            return
        assert entry.seq == self.seq
        if self.listed is None:
            return
        if isinstance(entry, Arrived):
            assert entry.name not in self.listed, f"{entry.name} came, and was there"
            self.listed.add(entry.name)
        elif isinstance(entry, Departed):
            assert entry.name in self.listed, f"{entry.name} left, and was not there"
            self.listed.discard(entry.name)
        else:
            assert entry.name in self.listed, f"{entry.name} is called {entry.to}, and was not there"
            self.listed.discard(entry.name)
            assert entry.to not in self.listed
            self.listed.add(entry.to)

    def _take(self, entry: AnyKept) -> None:
        for seq, ts, name, text in told(entry):
            assert seq not in self.log
            self.log[seq] = ts, name, text
        if isinstance(entry, Deletion) and entry.target in self.log:
            ts, name, _ = self.log[entry.target]
            self.log[entry.target] = ts, name, ""


def told(entry: AnyKept) -> Iterator[tuple[int, int, str, str]]:
    if isinstance(entry, Deletion):
        yield entry.seq, entry.ts, entry.name, f"deleted {entry.target}"
        return
    for i, text in enumerate(entry.texts()):
        yield entry.seq + i, entry.ts + i, entry.name, text


class Peer:
    """A node with the room: its requests and answers, and the `SharedRooms` that it calls."""

    def __init__(self, id_: str, redis: Redis, keep: Keep, numbers: Iterator[int], replicas: int) -> None:
        self.id, self.redis, self._numbers = id_, redis, numbers
        self.limits = Limits(announce=1000)
        self.node = Node(id_, self, "PUBLISH", keep, replicas, self._mark, self._forget)  # type: ignore[arg-type]
        self.inbox: deque[bytes] = deque()
        self.request: Section | None = None  # on its way to Redis
        self.answer: Any = None  # on its way back
        self.late: list[Section] = []  # requests in flight when a connection broke, which may arrive all the same
        self.connected = True
        self.place = Place()
        self.on_their_way: list[AnyKept] = []
        self.acknowledged: list[tuple[int, int, str, str]] = []  # seq, ts, name and text
        self.refused: set[str] = set()  # texts that must not be kept, because their authors were told so
        self.asked = 0  # claims and renames that are not answered
        self.renaming: set[str] = set()
        self.cuts = 0
        self.losses: set[str] = set()  # the codes with which members have lost their names
        self.closing: SharedRoom | None = None  # one without members, with a request on its way
        self.room: SharedRoom | None = None
        self._asking: SharedRoom | None = None  # whose the request or the answer is
        self.open()

    # As the broker and the chat do it

    def open(self) -> None:
        """Open the room for a member."""
        self.place = place = Place()
        self.room = room = SharedRoom("dev", "dev", secrets.token_hex(4), (4, 1 << 20), self.node, self.redis.keys)

        def opened(past: Pending[Past]) -> None:
            if past.error is None:
                place.begin(past.result())

        room.opened.then(opened)
        if self.closing is not None:
            self._forget(self.closing)

    def close(self) -> None:
        """Close the room after its last member."""
        assert self.room is not None
        room, self.room = self.room, None
        room.close()
        if room.busy and not room.is_closed:
            self.closing = room
        else:
            self._forget(room)

    def _forget(self, room: SharedRoom) -> None:
        room.state = State.CLOSED
        if room is self.room:
            self.room = None
        if room is self.closing:
            self.closing = None

    def _mark(self, room: SharedRoom) -> None:
        pass

    def say(self, said: Said) -> None:
        self.on_their_way.append(said)
        self._there.add(Saying(said))

    def delete(self, deletion: Deletion) -> None:
        self.on_their_way.append(deletion)
        self._there.add(Deleting(deletion))

    def claim(self, name: str, session: str) -> None:
        place, key = self.place, name_key(name)
        if key in place.members:
            return

        def claimed(claim: Pending[None]) -> None:
            if claim.error is None and self.place is place:
                place.members.setdefault(key, (name, session))
                place.others.pop(key, None)

        claiming = Claiming(name, hash_key(session), self.id, False, OURS)
        self._answers(claiming.settled, claimed)
        self._there.add(claiming)

    def release(self, key: str) -> None:
        del self.place.members[key]
        own = self._there.roster.local.pop(key, None)
        if own is not None:
            self._there.add(Releasing(key, own.name, own.session, "bye", False))

    def rename(self, key: str, to: str) -> None:
        name, session = self.place.members[key]
        if name == to or key in self.renaming or (name_key(to) in self.place.members and name_key(to) != key):
            return
        self.renaming.add(key)
        entry = NameChanged(1, name, to, quiet=False)
        renaming = Renaming(key, entry, hash_key(session), self.id, OURS)
        self._answers(renaming.settled, lambda _: self.renaming.discard(key))
        self._there.add(renaming)

    def _answers(self, settled: Pending[None], then: Callable[[Pending[None]], None]) -> None:
        self.asked += 1

        def answered(result: Pending[None]) -> None:
            self.asked -= 1
            then(result)

        settled.then(answered)

    @property
    def _there(self) -> SharedRoom:
        assert self.room is not None
        return self.room

    # The way to Redis and back

    def step(self, peers: Sequence[Peer]) -> None:
        """Do what the shard does next: send a request, have it reach Redis, receive the answer."""
        if not self.connected:
            self.connected = True
            self._lost()
        elif self.answer is not None:
            answer, self.answer = self.answer, None
            assert self._asking is not None
            self._asking.answered(answer)
            self._look()
        elif self.request is not None:
            section, self.request = self.request, None
            self.answer = self.run(section, peers)
        else:
            for room in (self.closing, self.room):
                if room is not None and self.request is None:
                    self._asking, self.request = room, room.next_section(next(self._numbers), 0)

    def is_done(self, peers: Sequence[Peer]) -> bool:
        """Hear everything and go on; whether there was nothing to do."""
        while self.inbox:
            self.hear_push()
        was_quiet = self.quiet
        self.step(peers)
        return was_quiet and self.quiet

    def run(self, section: Section, peers: Sequence[Peer]) -> Any:
        """A request reaches Redis."""
        answer, published = self.redis.run(section)
        assert answer[0] != b"error", answer
        for peer in peers:
            if peer.connected:
                peer.inbox.extend(published)
        return answer

    def hear_push(self) -> None:
        if self.inbox:
            batch = self.inbox.popleft()
            if self.room is not None:
                self.room.received(batch)
            self._look()

    def _look(self) -> None:
        """A client comes in as soon as it can."""
        if self.room is not None and self.room.state is State.LIVE and self.place.listed is None:
            place = self.place
            place.listed = {*place.others.values(), *(name for name, _ in place.members.values())}

    def break_off(self) -> None:
        self.connected, self.request, self.answer = False, None, None
        self.inbox.clear()
        self._lost()

    def _lost(self) -> None:
        for room in (self.closing, self.room):
            if room is not None:
                room.connection_lost()

    @property
    def quiet(self) -> bool:
        """Whether it has heard everything there is."""
        return self.connected and not (self.inbox or self.request or self.answer)

    # Called by the broker

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        for entry in entries:
            if ours:
                assert isinstance(entry, Said | Deletion)
                self._settled(entry)
                self.acknowledged += told(entry)
            self.place.append(entry)

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        for entry in entries:
            assert not entry.seq, "it had a place"
            self._settled(entry)
            entry.seq = REFUSED
            if isinstance(entry, Said) and reason.sure and entry.ids is None:
                self.refused.update(entry.texts())

    def already_sent(self, room: str, said: Said, seq: int, ts: int) -> None:
        self._settled(said)
        [text] = said.texts()
        self.acknowledged.append((seq, ts, said.name, text))

    def _settled(self, entry: AnyKept) -> None:
        at = [one is entry for one in self.on_their_way]
        assert any(at), "it was not on its way (any more)"
        del self.on_their_way[at.index(True)]

    def trimmed(self, room: str, first: int) -> None:
        pass

    def remote_member_changed(self, room: str, key: str, name: str) -> None:
        if name:
            self.place.others[key] = name
        else:
            self.place.others.pop(key, None)

    def member_renamed(self, room: str, key: str, name: str) -> None:
        if key in self.place.members:
            _, session = self.place.members.pop(key)
            self.place.members[name_key(name)] = name, session
        elif key in self.place.others:
            del self.place.others[key]
            self.place.others[name_key(name)] = name

    def name_lost(self, room: str, key: str, code: str) -> None:
        member = self.place.members.pop(key, None)
        if member is not None and code == "replaced":
            assert member[1], "replaced, and nobody can be back who has no session"
        self.losses.add(code)

    def disconnect_room(self, room: str) -> None:
        self.cuts += 1
        self.place.members.clear()
        self.close()

    def deliver_whisper(self, room: str, key: str, whisper: Whisper) -> str:
        raise AssertionError

    def wake(self) -> None:
        pass

    def availability_changed(self, rooms: Sequence[str], detail: str) -> None:
        raise AssertionError
