"""Under any schedule of cuts: what was acknowledged is received by every lasting member, once, in one order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from serving import served

from chatapi import Address, ChatAPI, Connection, Gap, Limits, Lost, Message, Recovered, Welcome, connect
from chatapi.testing import Plan, Proxy

BACKENDS = [("asyncio", {}), ("trio", {})]


@dataclass
class Heard:
    """What one member saw."""

    messages: list[Message] = field(default_factory=list)
    acknowledged: list[Message] = field(default_factory=list)
    lost: int = 0
    recovered: int = 0
    gaps: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What a whole run came to."""

    order: list[Message]
    members: list[Heard]
    cuts: int


async def talk(plans: list[Plan], members: int, each: int) -> Outcome:
    """So many members say so many texts each, over connections that break as planned."""
    chat = ChatAPI(Limits(rate=0, flood=10_000))
    heard = [Heard() for _ in range(members)]
    order: list[Message] = []
    here = 0
    all_here = anyio.Event()
    async with served(chat) as doors:
        proxy = Proxy(doors["text"], plans)
        async with proxy.open(), chat.join("observer", "dev") as observer:

            async def observe() -> None:
                async for event in observer:
                    if isinstance(event, Message):
                        order.append(event)
                        if len(order) == members * each:
                            return

            async def member(number: int) -> None:
                mine = heard[number]

                async def send(texts: list[str]) -> None:
                    for text in texts:
                        mine.acknowledged.append(await room.send(text))

                async with (
                    connect(proxy.address, name=f"m{number}", room="dev", backoff=0.002, backoff_cap=0.02) as room,
                    anyio.create_task_group() as senders,
                ):
                    nonlocal here
                    here += 1
                    if here == members:
                        all_here.set()
                    await all_here.wait()
                    texts = [f"{number}.{i}" for i in range(each)]
                    for lane in range(4):  # several are on their way at once
                        senders.start_soon(send, texts[lane::4])
                    async for event in room:
                        if isinstance(event, Message):
                            mine.messages.append(event)
                        elif isinstance(event, Lost):
                            mine.lost += 1
                        elif isinstance(event, Recovered):
                            mine.recovered += 1
                        elif isinstance(event, Gap):
                            mine.gaps.append(event.reason)
                        if len(mine.messages) >= (members - 1) * each:
                            break

            with anyio.fail_after(120):
                async with anyio.create_task_group() as talking:
                    talking.start_soon(observe)
                    for number in range(members):
                        talking.start_soon(member, number)
    return Outcome(order, heard, proxy.cuts)


def check(outcome: Outcome, each: int) -> None:
    order = outcome.order
    assert [message.seq for message in order] == list(range(1, len(order) + 1))
    texts = [message.text for message in order]
    assert len(set(texts)) == len(texts) == len(outcome.members) * each, "lost or doubled"
    for number, heard in enumerate(outcome.members):
        assert heard.gaps == []
        assert sorted(heard.acknowledged, key=lambda m: m.seq) == [m for m in order if m.name == f"m{number}"]
        assert heard.messages == [m for m in order if m.name != f"m{number}"], "a gap, a double, or another order"


def run(backend: Any, plans: list[Plan], members: int, each: int) -> Outcome:
    name, options = backend
    return anyio.run(partial(talk, plans, members, each), backend=name, backend_options=options)


PLANS = st.lists(
    st.builds(
        Plan,
        cut_after=st.integers(700, 4000),  # the first welcome gets through: only later losses are made good
        direction=st.sampled_from(["up", "down"]),
        reset=st.booleans(),
        split=st.sampled_from([0, 0, 1, 7]),
    ),
    max_size=30,
)


@pytest.mark.parametrize("backend", BACKENDS, ids=["asyncio", "trio"])
def test_ten_members_survive_cuts(backend: Any) -> None:
    draw = random.Random(1)
    plans = [Plan(draw.randrange(1500, 6000), draw.choice(["up", "down"]), draw.random() < 0.5) for _ in range(60)]
    outcome = run(backend, plans, members=10, each=50)
    check(outcome, 50)
    assert outcome.cuts > 10
    assert sum(heard.recovered for heard in outcome.members) > 10


@examples(15)
@given(plans=PLANS, members=st.integers(2, 4))
def test_any_schedule_of_cuts(plans: list[Plan], members: int) -> None:
    check(run(BACKENDS[0], plans, members, each=12), 12)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS, ids=["asyncio", "trio"])
def test_ten_thousand_acknowledged_sends(backend: Any) -> None:
    draw = random.Random(2)
    plans = [Plan(draw.randrange(1500, 12_000), draw.choice(["up", "down"]), draw.random() < 0.5) for _ in range(1000)]
    outcome = run(backend, plans, members=10, each=1000)
    check(outcome, 1000)
    recovered = sum(heard.recovered for heard in outcome.members)
    received = sum(len(heard.messages) for heard in outcome.members)
    print(f"{outcome.cuts} cuts, {recovered} recovered, 10000 sent, {received} received, 0 lost, 0 doubled")  # noqa: T201


@pytest.mark.parametrize("backend", BACKENDS, ids=["asyncio", "trio"])
def test_a_server_that_is_killed_and_started_anew_is_told_as_a_gap(backend: Any) -> None:
    async def main() -> list[object]:
        events: list[object] = []
        proxy = Proxy(Address("127.0.0.1", 1))

        async def serve(scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[Any]) -> None:
            with scope:
                await ChatAPI().serve("127.0.0.1:0", task_status=task_status)

        first, second = anyio.CancelScope(), anyio.CancelScope()
        async with proxy.open(), anyio.create_task_group() as servers:
            with anyio.fail_after(60):
                proxy.target = (await servers.start(partial(serve, first)))[0].address
                async with connect(proxy.address, name="m", room="dev", backoff=0.002, backoff_cap=0.02) as room:
                    before = await room.send("before")
                    first.cancel()
                    proxy.target = (await servers.start(partial(serve, second)))[0].address
                    async for event in room:
                        events.append(event)
                        if isinstance(event, Gap):
                            break
                    after = await room.send("after")
                second.cancel()
        assert (before.text, before.seq, after.text, after.seq) == ("before", 1, "after", 1)
        return events

    name, options = backend
    events = anyio.run(main, backend=name, backend_options=options)
    kinds = [type(event) for event in events]
    assert kinds == [Welcome, Lost, Gap]
    assert isinstance(events[-1], Gap)
    assert events[-1].reason == "unknown_epoch"


@pytest.mark.parametrize("backend", BACKENDS, ids=["asyncio", "trio"])
def test_everybody_comes_back_when_all_are_cut_at_once(backend: Any) -> None:
    async def main() -> None:
        chat = ChatAPI()
        async with served(chat) as doors:
            proxy = Proxy(doors["text"])
            async with proxy.open(), chat.join("observer", "dev", reads=False) as observer:
                with anyio.fail_after(60):
                    async with (
                        connect(proxy.address, name="a", room="dev", backoff=0.002) as a,
                        connect(proxy.address, name="b", room="dev", backoff=0.002) as b,
                    ):
                        proxy.cut_all()
                        await observer.post("meanwhile")
                        for room in (a, b):
                            seen = [event async for event in _until(room, "meanwhile")]
                            assert [type(event) for event in seen if isinstance(event, Lost | Recovered)] == [
                                Lost,
                                Recovered,
                            ]
                assert proxy.cuts == 2

    name, options = backend
    anyio.run(main, backend=name, backend_options=options)


async def _until(room: Connection, text: str) -> AsyncIterator[object]:
    async for event in room:
        yield event
        if isinstance(event, Message) and event.text == text:
            return
