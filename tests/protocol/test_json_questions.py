"""The JSON protocol: members, rooms, history and pings."""

from __future__ import annotations

from typing import Any

import pytest
from speakers import Frame, crowd

from chatapi import Limits
from chatapi.testing import ChatKit


def test_members_can_be_paged_through() -> None:
    kit = ChatKit()
    names = [f"m{number:03}" for number in range(250)]
    for name in names:
        kit.member(name.upper() if name.endswith("7") else name)
    (mina,) = crowd(kit, "zoe")
    found: list[str] = []
    asked: dict[str, Any] = {}
    for page in range(1, 10):
        mina.send("members", ref=page, **asked)
        answer = mina.frame()
        assert (answer["type"], answer["ref"], answer["count"]) == ("members", page, 251)
        found += answer["members"]
        if "next" not in answer:
            break
        assert len(answer["members"]) == 100
        asked = {"after": answer["next"]}
    assert [name.lower() for name in found] == [*names, "zoe"]
    mina.send("members", after="M003", limit=2)
    assert mina.frame() == {"type": "members", "members": ["m004", "m005"], "count": 251, "next": "m005"}
    mina.send("members", after="m249", limit=1)
    assert mina.frame() == {"type": "members", "members": ["zoe"], "count": 251}
    mina.send("members", after="zzz")
    assert mina.frame() == {"type": "members", "members": [], "count": 251}


def test_rooms_can_be_paged_through() -> None:
    kit = ChatKit()
    (mina,) = crowd(kit, "Mina")
    for number in range(120):
        kit.member("a", f"R{number:03}")
    kit.member("b", "r001")
    gone = kit.member("a", "empty")
    gone.send("kept\n/bye\n")
    gone.received()
    mina.send("rooms", ref="x")
    first = mina.frame()
    assert (first["type"], first["ref"], first["count"], len(first["rooms"])) == ("rooms", "x", 121, 100)
    assert first["rooms"][:3] == [
        {"name": "dev", "count": 1},
        {"name": "R000", "count": 1},
        {"name": "R001", "count": 2},
    ]
    mina.send("rooms", after=first["next"])
    rest = mina.frame()
    assert "next" not in rest
    assert [room["name"] for room in rest["rooms"]] == [f"R{number:03}" for number in range(99, 120)]
    mina.send("rooms", after="r118", limit=1)
    assert mina.frame() == {"type": "rooms", "rooms": [{"name": "R119", "count": 1}], "count": 121}


@pytest.mark.parametrize("in_one_go", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 10, 25, 100])
def test_history_can_be_paged_through_to_the_beginning(limit: int, in_one_go: bool) -> None:
    kit = ChatKit(Limits(rate=0))
    (mina,) = crowd(kit, "Mina")
    ann = kit.member("Ann")
    if in_one_go:
        ann.send("".join(f"{n}\n" for n in range(1, 26)))
    else:
        for n in range(1, 26):
            ann.send(f"{n}\n")
            ann.send(f"/nick Ann{n}\n")
            kit.settle()
    live = [f for f in mina.frames() if f["type"] == "message"]
    found: list[Frame] = []
    asked: dict[str, Any] = {}
    for ref in range(30):
        mina.send("history", ref=ref, limit=limit, **asked)
        answer = mina.frame()
        assert (answer["type"], answer["ref"]) == ("history", ref)
        assert len(answer["messages"]) == min(limit, 25 - len(found))
        found = answer["messages"] + found
        if not answer["more"]:
            break
        asked = {"before": found[0]["seq"]}
    assert [{"type": "message", **message} for message in found] == live
    assert [message["seq"] for message in found] == list(range(1, 26))


@pytest.mark.parametrize(
    ("asked", "seqs", "more"),
    [
        ({}, range(37, 101), False),
        ({"limit": 64}, range(37, 101), False),
        ({"limit": 63}, range(38, 101), True),
        ({"before": 101, "limit": 2}, range(99, 101), True),
        ({"before": 102, "limit": 2}, range(99, 101), True),
        ({"before": 10**30, "limit": 2}, range(99, 101), True),
        ({"before": 100, "limit": 2}, range(98, 100), True),
        ({"before": 39, "limit": 2}, range(37, 39), False),
        ({"before": 38, "limit": 2}, range(37, 38), False),
        ({"before": 37}, (), False),
        ({"before": 20}, (), False),
        ({"before": 1}, (), False),
    ],
)
def test_the_newest_messages_before_a_seq_as_far_as_the_log_holds_them(
    asked: dict[str, Any], seqs: range, more: bool
) -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64))
    (mina,) = crowd(kit, "Mina")
    for n in range(100):
        mina.send("message", text=str(n + 1))
    mina.frames()
    mina.send("history", **asked)
    answer = mina.frame()
    assert ([m["seq"] for m in answer["messages"]], answer["more"]) == (list(seqs), more)
    assert all(m["text"] == str(m["seq"]) and m["name"] == "Mina" for m in answer["messages"])


@pytest.mark.parametrize("before", [None, 1, 2, 50])
def test_the_history_of_an_empty_room_and_of_a_server_that_shows_none(before: int | None) -> None:
    asked = {} if before is None else {"before": before}
    (mina,) = crowd(ChatKit(), "Mina")
    mina.send("history", **asked)
    assert mina.frame() == {"type": "history", "messages": [], "more": False}
    (mina,) = crowd(ChatKit(Limits(history=0)), "Mina")
    for _ in range(5):
        mina.send("message", text="x")
    mina.frames()
    mina.send("history", **asked)
    assert mina.frame() == {"type": "history", "messages": [], "more": False}, "whoever pages would never end"


@pytest.mark.parametrize("ref", ["r", "\u00e9", 5, 0, -1, None])
def test_a_ping_is_answered_with_its_ref(ref: str | int | None) -> None:
    (mina,) = crowd(ChatKit(), "Mina")
    mina.send("ping", ref=ref)
    assert mina.frame() == ({"type": "pong"} if ref is None else {"type": "pong", "ref": ref})
