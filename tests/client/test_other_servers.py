"""A server that does not speak the JSON protocol, such as MaChat in Go, is named as such, with what it said."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.abc
import pytest
from executables import DEADLINE
from scripted import Peer, dev, line, scripted
from serving import served

from chatapi import ChatAPI, ProtocolError, Unreachable
from chatapi.cli import client

GO = "answers with lines, not with the JSON protocol: it may be a telnet door, MaChat in Go or another server; it said "

GREETINGS = [
    pytest.param(b"Zoe:hello\n", "Zoe:hello", id="chat"),
    pytest.param(b'Mina:{"type":"message","text":"x"}\n', 'Mina:{"type":"message","text":"x"}', id="own frame"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "HTTP/1.1 400 Bad Request", id="http"),
    pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-OpenSSH_9.6", id="ssh"),
    pytest.param(b"220 mail.example.org ESMTP\r\n", "220 mail.example.org ESMTP", id="smtp"),
    pytest.param(b"220\r\n", "220", id="a number"),
    pytest.param(b'["a", "list"]\n', '["a", "list"]', id="a list"),
    pytest.param(b"\x1b[31mred\x07 \xe2\x80\xaetxet \xff\n", "[31mred txet \ufffd", id="controls"),
    pytest.param(b"x" * 500 + b"\n", "x" * 60 + "…", id="long"),
]


class Go:
    """What MaChat in Go does: a handshake, then every line to everybody in the room, also to who said it."""

    def __init__(self) -> None:
        self.members: dict[str, anyio.abc.SocketStream] = {}
        self.joined = anyio.Event()

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            data = b""
            while b"}" not in data:
                data += await stream.receive()
            name = json.loads(data[: data.index(b"}") + 1])["name"]
            self.members[name] = stream
            self.joined.set()
            async for data in stream:
                for text in data.splitlines():
                    for member in self.members.values():
                        await member.send(name.encode() + b":" + text + b"\n")


@pytest.mark.anyio
async def test_a_chat_line_of_a_go_server_is_quoted() -> None:
    go = Go()
    with anyio.fail_after(DEADLINE):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, go.handle)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            zoe = await anyio.connect_tcp("127.0.0.1", port)
            await zoe.send(b'{"name":"Zoe","room":"dev"}')
            await go.joined.wait()
            go.joined = anyio.Event()

            async def talk() -> None:
                await go.joined.wait()
                await zoe.send(b"hello\n")

            tasks.start_soon(talk)
            with pytest.raises(ProtocolError, match=re.escape(f"127.0.0.1:{port} {GO}'Zoe:hello'")):
                async with dev(f"127.0.0.1:{port}"):
                    raise AssertionError
            await zoe.aclose()
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("greeting", "shown"), GREETINGS)
async def test_what_another_server_says_is_quoted(greeting: bytes, shown: str, ends: bool) -> None:
    """Also where it does not end its line, and says nothing more, or ends the connection."""

    async def server(peer: Peer) -> None:
        await peer.hear()
        await peer.say(greeting.splitlines()[0] if ends else greeting)
        if not ends:
            await peer.until_end()

    async with scripted(server) as address:
        with pytest.raises(ProtocolError, match=re.escape(f"{address} {GO}'{shown}'")):
            async with dev(address):
                raise AssertionError


@pytest.mark.anyio
@pytest.mark.parametrize("says", [b"", b"Nickname: ", b"\x16\x03\x01"])
async def test_a_server_that_says_no_whole_line_is_named_when_the_time_is_up(says: bytes) -> None:
    async def server(peer: Peer) -> None:
        await peer.say(says) if says else None
        await peer.until_end()

    async with scripted(server) as address:
        with pytest.raises(Unreachable) as error:
            async with dev(address, connect_timeout=0.1):
                raise AssertionError
    nothing = "it accepts connections and sends nothing: it may be MaChat in Go, or another kind of server"
    said = says.strip().replace(b"\x16\x03\x01", b"").decode()
    assert str(error.value) == f"{address} sent no welcome within 0.1 s: " + (f"it {GO}'{said}'" if says else nothing)


@pytest.mark.anyio
async def test_what_is_json_but_no_welcome_is_named_with_its_address() -> None:
    for frame, words in [
        (line("yawn"), "answers with a frame 'yawn'"),
        (line("welcome"), "with a missing or wrong field"),
    ]:

        async def server(peer: Peer, frame: bytes = frame) -> None:
            await peer.say(frame)
            await peer.until_end()

        async with scripted(server) as address:
            with pytest.raises(ProtocolError, match=f"{address} answers with a.*") as error:
                async with dev(address):
                    raise AssertionError
            assert words in str(error.value)


@pytest.mark.anyio
async def test_our_own_telnet_door_is_named_too() -> None:
    chat = ChatAPI()
    async with served(chat, telnet="127.0.0.1:0") as doors:
        with pytest.raises(ProtocolError, match="it said '\\* welcome to MaChat"):
            async with dev(doors["telnet"]):
                raise AssertionError


@contextmanager
def saying(greeting: bytes) -> Iterator[str]:
    """A server that says this to its one client and waits for its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(greeting)
                while connection.recv(10_000):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(DEADLINE)


@pytest.mark.parametrize(("greeting", "shown"), GREETINGS)
def test_the_example_client_says_it_in_one_line(greeting: bytes, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    with saying(greeting) as address:
        assert client.main(["-client", "Mina", "-room", "dev", "-address", address]) == 1
    assert capfd.readouterr() == ("", f"examplechatclient: {address} {GO}'{shown}'\n")
