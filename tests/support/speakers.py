"""Members of a `ChatKit` that speak the JSON protocol, for the tests of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatapi.testing import ChatKit, LateBroker, Peer

Frame = dict[str, Any]

BROKERS = pytest.mark.parametrize("late", [False, True], ids=["in-process", "late"])
CUTS = pytest.mark.parametrize("cut", ["reset", "end"])


class Speaker:
    """One connection that has sent a handshake for the JSON protocol, as seen from the client's side."""

    def __init__(self, kit: ChatKit, name: str = "Mina", room: str = "dev", *, capacity: int = 1 << 30, **fields: Any):
        self.kit = kit
        self.peer: Peer = kit.member(name, room, protocol="json", capacity=capacity, **fields)
        self.welcome: Frame = {}
        """The first welcome that `frames` or `opened` met."""

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002
        """Send one frame; it is read when the kit settles."""
        self.peer.send(json.dumps({"type": type, **fields}) + "\n")

    def frames(self) -> list[Frame]:
        """Everything that came since the last call, after the kit has settled."""
        text = self.peer.received()
        assert text == "" or text.endswith("\n"), "half a frame"
        frames = [json.loads(line) for line in text.split("\n")[:-1]]
        if not self.welcome and frames and frames[0]["type"] == "welcome":
            self.welcome = frames[0]
        return frames

    def frame(self) -> Frame:
        """The one frame that came since the last call."""
        frames = self.frames()
        assert len(frames) == 1, frames
        return frames[0]

    def opened(self) -> Speaker:
        """Itself, once its welcome has come, and nothing with it."""
        assert self.frame()["type"] == "welcome"
        return self

    @property
    def session(self) -> str:
        """The key of its session."""
        return str(self.welcome["session"])

    def resume(self, seq: int | None = None, ts: int | None = None, **other: Any) -> Frame:
        """What it would show to come back: where its welcome stood, or the `seq` and `ts` given."""
        at = {"epoch": self.welcome["epoch"], "seq": self.welcome["seq"], "ts": self.welcome["ts"]}
        if seq is not None:
            at |= {"seq": seq, "ts": ts}
        return {**at, "session": self.session, **other}

    def cut(self, how: str) -> None:
        """Lose the connection: a ``reset``, or the ``end`` of this side's stream without a goodbye."""
        if how == "reset":
            self.peer.transport.reset()
        else:
            self.peer.end()
        self.kit.settle()


def chat(late: bool, *arguments: Any, **options: Any) -> ChatKit:
    """A kit over the in-process or the late broker."""
    return ChatKit(*arguments, broker=LateBroker, **options) if late else ChatKit(*arguments, **options)


def release(kit: ChatKit, most: int | None = None) -> None:
    """Let what waits in the late broker be delivered, if this kit has one."""
    kit.settle()
    if isinstance(kit.broker, LateBroker):
        kit.broker.release(most)
    kit.settle()


def nothing_is_left(kit: ChatKit) -> bool:
    """Whether everybody leaves, all time passes, and no room, timer, session or connection is left behind."""
    for peer in kit.peers:
        if not peer.transport.closed:
            peer.end()
    release(kit)
    kit.wait(7)  # the grace of who did not say goodbye
    release(kit)
    kit.clock.turn(10_000)  # the memory of sessions and of rooms
    for _ in range(3):
        kit.wait(0.2)
        release(kit)
    hub = kit.hub
    return not (hub.connections or hub.rooms or hub.timers or len(hub.sessions))


def types(frames: list[Frame]) -> list[str]:
    return [frame["type"] for frame in frames]


def stream(frames: list[Frame]) -> list[tuple[str, int, str | None]]:
    """The messages and acks at their place: what kind, their seq, and the text or the id."""
    return [
        (f["type"], f["seq"], f["text"] if f["type"] == "message" else f["id"])
        for f in frames
        if f["type"] in ("message", "ack") and f["seq"] is not None and "duplicate" not in f
    ]


def crowd(kit: ChatKit, *names: str, **fields: Any) -> list[Speaker]:
    """JSON members of one room, with everything read that their coming brought."""
    speakers = [Speaker(kit, name, **fields) for name in names]
    release(kit)
    for speaker in speakers:
        assert speaker.frames()[0]["type"] == "welcome"
    return speakers


def texts(frames: list[Frame]) -> list[tuple[str, int, str]]:
    """The messages and acks among the frames: what kind, their seq, and the text or the id."""
    return [(f["type"], f["seq"], f.get("text", f.get("id"))) for f in frames if f["type"] in ("message", "ack")]


def refusal(speaker: Speaker) -> Frame:
    frame = speaker.frame()
    assert frame["type"] == "error"
    assert frame["detail"]
    return frame


def pair(kit: ChatKit, **fields: Any) -> tuple[Speaker, Speaker]:
    """Mina and Zoe in one room, each with its welcome read and nothing else to read."""
    mina = Speaker(kit, "Mina", **fields)
    release(kit)
    mina.opened()
    zoe = Speaker(kit, "Zoe")
    release(kit)
    zoe.opened()
    assert mina.frame() == {"type": "joined", "seq": 0, "name": "Zoe"}
    return mina, zoe
