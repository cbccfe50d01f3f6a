"""Many members, slow members, and more than fits: what `python cmd/chatserver` owes to everybody else meanwhile."""

from __future__ import annotations

import re
import selectors
import signal
import sys
import threading

import pytest
from executables import DEADLINE, Peer, Server, comes_in, eventually, handshake, hears_next

from chatapi import Limits

pytestmark = pytest.mark.slow

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)


def _exchange(sending: dict[Peer, bytes], wanted: dict[Peer, int]) -> dict[Peer, bytes]:
    """Send and receive at once, as separate programs would, until everybody has as many lines as they want."""
    pieces: dict[Peer, list[bytes]] = {peer: [] for peer in wanted}
    missing = dict(wanted)
    unsent = {peer: memoryview(data) for peer, data in sending.items()}
    with selectors.DefaultSelector() as selector:
        for peer in {**sending, **wanted}:
            peer.socket.setblocking(False)
            mask = (selectors.EVENT_WRITE if peer in sending else 0) | (selectors.EVENT_READ if peer in wanted else 0)
            selector.register(peer.socket, mask, peer)
        while any(left > 0 for left in missing.values()) or unsent:
            ready = selector.select(DEADLINE)
            assert ready, f"nothing moves any more; still missing: {sorted(missing.values())[-5:]}"
            for key, mask in ready:
                peer = key.data
                if mask & selectors.EVENT_READ:
                    data = peer.socket.recv(1 << 18)
                    assert data, f"a member was cut off while it was still to get {missing[peer]:,} lines"
                    pieces[peer].append(data)
                    missing[peer] -= data.count(b"\n")
                if mask & selectors.EVENT_WRITE:
                    unsent[peer] = unsent[peer][peer.socket.send(unsent[peer]) :]
                    if not unsent[peer]:
                        del unsent[peer]
                        if peer in wanted:
                            selector.modify(peer.socket, selectors.EVENT_READ, peer)
                        else:
                            selector.unregister(peer.socket)
    for peer in {**sending, **wanted}:
        peer.socket.settimeout(DEADLINE)
    return {peer: b"".join(data) for peer, data in pieces.items()}


def _crowd(server: Server, names: list[str], receive_buffer: int = 0) -> dict[str, Peer]:
    crowd = {name: server.connect(receive_buffer=receive_buffer) for name in names}
    for name, peer in crowd.items():
        peer.send(handshake(name, "hall"))
    eventually(lambda: server.err.count("joined hall") == len(names), lambda: server.err[-500:])
    return crowd


def _smallest(limit: str) -> str:
    bounds = Limits.model_fields[limit].metadata
    return str(next(bound.ge for bound in bounds if hasattr(bound, "ge")))


def test_handshake_timeouts_touch_nobody_else() -> None:
    """500 connections that never say a word, while others talk."""
    with Server("-handshake-seconds", "1", "-log-level", "warning") as server:
        # on a very slow machine they, too, may need a second try
        mina = eventually(lambda: comes_in(server, "Mina", "hall", notices=True), "Mina cannot come in")
        zoe = eventually(lambda: comes_in(server, "Zoe", "hall", notices=True), "Zoe cannot come in")
        assert mina.line() == "* Zoe joined"
        silent = [server.connect() for _ in range(500)]
        said = 0
        for peer in silent:
            if said < 100:
                mina.send(f"{said}\n")
                assert zoe.line() == f"Mina:{said}"
                said += 1
            assert peer.refusal()["code"] == "handshake_timeout"
            peer.close()
        hears_next(mina, zoe, "Zoe")
        hears_next(zoe, mina, "Mina")


def test_last_words_arrive_though_much_more_was_sent() -> None:
    """Closing with unread input would make a reset, which destroys what is on its way."""
    with Server("-linger", "3600") as server:
        for opening in (b"nonsense\n", b'{"name":"Mina"}\n', b'{"name":"Mina","room":"hall"}\n/bye\n'):
            peer = server.connect()
            sender = threading.Thread(target=peer.send, args=(opening + b"and so on, for ever\n" * 200_000,))
            sender.start()
            said = peer.line()
            assert said.startswith(("* ", '{"type":"error"')), said
            sender.join()
            peer.end()
            assert peer.rest() == b""


