"""The Redis servers of a chat: one server, the primary that Sentinels name, or the shards of a cluster."""

from __future__ import annotations

import binascii
import os
import ssl
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
from coredis import BaseConnection, TCPConnection, UnixDomainSocketConnection
from coredis.connection import TCPLocation, UnixDomainSocketLocation
from coredis.exceptions import ConnectionError as NotConnected

_SLOTS: Final = 16384
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_OPTIONS: Final = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")


class Server(NamedTuple):
    """The address of a Redis server; if the port is 0, the host is the path of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


def slot(tag: str) -> int:
    """Return the cluster slot of keys with this hash tag: CRC16 modulo 16,384, as the cluster specification says."""
    return binascii.crc_hqx(tag.encode(), 0) % _SLOTS


class Topology:
    """The servers behind a URL. Raises `ValueError` for an invalid one.

    ``redis://[user:password@]host[:port][/db]``, ``unix:///path?db=0``; ``redis+sentinel://host[:port],…/service[/db]``
    and ``redis+cluster://host[:port],…``; with ``rediss`` for TLS, whose options are ``ssl_ca_certs``,
    ``ssl_certfile``, ``ssl_keyfile`` and ``ssl_cert_reqs=none``.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise _invalid(url, f"a Redis URL must begin with one of {', '.join(f'{name}://' for name in _SCHEMES)}")
        tls, _, self._kind = parts.scheme.partition("+")
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for name in options:
            if name not in _OPTIONS:
                raise _invalid(url, f"unknown option {name!r}; the options are {', '.join(_OPTIONS)}")
        path = [unquote(piece) for piece in parts.path.split("/") if piece]
        self._service = path.pop(0) if self._kind == "sentinel" and path else ""
        if self._kind == "sentinel" and not self._service:
            raise _invalid(url, "the name of the service is missing; write it as in …:26379/mymaster")
        if tls == "unix":
            self._servers = [Server(unquote(parts.path), 0)]
        else:
            port = 26379 if self._kind == "sentinel" else 6379
            self._servers = [_server(host, port, url) for host in hosts.split(",")]
        db = options.get("db") or (path[0] if path and tls != "unix" else "0")
        if not db.isdigit() or (self._kind == "cluster" and db != "0"):
            raise _invalid(url, "the database must be a number, and 0 for a cluster")
        self.sharded: bool = self._kind == "cluster"
        """Whether it is a cluster."""
        self._timeout = timeout
        self._options: dict[str, Any] = {"stream_timeout": timeout, "connect_timeout": timeout}
        if credentials:
            self._options |= {"username": unquote(user) or None, "password": unquote(password) or None}
        if tls == "rediss":
            self._options["ssl_context"] = _tls(options)
        self.db: int = int(db)
        """The number of the database."""
        self._primaries: list[tuple[int, int, Server]] = []
        self._all = list(self._servers)

    def server_for(self, tag: str) -> Server:
        """Return the server for keys with this hash tag, as of the last `refresh`. Only a cluster has several."""
        if not self.sharded:
            return self._servers[0]
        number = slot(tag)
        for low, high, server in self._primaries:
            if low <= number <= high:
                return server
        return self._all[0]

    def servers(self) -> list[Server]:
        """Return every server that has rooms, as of the last `refresh`."""
        return list(dict.fromkeys(server for _, _, server in self._primaries)) or self._servers[:1]

    async def refresh(self) -> None:
        """Ask a cluster which server has which slots. Raises `OSError` and the errors of coredis."""
        if not self.sharded:
            return
        slots = await self._ask_any(self._all, b"CLUSTER SLOTS")
        self._primaries = [(low, high, Server(host.decode(), port)) for low, high, (host, port, *_), *_ in slots]
        found = [server for _, _, server in self._primaries]
        self._all = [*dict.fromkeys([*found, *self._servers])]

    async def connection(self, server: Server) -> BaseConnection:
        """Return a connection that is not open yet; with Sentinels, to the server that they call the primary now."""
        if self._kind == "sentinel":
            found = await self._ask_any(self._servers, b"SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
            if not found:
                raise NotConnected(f"no Sentinel knows the service {self._service!r}")
            server = Server(found[0].decode(), int(found[1]))
        return self._connection(server, db=self.db, **self._options)

    def _connection(self, server: Server, **options: Any) -> BaseConnection:
        options["processing_budget"] = nullcontext()  # no budget: it would share the event loop among connections
        if server.port:
            return TCPConnection(TCPLocation(server.host, server.port), socket_keepalive=True, **options)
        return UnixDomainSocketConnection(UnixDomainSocketLocation(server.host), **options)

    async def _ask_any(self, servers: Sequence[Server], command: bytes, *arguments: str) -> Any:
        """Return the first answer that is not empty. Raises an error if there is none."""
        failure: Exception = NotConnected("no server to ask")
        answer: Any = None
        for server in servers:
            try:
                with anyio.fail_after(self._timeout):
                    async with anyio.create_task_group() as tasks:
                        connection = self._connection(server, **self._options)
                        await tasks.start(connection.run)
                        answer = await connection.create_request(command, *arguments)
                        tasks.cancel_scope.cancel()
                if answer:
                    return answer
            except* Exception as group:
                failure = NotConnected(reason_of(group))
        raise failure

    def __str__(self) -> str:
        return ", ".join(map(str, self._servers)) + (f" ({self._service})" if self._service else "")


def without_password(url: str) -> str:
    """Return a URL that may be shown."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{credentials.partition(':')[0]}:…@{hosts}").geturl() if at else url


def _invalid(url: str, reason: str) -> ValueError:
    return ValueError(f"{without_password(url)!r}: {reason}")


def _server(host: str, port: int, url: str) -> Server:
    name, colon, number = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, number = host, str(port)
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise _invalid(url, f"{number!r} is not a port from 1 to 65535")
    return Server(name.strip("[]") or "localhost", int(number))


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options and not os.access(options[name], os.R_OK):
            raise ValueError(f"{name}={options[name]}: this file does not exist or cannot be read")
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def reason_of(error: BaseException) -> str:
    """Return the text of the first cause of an error that other errors wrap or group."""
    reason = type(error).__name__
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
            continue
        reason, found = str(found) or reason, found.__cause__
    return reason
