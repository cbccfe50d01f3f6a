"""The promises of a room in Redis, for any faults between Redis and the nodes that share it.

A hypothesis state machine plays several nodes that have the same room, each with a `SharedRoom` and a chat that records
its calls. The script runs in a real Redis; the test decides which node asks next, which messages are lost, how
late each node receives a published message, which node is taken for dead, and how much Redis forgets.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import count
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from redis_rooms import Peer, Redis, told
from redis_servers import RedisServer, needs_redis

from chatapi.brokers.redis import room as shared
from chatapi.brokers.redis.room import State
from chatapi.core.entries import Deletion, Said
from chatapi.limits import Keep

pytestmark = needs_redis

NAMES = ["Mina", "Zoe", "Ann"]
ROUNDS = 1000
"""Round trips after which a node that still has something to ask always will."""


pick = st.integers(0, 2)


class Sharing(RuleBasedStateMachine):
    port: ClassVar[int]

    @initialize(nodes=st.sampled_from([2, 3]), keep=st.sampled_from([0, 0, 0, 6]), replicas=st.sampled_from([0, 0, 1]))
    def begin(self, nodes: int, keep: int, replicas: int) -> None:
        self.redis = Redis(self.port)
        numbers, bounds = count(1), Keep(messages=keep)
        self.peers = [Peer(f"node{i}", self.redis, bounds, numbers, replicas) for i in range(nodes)]
        self.texts: list[tuple[str, str]] = []  # ids and texts of messages that may be sent again
        self.said = 0
        self.copy: dict[bytes, bytes] = {}
        self.names_may_go = False
        """Whether a node was ever taken for dead, or something may have been done late or unheard."""
        self.has_lost = False
        """Whether Redis has ever lost something."""
        self.forgets = bool(keep)
        self.let_everything_through()
        for peer, name, session in zip(self.peers, NAMES, ["s1", "", ""], strict=False):
            peer.claim(name, session)
        self.let_everything_through()

    def peer(self, index: int) -> Peer:
        return self.peers[index % len(self.peers)]

    def there(self, index: int) -> Peer:
        """A node on which the room is open."""
        peer = self.peer(index)
        if peer.room is None:
            peer.open()
        if peer.place.listed is None:
            self.go_on(index)
        return peer

    # Actions of members

    @rule(i=pick, lines=st.sampled_from([1, 1, 3]))
    def say(self, i: int, lines: int) -> None:
        texts = [f"t{self.said + line}" for line in range(lines)]
        self.said += lines
        self.there(i).say(Said(1, "Zoe", "".join(f"{text}\n" for text in texts).encode(), lines))

    @rule(i=pick, again=st.sampled_from([0, 1, 1, 2, 5]))
    def say_with_id(self, i: int, again: int) -> None:
        if not 0 < again <= len(self.texts):
            again, self.said = 1, self.said + 1
            self.texts.append((f"i{self.said}", f"t-{self.said}"))
        id_, text = self.texts[-again]
        self.there(i).say(Said(1, "Mina", f"{text}\n".encode(), 1, (id_,), "s1"))

    @rule(i=pick, back=st.integers(0, 5))
    def delete(self, i: int, back: int) -> None:
        peer = self.there(i)
        target = max(1, peer.place.seq - back)
        if peer.place.log.get(target, (0, "", ""))[2].startswith("t"):
            peer.delete(Deletion("Mina", target))

    @rule(i=pick, name=st.sampled_from(NAMES), session=st.sampled_from(["", "s1", "s2"]))
    def come_in(self, i: int, name: str, session: str) -> None:
        self.there(i).claim(name, session)

    @rule(i=pick, which=pick)
    def leave(self, i: int, which: int) -> None:
        peer = self.there(i)
        if members := sorted(peer.place.members):
            peer.release(members[which % len(members)])

    @rule(i=pick, which=pick, to=st.sampled_from([*NAMES, "mina"]))
    def rename(self, i: int, which: int, to: str) -> None:
        peer = self.there(i)
        if members := sorted(peer.place.members):
            self.names_may_go = True
            peer.rename(members[which % len(members)], to)

    @rule(i=pick)
    def leave_for_good(self, i: int) -> None:
        peer = self.there(i)
        if not peer.on_their_way:
            for key in list(peer.place.members):
                peer.release(key)
            peer.close()

    # Events on the way to Redis and back

    @rule(i=pick, times=st.sampled_from([1, 2, 3, 3]))
    def step(self, i: int, times: int) -> None:
        """Do the next of these: send a request, have it reach Redis, receive the answer."""
        for _ in range(times):
            self.peer(i).step(self.peers)

    @rule(i=pick, most=st.sampled_from([1, 1, 100]))
    def hear(self, i: int, most: int) -> None:
        for _ in range(most):
            self.peer(i).hear_push()

    @rule(i=pick)
    def miss(self, i: int) -> None:
        """Lose a published message, but none that follows it."""
        if len(inbox := self.peer(i).inbox) > 1:
            del inbox[0]

    @rule(i=pick)
    def go_on(self, i: int) -> None:
        """Let this node work without faults for a while."""
        for _ in range(10):
            self.hear(i, 100)
            self.step(i, 3)

    @rule(i=pick, gives_up=st.booleans(), late=st.booleans())
    def break_off(self, i: int, gives_up: bool, late: bool) -> None:
        peer = self.peer(i)
        if late:
            peer.late += [peer.request] if peer.request is not None else []
        peer.break_off()
        if gives_up and peer.room is not None:
            peer.room.give_up("no answer")

    @rule(i=pick)
    def come_late(self, i: int) -> None:
        """A request that was on its way when the connection broke reaches Redis all the same."""
        peer = self.peer(i)
        if peer.late:
            self.names_may_go = True
            peer.run(peer.late.pop(0), self.peers)

    @rule(i=pick)
    def wait_for_replicas_in_vain(self, i: int) -> None:
        peer = self.peer(i)
        if peer.node.replicas and peer.answer is not None and peer.room is not None:
            peer.room.give_up("no replicas", sent=False)

    @rule(i=pick)
    def be_suspect(self, i: int) -> None:
        if (room := self.peer(i).room) is not None:
            room.suspect_dead()

    @rule(i=pick, of=pick)
    def take_for_dead(self, i: int, of: int) -> None:
        peer, other = self.there(i), self.peer(of)
        if other is not peer and peer.room is not None:
            peer.room.reap({other.id})
            self.names_may_go = True

    @rule()
    def save(self) -> None:
        self.copy = self.redis.copy()

    @rule(everything=st.sampled_from([False, False, True]))
    def lose(self, everything: bool) -> None:
        """Restart Redis with its last saved state, or empty."""
        self.has_lost = True
        self.redis.put_back({} if everything else self.copy)
        for peer in self.peers:
            peer.break_off()

    # Invariants

    @invariant()
    def names_are_unique(self) -> None:
        if not hasattr(self, "redis"):
            return
        who = self.redis.who()
        for peer in self.peers:
            if peer.quiet and peer.room is not None and peer.room.state is State.LIVE and not peer.room._buffered:
                here = {key: (peer.id, own.name) for key, own in peer.room.roster.local.items()}
                assert here.items() <= who.items(), f"{peer.id} has {here}, Redis {who}"

    def teardown(self) -> None:
        if not hasattr(self, "redis"):
            return
        try:
            if not sys.exc_info()[0]:
                self.let_everything_through()
                self.compare()
        finally:
            self.redis.close()

    def let_everything_through(self) -> None:
        for _ in range(ROUNDS):
            done = [peer.is_done(self.peers) for peer in self.peers]
            if all(done):
                return
        raise AssertionError("it never ends")

    def compare(self) -> None:
        kept = {seq: (ts, name, text) for entry in self.redis.kept() for seq, ts, name, text in told(entry)}
        oldest = min(kept, default=1)
        assert list(kept) == list(range(oldest, oldest + len(kept))), "a hole"
        texts = [text for _, _, text in kept.values() if text.startswith("t")]
        assert len(texts) == len(set(texts)), "something is there twice"
        who = self.redis.who()
        assert self.redis.counts() == Counter(node for node, _ in who.values())
        for peer in self.peers:
            assert not peer.on_their_way, "neither delivered nor refused"
            assert not peer.asked, "not answered"
            assert not peer.refused & set(texts), "refused, and there"
            assert peer.closing is None
            if not self.has_lost:
                assert self.names_may_go or peer.losses <= {"replaced"}, "a name was lost, and nothing had happened"
                assert not peer.cuts or self.forgets, "cut, and nothing was missing"
                for seq, ts, name, text in peer.acknowledged:
                    assert seq < oldest or kept[seq] in ((ts, name, text), (ts, name, "")), "acknowledged, and gone"
            if peer.room is not None:
                self.compare_with(peer, kept, who)
            elif not self.has_lost:  # or it may have lost that the name was given back
                assert peer.id not in self.redis.counts(), "a name stays behind"

    def compare_with(self, peer: Peer, kept: dict[int, tuple[int, str, str]], who: dict[str, tuple[str, str]]) -> None:
        assert peer.room is not None
        assert peer.room.state is State.LIVE
        place = peer.place
        assert place.seq == max(kept, default=0), "something is missing"
        for seq, (ts, name, text) in place.log.items():
            assert seq < min(kept) or kept[seq] == (ts, name, text)
        here = {key: (peer.id, name) for key, (name, _) in place.members.items()}
        assert here == {key: (peer.id, own.name) for key, own in peer.room.roster.local.items()}
        assert here == {key: held for key, held in who.items() if held[0] == peer.id}
        assert place.others == {key: name for key, (node, name) in who.items() if node != peer.id}
        assert place.listed == {name for _, name in who.values()}


@pytest.fixture(autouse=True)
def _redis(shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    Sharing.port = shared_redis.port
    # small enough to be exceeded now and then
    monkeypatch.setattr(shared, "_MISSED_BYTES", 300)
    monkeypatch.setattr(shared, "_MOST_BUFFERED", 5)


BRIEFLY = settings(max_examples=25, stateful_step_count=60, report_multiple_bugs=False, derandomize=True)


class TestSharing(Sharing.TestCase):  # type: ignore[name-defined, misc]
    settings = BRIEFLY


@pytest.mark.slow
class TestSharingAtLength(Sharing.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(BRIEFLY, max_examples=300)