def test_a_member_that_never_reads_is_disconnected_and_nobody_else_misses_a_line() -> None:
    # its address is not waited for again for a while, so it comes from another one where there is one
    other_address = "127.0.0.2" if sys.platform == "linux" else ""
    forgiving = () if other_address else ("-slow-penalty-seconds", "0")
    limits = ("-log-bytes", "1048576", "-grace", "3", "-send-buffer-bytes", "8192", "-rate", "0")
    with Server(*limits, *forgiving) as server:
        deaf = server.member("Deaf", "hall", receive_buffer=4096, source=other_address)
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall", notices=True)
        lines = [f"{i:05} " + "x" * 100 for i in range(30_000)]  # three times the log
        heard = _exchange({mina: "".join(f"{line}\n" for line in lines).encode()}, {zoe: len(lines) + 1})[zoe]
        received = heard.decode().splitlines()
        assert [line for line in received if not line.startswith("* ")] == [f"Mina:{line}" for line in lines]
        (left,) = [line for line in received if line.startswith("* ")]
        assert left.startswith("* Deaf left")
        server.says("Deaf left from " + deaf.where + ": slow_consumer")
        again = server.member("Deaf", "hall")
        assert zoe.line() == "* Deaf joined"
        hears_next(zoe, again, "Deaf")


def test_200_members_of_whom_each_says_100_lines() -> None:
    with Server("-rate", "0", "-burst", "1000000") as server:
        names = [f"m{i:03}" for i in range(200)]
        crowd = _crowd(server, [*names, "observer"])
        sending = {crowd[name]: b"".join(b"%d\n" % i for i in range(100)) for name in names}
        wanted = dict.fromkeys(crowd.values(), 19_900) | {crowd["observer"]: 20_000}
        heard = _exchange(sending, wanted)
        order = heard[crowd["observer"]]
        for name in names:
            own = [line for line in order.split(b"\n") if line.startswith(name.encode())]
            assert own == [b"%s:%d" % (name.encode(), i) for i in range(100)]
            everybody_else = re.sub(rb"(?m)^%s:.*\n" % name.encode(), b"", order)
            assert heard[crowd[name]] == everybody_else  # byte for byte: one order, nothing missing, nothing twice


@pytest.mark.parametrize(
    ("flags", "senders", "each", "size"),
    [
        (("-log-bytes", "1048576"), 40, 100, 590),
        (("-log-bytes", _smallest("log_bytes")), 30, 100, 590),
        (("-log-entries", _smallest("log_entries"), "-rate", "0"), 20, 1000, 20),
    ],
    ids=["a small log", "the smallest log in bytes", "the smallest log in entries"],
)
def test_a_burst_larger_than_the_log_disconnects_no_member_that_reads(
    flags: tuple[str, ...], senders: int, each: int, size: int
) -> None:
    """All of it is there before the server reads any of it; it must not take more in than its readers can follow."""
    with Server(*flags, "-announce", "0", "-send-buffer-bytes", "8192") as server:
        names = [f"m{i:02}" for i in range(senders)]
        crowd = _crowd(server, [*names, "observer"], receive_buffer=8192)
        line = b"x" * size
        server.signal(signal.SIGSTOP)
        try:
            for name in names:
                crowd[name].send((line + b"\n") * each)
        finally:
            server.signal(signal.SIGCONT)
        wanted = dict.fromkeys(crowd.values(), each * (senders - 1)) | {crowd["observer"]: each * senders}
        heard = _exchange({}, wanted)
        for name in names:
            assert heard[crowd["observer"]].count(b"%s:%s\n" % (name.encode(), line)) == each
        assert "slow_consumer" not in server.err


@pytest.mark.parametrize(("rate", "burst"), [("2000", "200"), ("100000", "1")])
def test_the_line_rate_only_pauses(rate: str, burst: str) -> None:
    with Server("-rate", rate, "-burst", burst) as server:
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall")
        mina.send("".join(f"{i}\n" for i in range(600)))
        mina.end()
        assert zoe.lines(600) == [f"Mina:{i}" for i in range(600)]
        assert mina.rest() == b""
