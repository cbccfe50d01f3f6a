"""How fast a member may speak and how much of it may be refused, each at its limit and one beyond it, on every path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ways import enter_by_telnet, frame, kit

from chatapi import Limits
from chatapi.core.entries import Said

# rate and burst: what counts as a line

COUNTED: dict[str, tuple[str, bytes]] = {
    "lines": ("text", b"hi\n"),
    "empty lines": ("text", b"\n"),
    "lines that are too long": ("text", b"x" * 100 + b"\n"),
    "lines that are not UTF-8": ("text", b"\xff\n"),
    "commands": ("text", b"/list\n"),
    "whispers": ("text", b"@Zoe hi\n"),
    "commands that are refused": ("text", b"/nonsense\n"),
    "lines by telnet": ("telnet", b"hi\r\n"),
    "messages": ("json", frame("message", text="hi").encode()),
    "messages with ids": ("json", frame("message", text="hi", id="1").encode()),
    "messages without a text": ("json", frame("message", text="").encode()),
    "whispers in JSON": ("json", frame("whisper", to="Zoe", text="hi").encode()),
    "other frames": ("json", frame("ping").encode()),
    "frames that are refused": ("json", frame("nonsense").encode()),
}
LIMITS = Limits(line_bytes=64, rate=10, burst=20, flood=1000)


class Speaker:
    """A member that says one thing again and again, then something that another one listens for."""

    def __init__(self, way: str, limits: Limits = LIMITS) -> None:
        self.chat = kit(limits)
        protocol, self._line = COUNTED[way]
        self._last = frame("message", text="that was all").encode() if protocol == "json" else b"that was all\n"
        self.zoe = self.chat.member("Zoe")
        telnet = protocol == "telnet"
        self.mina = enter_by_telnet(self.chat, "Mina") if telnet else self.chat.member("Mina", protocol=protocol)
        self.mina.received()

    def send(self, lines: int) -> None:
        """Send so many lines at once, and no last one."""
        self.mina.send(self._line * lines)
        self.hears_the_last()

    def send_with_the_last(self, lines: int) -> None:
        """Send so many lines at once, the last one of which is listened for."""
        self.mina.send(self._line * (lines - 1) + self._last)

    def hears_the_last(self) -> bool:
        """Whether that one has arrived by now."""
        self.mina.received()
        return "Mina:that was all" in self.zoe.lines()


@pytest.mark.parametrize("way", COUNTED)
def test_burst_at_the_limit(way: str) -> None:
    speaker = Speaker(way)
    speaker.send_with_the_last(20)
    assert speaker.hears_the_last()


@pytest.mark.parametrize("way", COUNTED)
def test_burst_one_beyond(way: str) -> None:
    """However long a member was silent: it saves up no more than the burst."""
    for rested in (0, 1000):
        speaker = Speaker(way)
        speaker.chat.wait(rested)
        speaker.send_with_the_last(21)
        assert not speaker.hears_the_last()
        speaker.chat.wait(0.25)
        assert speaker.hears_the_last()


@pytest.mark.parametrize("way", COUNTED)
def test_rate_at_the_limit(way: str) -> None:
    speaker = Speaker(way)
    speaker.send(20)
    speaker.send_with_the_last(10)
    speaker.chat.wait(1.05)
    assert speaker.hears_the_last()


@pytest.mark.parametrize("way", COUNTED)
def test_rate_one_beyond(way: str) -> None:
    speaker = Speaker(way)
    speaker.send(20)
    speaker.send_with_the_last(11)
    speaker.chat.wait(1.05)
    assert not speaker.hears_the_last()
    speaker.chat.wait(0.2)
    assert speaker.hears_the_last()


@pytest.mark.parametrize("way", COUNTED)
def test_a_rate_of_0_is_no_bound(way: str) -> None:
    speaker = Speaker(way, Limits(line_bytes=64, rate=0, burst=1, flood=5000, address_flood=5000))
    speaker.send_with_the_last(2000)
    assert speaker.hears_the_last()


# flood

REFUSED: dict[str, tuple[str, str]] = {
    "unknown commands": ("text", "/nonsense\n"),
    "commands without what they need": ("text", "/username\n"),
    "whispers to nobody": ("text", "@nobody hi\n"),
    "a name that cannot be": ("text", "/nick a:b\n"),
    "a name that is taken": ("text", "/nick Zoe\n"),
    "a room that cannot be": ("text", "/join a,b\n"),
    "a number that is none": ("text", "/history x\n"),
    "unknown commands by telnet": ("telnet", "/nonsense\r\n"),
    "nicknames that cannot be": ("nickname", "a:b\r\n"),
    "nicknames that are taken": ("nickname", "Zoe\r\n"),
    "unknown frames": ("json", frame("nonsense")),
    "no JSON": ("json", "nonsense\n"),
    "frames that are too large": ("json", frame("ping", ref="x" * 2000)),
    "empty messages": ("json", frame("message", text="")),
    "messages that are too long": ("json", frame("message", text="x" * 65)),
    "whispers to nobody in JSON": ("json", frame("whisper", to="nobody", text="hi")),
    "a name that cannot be, in JSON": ("json", frame("rename", to="a:b")),
    "a name that is taken, in JSON": ("json", frame("rename", to="Zoe")),
    "a room that cannot be, in JSON": ("json", frame("join", room="a,b")),
}


def refused(way: str, times: int, more: int = 0, pause: float = 0) -> bool:
    """Whether somebody is still there that was refused so often at once, and more often after a pause."""
    chat = kit(Limits(line_bytes=64, frame_bytes=1024, rate=0, flood=10))
    chat.member("Zoe")
    protocol, line = REFUSED[way]
    if protocol == "nickname":
        mina = chat.connect(telnet=True)
    elif protocol == "telnet":
        mina = enter_by_telnet(chat, "Mina")
    else:
        mina = chat.member("Mina", protocol=protocol)
    mina.send(line * times)
    chat.settle()
    chat.wait(pause)
    if more:
        mina.send(line * more)
    told = mina.received()
    assert mina.transport.ended == ("flood" in told)
    return not mina.transport.ended


@pytest.mark.parametrize("way", REFUSED)
def test_flood_at_the_limit(way: str) -> None:
    assert refused(way, 10)
    assert refused(way, 10, 3, pause=3)  # one a second is put up with


@pytest.mark.parametrize("way", REFUSED)
def test_flood_one_beyond(way: str) -> None:
    assert not refused(way, 11)
    assert not refused(way, 10, 4, pause=3)


# Who sends waits until the one that lags has caught up to a quarter of the log

LINE = "x" * 1000
LOG = Limits(rate=0, announce=0, log_bytes=1 << 20, grace=3600)


def test_senders_go_on_when_nobody_lags_by_more_than_a_quarter_of_the_log() -> None:
    chat = kit(LOG)
    mina, slow = chat.member("Mina"), chat.member("Slow", capacity=0)
    while mina.transport.reading:
        mina.send(f"{LINE}\n")
        chat.settle()
    weight = Said(1, "Mina", f"{LINE}\n".encode(), 1).weight
    client = slow.connection.client
    assert client is not None
    room = client.room
    assert room is not None
    lags = []
    while not mina.transport.reading:
        lags.append((room.log.head - client.position) * weight / LOG.log_bytes)
        slow.transport.take()
        slow.transport.capacity = 16 * len(LINE)
        chat.wait(0.1)  # those who lag are looked at
    went_on = (room.log.head - client.position) * weight / LOG.log_bytes
    assert lags[0] > 1 / 2
    assert any(1 / 4 < lag < 3 / 8 for lag in lags), "it was between the two, and the senders waited"
    assert min(lags) > 1 / 4 - 5 / 64  # a chunk of the log, and a quarter of one
    assert went_on <= 1 / 4


# Whispers


@pytest.mark.parametrize("protocol", ["text", "json"])
def test_a_whisper_is_not_echoed_to_a_sender_with_echo(protocol: str) -> None:
    chat = kit(Limits())
    mina, zoe = chat.member("Mina", protocol=protocol, echo=True), chat.member("Zoe")
    mina.received()
    whisper: Callable[[str], str] = {
        "text": "@Zoe {}\n".format,
        "json": lambda text: frame("whisper", to="Zoe", text=text, id="1"),
    }[protocol]
    mina.send(whisper("psst"))
    assert zoe.lines() == ["* Mina whispers: psst"]
    told = mina.lines()
    assert told == [] if protocol == "text" else len(told) == 1
    assert "psst" not in "".join(told)


def test_a_whisper_to_oneself_comes_once() -> None:
    chat = kit(Limits())
    for echo in (False, True):
        mina = chat.member("Mina", f"room{echo}", echo=echo)
        mina.send("@Mina note\n")
        assert mina.lines() == ["* Mina whispers: note"]
