"""The lines and faults that one member may make, and the lines of an address that its members take in turn."""

from __future__ import annotations

import pytest

from chatapi.core.origins import Origin
from chatapi.limits import PAST_BYTES, PAST_MESSAGES, TICK, Limits
from chatapi.server.rate_limit import NO_LIMIT, RateLimit

START = 1000.0


def trusted(**limits: float) -> RateLimit:
    """A member whose address does not count."""
    found = Limits.model_validate(limits)
    return RateLimit(found, START, Origin("127.0.0.1", True, found))


def of_one_address(members: int, **limits: float) -> list[RateLimit]:
    found = Limits.model_validate(limits)
    origin = Origin("10.9.9.9", False, found)
    return [RateLimit(found, START, origin) for _ in range(members)]


def test_a_member_may_say_its_burst_and_then_its_rate() -> None:
    member = trusted(rate=10, burst=20)
    assert member.grant(START) == 20
    member.spend(20)
    assert member.grant(START) == 0
    assert member.ready_at == pytest.approx(START + 0.1)
    assert member.grant(START + 0.09) == 0
    assert member.ready_at == pytest.approx(START + 0.1)
    assert member.grant(START + 0.25) == 2
    member.spend(2)
    assert member.grant(START + 0.25) == 0
    assert member.grant(START + 1000) == 20


def test_a_member_pays_back_what_it_took_beyond_its_lines() -> None:
    member = trusted(rate=10, burst=20)
    member.spend(25)
    assert member.grant(START) == 0
    assert member.ready_at == pytest.approx(START + 0.6)
    assert member.grant(START + 0.65) == 1


def test_a_burst_is_at_least_what_the_rate_gives_between_two_looks() -> None:
    assert trusted(rate=1000, burst=1).grant(START) == 1000 * TICK
    assert trusted(rate=10, burst=2).grant(START) == 2


def test_the_limit_of_an_address_does_not_hold_back_one_that_is_trusted() -> None:
    assert trusted(rate=10, burst=50, address_rate=10, address_burst=20).grant(START) == 50


def test_the_last_line_of_an_address_may_be_said_at_once() -> None:
    a, b = of_one_address(2, rate=50, burst=5, address_rate=10, address_burst=6)
    assert a.grant(START) == 5
    a.spend(5)
    assert b.grant(START) == 1
    b.spend(4)
    assert b.grant(START) == 0
    assert b.ready_at - START == pytest.approx(0.4), "it has one line left, and its address four too few"


def test_without_a_rate_there_is_no_limit() -> None:
    member = trusted(rate=0, burst=1)
    member.spend(1000)
    assert member.grant(START) == NO_LIMIT


@pytest.mark.parametrize(
    ("messages", "size", "left"),
    [(PAST_MESSAGES, 0, 19), (PAST_MESSAGES, 3 * PAST_BYTES, 17), (5 * PAST_MESSAGES, PAST_BYTES, 15), (1 << 20, 0, 0)],
)
def test_the_past_costs_by_its_messages_or_its_bytes_and_a_burst_at_most(messages: int, size: int, left: int) -> None:
    member = trusted(rate=10, burst=20)
    member.spend_on_past(messages, size)
    assert member.grant(START) == left
    assert member.ready_at <= START + 0.1 or left


def test_faults_are_a_flood_if_they_are_more_than_allowed_beyond_one_a_second() -> None:
    member = trusted(rate=10, flood=3)
    assert [member.fault(START) for _ in range(4)] == [False, False, False, True]
    assert not member.fault(START + 2)
    assert member.fault(START + 2)
    for second in range(10, 60):
        assert not member.fault(START + second)
    assert [member.fault(START + 1000) for _ in range(4)] == [False, False, False, True]


def test_the_members_of_an_address_share_its_burst_and_then_take_turns() -> None:
    a, b, c = of_one_address(3, rate=50, burst=100, address_rate=10, address_burst=20)
    assert a.grant(START) == 20
    a.spend(12)
    assert b.grant(START) == 8
    b.spend(8)
    assert [member.grant(START) for member in (a, b, c)] == [0, 0, 0]
    # each is promised the lines of a tick, five, in its turn
    assert [member.ready_at - START for member in (a, b, c)] == pytest.approx([0.5, 1.0, 1.5])
    assert [member.grant(START + 0.51) for member in (a, b, c)] == [5, 0, 0]
    a.spend(5)
    assert a.grant(START + 0.51) == 0
    assert a.ready_at - START == pytest.approx(2.0)
    assert [member.grant(START + 1.01) for member in (a, b, c)] == [0, 5, 0]
    b.spend(2)
    assert [member.grant(START + 1.51) for member in (a, b, c)] == [0, 3, 5]
    assert [member.grant(START + 2.01) for member in (a, b, c)] == [5, 3, 5]


def test_a_member_that_says_a_part_of_its_promised_lines_pays_for_them_once() -> None:
    a, b = of_one_address(2, rate=50, burst=100, address_rate=10, address_burst=20)
    a.grant(START)
    a.spend(20)
    assert a.grant(START) == 0
    assert a.grant(START + 0.5) == 5
    a.spend(7)  # two more than it was promised
    assert b.grant(START + 0.5) == 0
    assert b.ready_at - START == pytest.approx(1.2)


def test_a_member_of_an_address_is_promised_no_more_than_its_own_lines() -> None:
    a, b = of_one_address(2, rate=50, burst=5, address_rate=10, address_burst=5)
    assert a.grant(START) == 5
    a.spend(3)
    b.spend(2)
    assert a.grant(START) == 0
    assert a.ready_at - START == pytest.approx(0.2)
    assert b.grant(START) == 0
    assert b.ready_at - START == pytest.approx(0.5)
    assert a.grant(START + 0.2) == 2


def test_what_was_promised_to_a_member_that_leaves_is_given_back() -> None:
    a, b, c = of_one_address(3, rate=50, burst=100, address_rate=10, address_burst=20)
    assert a.grant(START) == 20
    a.spend(20)
    assert (a.grant(START), b.grant(START)) == (0, 0)
    assert b.close() is a.origin
    b.close()
    assert c.grant(START) == 0
    assert c.ready_at - START == pytest.approx(1.0)
    a.close()
    assert a.origin.free(START) == -5


def test_an_address_makes_faults_beyond_ten_a_second() -> None:
    members = of_one_address(30, rate=50, flood=5, address_flood=20)
    assert [member.fault(START) for member in members] == [False] * 20 + [True] * 10
    assert [member.fault(START + 2) for member in members[:11]] == [False] * 10 + [True]
    assert members[0].origin.free(START) == Limits().address_burst, "a fault is no line"
