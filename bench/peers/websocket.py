"""Socket.IO over a WebSocket, as templates: a masking key of zeros leaves a payload as it is."""

from __future__ import annotations

import struct
from typing import Final

from ..load import Protocol, Step

_UPGRADE: Final = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _frame(text: str, length: int) -> str:
    """A text frame from a client; its text becomes so long when the template is filled."""
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = bytes([0x80 | 126]) + struct.pack(">H", length)
    else:
        size = bytes([0x80 | 127]) + struct.pack(">Q", length)
    # a length may happen to be a percent sign, which templates write twice
    return (b"\x81" + size + bytes(4)).decode("latin-1").replace("%", "%%") + text


def _join() -> str:
    return _frame('42["join","%r"]', len('42["join","r0001"]'))


def _publish(payload: int) -> str:
    return _frame('42["say","%t"]', len('42["say",""]') + payload)


PROTOCOL: Final = Protocol(
    hello=(
        Step(_UPGRADE, wait='0{"sid"'),
        Step(_frame("40", 2), wait='40{"sid"'),
        Step(_join(), wait='42["joined"'),
    ),
    publish=_publish,
    echo=False,
)
