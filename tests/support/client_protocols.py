"""The client's side of the protocol without I/O, and what a server says to it, for the tests of it."""

from __future__ import annotations

import json
from typing import Any

from chatapi.client.events import News
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import Request


def line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}).encode() + b"\n"


def welcome(**fields: Any) -> bytes:
    given: dict[str, Any] = {"name": "Mina", "room": "dev", "session": "key", "epoch": "e1", "seq": 0, "ts": 0}
    given |= {"members": ["Mina"], "count": 1, "recovered": None, "limits": {"frame_bytes": 1000}}
    return line("welcome", **given | fields)


def message(seq: int, text: str = "hi", name: str = "Zoe", **fields: Any) -> bytes:
    return line("message", seq=seq, ts=seq * 10, name=name, text=text, **fields)


def client_protocol(**arguments: Any) -> ClientProtocol:
    return ClientProtocol("mina", "dev", prefix="p", pause=lambda tries: 2.0**tries, **arguments)


def live(**arguments: Any) -> ClientProtocol:
    it = client_protocol(**arguments)
    it.handshake()
    list(it.receive_data(welcome()))
    return it


def hear(it: ClientProtocol, *lines: bytes) -> list[News]:
    return list(it.receive_data(b"".join(lines)))


def said(it: ClientProtocol, now: float = 0) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in it.data_to_send(now).splitlines()]


def texts(it: ClientProtocol, now: float = 0) -> list[str]:
    return [frame.get("text", frame["type"]) for frame in said(it, now)]


def again(it: ClientProtocol, **fields: Any) -> list[News]:
    it.connection_lost()
    it.handshake()
    return hear(it, welcome(**fields))


def outcome(request: Request) -> Any:
    assert request.done
    return request.error or request.value


def refusal(number: int) -> bytes:
    return line("error", code="unavailable", detail="not kept: Redis is away", id=f"p-{number}")


def ack(number: int, seq: int, **fields: Any) -> bytes:
    return line("ack", id=f"p-{number}", seq=seq, ts=seq * 10, **fields)


UNAVAILABLE = line("notice", code="unavailable", detail="Redis is away")
AVAILABLE = line("notice", code="available", detail="Redis is back")
