"""What a connection has yet to send: in order, each byte once, however little its socket takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from chatapi.limits import CHUNK_BYTES
from chatapi.server.send_buffer import SendBuffer
from chatapi.testing.transport import MemoryTransport


class Unread:
    """As much of a member as the buffer reads from: answers that wait in its lane."""

    style = None

    def __init__(self, *parts: bytes) -> None:
        self._parts = [*parts]

    def read(self, most: int) -> bytes | None:
        assert most == CHUNK_BYTES
        return self._parts.pop(0) if self._parts else None


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("last", [True, False])
def test_everything_is_sent_in_order_and_once(capacity: int, last: bool) -> None:
    transport = MemoryTransport(capacity)
    unsent, member, sent = SendBuffer(transport), cast("Any", Unread(b"three", b"", b"four")), b""
    unsent.add(b"one")
    unsent.add(b"two")
    assert (unsent.stalled, unsent.waiting) == (True, 6)
    unsent.last = b"last"
    for _ in range(30):
        done = unsent.flush(member, last)
        assert unsent.stalled == (unsent.waiting > 0) == (not done)
        sent += transport.take()
    assert done
    assert sent == b"onetwothreefour" + (b"last" if last else b"")


def test_a_view_of_shared_bytes_is_sent_from_where_the_socket_stopped() -> None:
    transport = MemoryTransport(0)
    unsent = SendBuffer(transport)
    assert (unsent.stalled, unsent.waiting) == (False, 0)
    unsent.buffer(memoryview(b"shared")[2:])
    assert not unsent.flush(None, False)
    assert unsent.waiting == 4
    transport.capacity = 3
    assert not unsent.flush(None, False)
    assert unsent.waiting == 1
    unsent.add(b"!")
    transport.capacity = 100
    assert unsent.flush(None, False)
    assert transport.take() == b"ared!"


def test_what_is_cleared_is_not_sent() -> None:
    transport = MemoryTransport()
    unsent = SendBuffer(transport)
    unsent.add(b"one")
    unsent.last = b"last"
    unsent.clear()
    assert (unsent.stalled, unsent.waiting) == (False, 0)
    assert unsent.flush(cast("Any", SimpleNamespace(read=lambda most: None)), True)
    assert transport.take() == b""
