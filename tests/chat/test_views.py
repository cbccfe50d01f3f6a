"""What a program sees of rooms and members: views, which lead to nothing that is not meant for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatapi import ChatAPI, Client, Hooks
from chatapi.core import views
from chatapi.testing import ChatKit


def public(view: object) -> dict[str, Any]:
    return {name: getattr(view, name) for name in dir(view) if not name.startswith("_")}


def test_a_hook_that_is_asked_about_a_message_does_not_see_the_key_of_the_session() -> None:
    seen: list[Client] = []
    kit = ChatKit(hooks=Hooks(on_message=lambda client, text: seen.append(client)))
    mina = kit.member("Mina", protocol="json", address="10.1.2.3:4")
    key = json.loads(mina.lines()[0])["session"]
    mina.send('{"type":"message","text":"hello"}\n')
    kit.settle()
    [client] = seen
    assert public(client).keys() == {"id", "name", "room", "address", "post", "whisper", "rename", "disconnect"}
    assert (client.name, client.address) == ("Mina", "10.1.2.3")
    assert key not in repr(public(client)) + repr(client)


@pytest.mark.anyio
async def test_views_of_one_member_are_equal_and_those_of_others_are_not() -> None:
    chat = ChatAPI()
    async with chat.join("Mina", "dev") as mina, chat.join("Zoe", "dev") as zoe, chat.join("Ann", "lab") as ann:
        dev, lab = chat.rooms
        assert dev.members == [mina.client, zoe.client]
        assert dev.member("MINA") == mina.client
        assert mina.client != zoe.client
        assert mina.client != "Mina"
        assert {mina.client: 1}[dev.members[0]] == 1
        assert mina.room == zoe.client.room == dev == chat.room("Dev")
        assert {dev: 1, lab: 2}[chat.rooms[1]] == 2
        assert ann.room == lab != dev
        assert "dev" not in (dev, lab)
        assert repr(dev) == "<Room 'dev', 2 members>"
        assert repr(mina.client) == "<Client 'Mina' in 'dev'>"
        mina.leave()
        assert mina.room is None
        assert dev.members == [zoe.client]


def test_the_view_of_a_room_shows_what_happens_in_it() -> None:
    kit = ChatKit()
    mina = kit.member("Mina", "Dev")
    room = views.Room(kit.hub.rooms["dev"])
    assert (room.name, room.seq, room.ts, len(room), bool(room)) == ("Dev", 0, 0, 1, True)
    mina.send("hello\n")
    kit.settle()
    [said] = room.history(10)
    assert (said.name, said.text) == ("Mina", "hello")
    assert (room.seq, room.ts) == (said.seq, said.ts)
    assert room.first_members(10) == ["Mina"]
    mina.send("/bye\n")
    kit.settle()
    assert (len(room), bool(room), room.members) == (0, True, [])
