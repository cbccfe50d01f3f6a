"""Addresses as people type them, and the sockets that listen there."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples

from chatapi.addresses import Address, bind, configure, parse_address, shown
from chatapi.errors import AddressError
from chatapi.limits import Limits

LIMITS = Limits(send_buffer_bytes=32768, receive_buffer_bytes=16384)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:8989", ("localhost", 8989)),
        (":8989", ("", 8989)),
        ("[::1]:8989", ("::1", 8989)),
        ("[::]:0", ("::", 0)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("chat.example.org:65535", ("chat.example.org", 65535)),
        (" localhost:80\n", ("localhost", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text.strip()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no port"),
        ("localhost", "no port"),
        ("8989", "no port"),
        ("localhost:", "'' is not a port"),
        ("localhost:http", "'http' is not a port"),
        ("localhost:65536", "'65536' is not a port from 0 to 65535"),
        ("localhost:-1", "'-1' is not a port"),
        ("localhost: 1", "' 1' is not a port"),
        ("localhost:²", "'²' is not a port"),
        ("localhost:" + "9" * 5000, "is not a port"),
        ("::1:8989", "an IPv6 address must be in brackets"),
        ("[::1:8989", "an IPv6 address must be in brackets"),
    ],
)
def test_what_is_wrong_with_an_address_is_told_with_an_example(text: str, told: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert told in str(caught.value)
    assert "localhost:8989" in str(caught.value)


@examples(200)
@given(st.text() | st.text("[]:1a ٣", max_size=10))
@example("a:٣")
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    with contextlib.suppress(AddressError):
        address = parse_address(text)
        assert 0 <= address.port <= 65535
        assert parse_address(str(address)) == address


def test_a_peer_is_shown_as_it_would_be_typed() -> None:
    assert shown(("10.0.0.1", 5)) == "10.0.0.1:5"
    assert shown(("::ffff:10.0.0.1", 5, 0, 0)) == "10.0.0.1:5"
    assert shown(("2001:db8::1", 5, 0, 0)) == "[2001:db8::1]:5"


@contextlib.contextmanager
def bound(address: Address) -> Iterator[list[socket.socket]]:
    sockets = bind(address, LIMITS)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=IPV6)])
def test_port_0_is_any_free_port_of_that_host(host: str) -> None:
    with bound(Address(host, 0)) as sockets:
        (sock,) = sockets
        assert sock.getsockname()[0] == host
        assert sock.getsockname()[1] > 0
        assert not sock.getblocking()
        with socket.create_connection(sock.getsockname()[:2], timeout=10):
            pass


def found(family: socket.AddressFamily, *sockaddr: object) -> tuple[object, ...]:
    return (family, socket.SOCK_STREAM, 6, "", sockaddr)


FOUR = found(socket.AF_INET, "127.0.0.1", 0)
SIX = found(socket.AF_INET6, "::1", 0, 0, 0)
NOBODYS = found(socket.AF_INET6, "2001:db8::1", 0, 0, 0)


@IPV6
@pytest.mark.parametrize("names", [[FOUR, SIX], [SIX, FOUR], [FOUR, FOUR, SIX, SIX]], ids=["4 6", "6 4", "4 4 6 6"])
def test_a_name_with_two_families_listens_once_on_each_with_one_port(
    monkeypatch: pytest.MonkeyPatch, names: list[object]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: names)
    with bound(Address("localhost", 0)) as sockets:
        assert sorted(sock.family for sock in sockets) == [socket.AF_INET, socket.AF_INET6]
        assert len({sock.getsockname()[1] for sock in sockets}) == 1


@IPV6
def test_no_host_is_every_address_of_both_families_apart() -> None:
    with bound(Address("", 0)) as sockets:
        assert {sock.getsockname()[0] for sock in sockets} == {"0.0.0.0", "::"}
        (six,) = (sock for sock in sockets if sock.family == socket.AF_INET6)
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_a_port_that_is_taken_is_an_error() -> None:
    with bound(Address("127.0.0.1", 0)) as (sock,):
        taken = Address("127.0.0.1", sock.getsockname()[1])
        with pytest.raises(OSError, match="in use") as caught:
            bind(taken, LIMITS)
        assert caught.value.errno == errno.EADDRINUSE


@IPV6
def test_a_port_that_is_taken_for_one_family_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(Address("127.0.0.1", 0)) as (sock,):
        port = sock.getsockname()[1]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [SIX, FOUR])
        with pytest.raises(OSError, match="in use"):
            bind(Address("localhost", port), LIMITS)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [SIX])
        with bound(Address("localhost", port)):  # nothing was left open
            pass


def test_a_family_that_the_machine_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [NOBODYS, FOUR])
    with bound(Address("localhost", 0)) as sockets:
        assert [sock.family for sock in sockets] == [socket.AF_INET]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [NOBODYS])
    with pytest.raises(OSError, match=r"not (available|supported)|assign requested address"):
        bind(Address("localhost", 0), LIMITS)


@pytest.mark.parametrize("host", ["x" * 64, "a..b"])
def test_a_name_that_means_nothing_is_an_error_that_names_it(host: str) -> None:
    with pytest.raises(AddressError, match="not a host name") as caught:
        bind(Address(host, 0), LIMITS)
    assert host in str(caught.value)


def test_a_connection_sends_at_once_buffers_little_and_notices_a_dead_peer() -> None:
    with socket.socket() as sock:
        configure(sock, LIMITS)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 32768 <= sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * 32768
        assert 16384 <= sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * 16384


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone")
def test_a_dead_peer_is_found_within_a_minute() -> None:
    with socket.socket() as sock:
        configure(sock, LIMITS)

        def option(name: str) -> int:
            return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

        assert option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT") < 60
        assert 0 < option("TCP_USER_TIMEOUT") < 60_000
