"""Members are told that Redis does not answer; a node that stands still for long loses names that others take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from executables import Peer, Server, handshake
from redis_nodes import program, stopped
from redis_servers import RedisServer, needs_redis

from chatapi.errors import DISCONNECTS

pytestmark = [
    needs_redis,
    pytest.mark.slow,
    pytest.mark.parametrize("loop", ["asyncio", pytest.param("trio", marks=pytest.mark.long)]),
]


@contextmanager
def two_servers(redis: RedisServer, loop: str, *, lease: float, patience: float) -> Iterator[tuple[Server, Server]]:
    """Two servers of one chat."""
    one, other = (Server("-redis", redis.url, argv=program(loop, lease, patience)) for _ in range(2))
    with one, other:
        yield one, other


class Frames:
    """The frames that one connection of the JSON protocol gets."""

    def __init__(self, server: Server, name: str) -> None:
        self._peer: Peer = server.member(name, "dev", protocol="json")
        self.counts: Counter[tuple[str, str]] = Counter()
        """The number of frames, by type and name."""

    def say(self, kind: str, **fields: Any) -> None:
        """Send a frame."""
        self._peer.send(json.dumps({"type": kind, **fields}) + "\n")

    def hear(self, kind: str) -> dict[str, Any]:
        """Return the next frame of a type; frames before it are only counted."""
        while True:
            frame: dict[str, Any] = json.loads(self._peer.line())
            self.counts[frame["type"], frame.get("name", "")] += 1
            if frame["type"] == kind:
                return frame

    def members(self) -> list[str]:
        """Ask for the members."""
        self.say("members")
        return list(self.hear("members")["members"])


def test_members_stay_and_are_told_while_redis_is_away(redis: RedisServer, loop: str) -> None:
    with two_servers(redis, loop, lease=10, patience=0.5) as (one, other):
        al, tess = Frames(one, "Al"), other.member("Tess", "dev")
        redis.kill()
        assert al.hear("notice")["code"] == "unavailable"
        assert tess.line().startswith("* ")
        for server in (one, other):
            server.says("cannot be used")
        al.say("message", id="1", text="is anybody there?")
        refused = al.hear("error")
        assert (refused["id"], refused["code"]) == ("1", "unavailable")
        tess.send("hello?\n")
        assert "not kept" in tess.line()
        stranger = other.connect()
        stranger.send(handshake("Cy", "dev"))
        assert stranger.refusal()["code"] == "unavailable"
        redis.start()
        assert al.hear("notice")["code"] == "available"
        assert tess.line().startswith("* ")
        for server in (one, other):
            server.says("answers again")
        al.say("message", id="1", text="is anybody there?")
        assert al.hear("ack")["seq"] == 1
        assert tess.line() == "Al:is anybody there?"
        tess.send("yes\n")
        assert al.hear("message")["text"] == "yes"
        assert al.members() == ["Al", "Tess"]


def test_a_node_that_stood_still_for_too_long_loses_the_names_that_others_took_and_no_others(loop: str) -> None:
    with RedisServer() as redis, two_servers(redis, loop, lease=4, patience=3) as (one, other):
        al, cy, tess = Frames(one, "Al"), Frames(one, "Cy"), one.member("Tess", "dev")
        bo = Frames(other, "Bo")
        with stopped(one.process.pid):
            assert {bo.hear("left")["name"] for _ in range(3)} == {"Al", "Cy", "Tess"}
            assert bo.members() == ["Bo"]
            new_al, _ = Frames(other, "Al"), other.member("Tess", "dev")
            new_al.say("message", text="I am Al now")
        bye = al.hear("bye")
        assert (bye["code"], bye["reconnect"]) == ("name_lost", True)
        *_, last = tess.rest().decode().splitlines()
        assert last.startswith("* ")
        assert DISCONNECTS["name_lost"].detail in last
        assert cy.hear("message")["text"] == "I am Al now"
        cy.say("message", text="and I am still Cy")
        for member in (new_al, bo):
            while member.hear("message")["name"] != "Cy":
                pass
        assert cy.members() == bo.members() == new_al.members() == ["Al", "Bo", "Cy", "Tess"]
        told = {about: times for about, times in bo.counts.items() if about[0] in ("left", "joined")}
        once = {
            ("left", "Al"),
            ("left", "Cy"),
            ("left", "Tess"),
            ("joined", "Al"),
            ("joined", "Tess"),
            ("joined", "Cy"),
        }
        assert told == dict.fromkeys(once, 1)
