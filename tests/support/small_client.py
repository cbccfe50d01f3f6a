"""A small client of the JSON protocol for the tests of the conformance run, correct or with one fault:

small_client.py FAULT HOST:PORT NAME ROOM

FAULT is one of `FAULTS`, or `none`.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import socket
import sys
import time
from itertools import count
from typing import Any, NoReturn

FAULTS = [
    ("no protocol", "handshake"),
    ("one read is one line", "cut-characters"),
    ("latin-1", "one-byte-pieces"),
    ("decode each read", "cut-characters"),
    ("first line of each read", "many-frames"),
    ("lines of 64 KiB", "long-frames"),
    ("unknown types", "unknown"),
    ("splitlines", "line-ends"),
    ("strip", "sending"),
    ("no echo", "own-messages"),
    ("no bye", "goodbye"),
    ("exit with 0", "frame-bytes"),
    ("count characters", "frame-bytes"),
    ("resend refused", "refused-message"),
    ("give up unavailable", "unavailable"),
    ("no window", "remember-ids"),
    ("no resend", "ack-lost"),
    ("new ids", "ack-lost"),
    ("new ids", "kept-before-loss"),
    ("reverse", "in-flight"),
    ("hurry", "input-ended"),
    ("count duplicates", "position"),
    ("print everything", "position"),
    ("position of the welcome", "cut-replay"),
    ("silent gap", "gap"),
    ("resend to another session", "session-forgotten"),
    ("resend for ever", "remember"),
    ("skip numbers", "missing-number"),
    ("old name", "renamed"),
    ("always return", "stay-away"),
    ("ignore after", "come-back-after"),
    ("try again", "name-taken"),
    ("every refusal is final", "refused-for-now"),
    ("no refusal is final", "refused-for-good"),
    ("one attempt", "server-away"),
    ("no pause", "backoff"),
]
"""Each fault, with a case that finds it."""

TEMPORARY = {"draining", "server_full", "room_full", "handshake_timeout", "server_error", "unavailable"}


class Lost(Exception):
    """The connection has ended."""


class Client:
    def __init__(self, fault: str, address: str, name: str, room: str) -> None:
        self.fault, self.name, self.room = fault, name, room
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.pending: list[dict[str, Any]] = []
        self.numbers = count()
        self.place: dict[str, Any] = {}
        self.limits: dict[str, Any] = {}
        self.typed = b""
        self.input_ended = self.in_room = self.leaving = False
        self.code = 0
        self.after = 0.0
        self.retry_at = 0.0

    def run(self) -> NoReturn:
        attempt = 0
        while True:
            try:
                self.connect()
            except (Lost, OSError) as error:
                self.say(f"the connection has ended: {error}")
                if isinstance(error, ConnectionRefusedError) and self.fault == "one attempt":
                    sys.exit(1)
            if self.leaving:
                sys.exit(0 if self.fault == "exit with 0" else self.code)
            pause = 0.0 if self.fault == "no pause" else random.uniform(0, min(15, 0.1 * 2**attempt))
            time.sleep(pause + (0 if self.fault == "ignore after" else self.after))
            attempt, self.after = attempt + 1, 0.0

    def connect(self) -> None:
        self.in_room, self.data, self.retry_at = False, b"", 0.0
        with socket.create_connection(self.address) as self.socket, selectors.DefaultSelector() as selector:
            handshake: dict[str, Any] = {"name": self.name, "room": self.room, "protocol": "json", "echo": False}
            if self.fault == "no echo":
                del handshake["echo"]
            if self.fault == "no protocol":
                del handshake["protocol"]
            if self.place:
                handshake["resume"] = self.place
            self.write(handshake)
            selector.register(self.socket, selectors.EVENT_READ)
            watching = False
            while True:
                if watching != (self.in_room and not self.input_ended):
                    watching = not watching
                    (selector.register if watching else lambda fd, _: selector.unregister(fd))(0, selectors.EVENT_READ)
                for key, _ in selector.select(0.05 if self.retry_at else None):
                    if key.fd == 0:
                        self.read_input()
                    else:
                        self.read_socket()
                if self.retry_at and time.monotonic() > self.retry_at:
                    self.retry_at = 0
                self.flush()

    def read_input(self) -> None:
        data = os.read(0, 65536)
        self.input_ended = not data
        *lines, self.typed = (self.typed + data).split(b"\n")
        if not data:
            lines, self.typed = [self.typed], b""
        for line in lines:
            text = line.decode().strip() if self.fault == "strip" else line.decode()
            if text:
                self.pending.append({"text": text, "id": f"id-{(number := next(self.numbers))}", "number": number})

    def read_socket(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise Lost("end of stream")
        if self.fault == "decode each read":
            data.decode()
        self.data = data if self.fault == "one read is one line" else self.data + data
        *lines, self.data = self.data.split(b"\n")
        if self.fault == "splitlines":
            lines = [line.encode() for whole in lines for line in whole.decode().splitlines()]
        if self.fault == "first line of each read":
            lines = lines[:1]
        if self.fault == "lines of 64 KiB" and len(self.data) > 65536:
            raise Lost("too long")
        for line in lines:
            try:
                self.receive(json.loads(line.decode("latin-1") if self.fault == "latin-1" else line))
            except (ValueError, KeyError) as error:
                raise Lost(f"protocol error: {error!r}") from None

    def receive(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "welcome":
            self.enter(frame)
        elif kind == "error" and not self.in_room:
            self.refused(frame)
        elif kind == "bye":
            self.after = frame["after"]
            if self.leaving:
                return
            self.say(frame["code"])
            if not frame["reconnect"] and self.fault != "always return":
                sys.exit(1)
        elif kind in ("message", "deleted"):
            self.advance(frame)
            for line in filter(None, frame.get("text", "").split("\n")):
                sys.stdout.buffer.write(f"{frame['name']}:{line}\n".encode())
                sys.stdout.flush()
        elif kind == "ack":
            if frame["seq"] is not None and (not frame.get("duplicate") or self.fault == "count duplicates"):
                self.advance(frame)
            self.pending = [message for message in self.pending if message["id"] != frame["id"]]
        elif kind == "error":
            self.on_error(frame)
        elif kind == "renamed" and frame["name"] == self.name and self.fault != "old name":
            self.name = frame["to"]
        elif kind == "notice" and frame["code"] == "available":
            self.retry_at = 0
        elif self.fault == "print everything":
            sys.stdout.write(f"* {kind}\n")
        elif self.fault == "unknown types" and kind not in ("joined", "left", "renamed", "whisper", "notice", "pong"):
            raise ValueError(kind)

    def enter(self, frame: dict[str, Any]) -> None:
        another = bool(self.place) and self.place["session"] != frame["session"]
        self.limits, self.in_room = frame["limits"], True
        self.name = self.name if self.fault == "old name" else frame["name"]
        if frame["recovered"] is False and self.fault != "silent gap":
            self.say(f"messages are missing: {frame['reason']}")
        if not frame["recovered"] or self.fault == "position of the welcome":
            self.place = {key: frame[key] for key in ("session", "epoch", "seq", "ts")}
        remember = frame["limits"]["remember"]
        for message in list(self.pending):
            message["written"] = False
            if "since" not in message:
                continue
            old = time.monotonic() - message["since"] > remember - min(10, remember / 2)
            if (another and self.fault != "resend to another session") or (old and self.fault != "resend for ever"):
                self.give_up(message, "it is unknown if it was kept")
            elif self.fault == "no resend":
                message["written"] = True
            elif self.fault == "new ids":
                message["id"] += "+"
        if self.fault == "reverse":
            self.pending.reverse()

    def advance(self, frame: dict[str, Any]) -> None:
        if frame["seq"] != self.place["seq"] + 1 and self.fault not in ("skip numbers", "position of the welcome"):
            raise ValueError(f"{frame['seq']} after {self.place['seq']}")
        self.place = self.place | {"seq": frame["seq"], "ts": frame["ts"]}

    def refused(self, frame: dict[str, Any]) -> None:
        self.say(frame["code"])
        self.after = frame.get("after", 0.0)
        again = self.after or (self.place and frame["code"] in TEMPORARY)
        again = again or self.fault == "try again" or (self.place and self.fault == "no refusal is final")
        if not again or self.fault == "every refusal is final":
            sys.exit(1)

    def on_error(self, frame: dict[str, Any]) -> None:
        for message in [message for message in self.pending if message["id"] == frame.get("id")]:
            if frame["code"] == "unavailable" and self.fault != "give up unavailable":
                message["written"], self.retry_at = False, time.monotonic() + 1
            elif self.fault == "resend refused":
                self.code = 1
                self.say(frame["code"])
            else:
                self.give_up(message, frame["code"])

    def give_up(self, message: dict[str, Any], why: str) -> None:
        self.say(f"{message['text']}: {why}")
        self.pending.remove(message)
        self.code = 1

    def flush(self) -> None:
        if not self.in_room or self.leaving:
            return
        window = 1_000 if self.fault == "no window" else min(64, self.limits["remember_ids"] / 2)
        for message in list(self.pending):
            if self.retry_at or message["number"] - self.pending[0]["number"] >= window:
                break
            frame = {"type": "message", "text": message["text"], "id": message["id"]}
            text = json.dumps(frame, ensure_ascii=False)
            if len(text if self.fault == "count characters" else text.encode()) >= self.limits["frame_bytes"]:
                self.give_up(message, "it is too long")
            elif not message.get("written"):
                message["written"] = True
                message.setdefault("since", time.monotonic())
                self.write(frame)
        if self.input_ended and (not self.pending or self.fault == "hurry"):
            self.leaving = True
            if self.fault != "no bye":
                self.write({"type": "bye"})
            self.socket.shutdown(socket.SHUT_WR)

    def write(self, frame: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(frame, ensure_ascii=False).encode() + b"\n")

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    Client(*sys.argv[1:]).run()
