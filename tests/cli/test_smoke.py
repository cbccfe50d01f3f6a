"""One way through each executable: the server starts, two people talk, and Ctrl-C or SIGTERM ends it in good order.

The other tests of the executables are `slow`; what the server says over its sockets is in test_over_sockets.py.
"""

from __future__ import annotations

import signal
import sys

import pytest
from executables import CLIENT, Program, Server, hears_next, run

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)


def test_the_server_prints_where_it_listens_and_nothing_else_and_drains_on_sigterm() -> None:
    with Server("-telnet", "127.0.0.1:0") as server:
        (host, port), (telnet_host, telnet_port) = *server.addresses, *server.telnet
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall", notices=True)
        hears_next(zoe, mina, "Mina")
        assert b"nickname" in server.connect(to=server.telnet[0]).until(b": ").lower()
        assert server.out.decode() == (
            f"chatserver: listening on {host}:{port}\nchatserver: telnet listening on {telnet_host}:{telnet_port}\n"
        )
        server.signal(signal.SIGTERM)
        for peer in (mina, zoe):
            assert peer.rest() == b"* draining: the server is shutting down\n"
        server.hang_up()
        assert server.wait() == 0


def test_the_output_of_the_example_client_is_what_the_room_says_and_nothing_else() -> None:
    with Server() as server:
        zoe = server.member("Zoe", "hall", notices=True)
        argv = (sys.executable, CLIENT, "-client", "Mina", "-room", "hall", "-address", server.address)
        with Program(*argv) as client:
            assert zoe.line() == "* Mina joined"
            zoe.send("hello\n")
            client.prints(b"Zoe:hello\n")  # at once, not when a buffer is full
            client.type("hello back\n")
            assert zoe.line() == "Mina:hello back"
            zoe.send("caf\u00e9 \u20ac\t: all of it\n@Mina psst\n")
            expected = "Zoe:hello\nZoe:caf\u00e9 \u20ac\t: all of it\n* Zoe whispers: psst\n".encode()
            client.prints(b"psst\n")
            client.end_input()
            assert client.wait() == 0
            assert (client.out, client.err) == (expected, "")
        assert zoe.line() == "* Mina left"


def test_a_server_ends_on_ctrl_c_and_a_wrong_flag_ends_it_with_code_2() -> None:
    with Server() as server:
        server.stop(signal.SIGINT)
    code, out, err = run(sys.executable, "cmd/chatserver", "-rat", "5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "-rate" in err
