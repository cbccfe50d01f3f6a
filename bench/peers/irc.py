"""IRC: the protocol as templates, and configurations without flood protection and with enough connections."""

from __future__ import annotations

import dataclasses
from typing import Final

from ..load import Protocol, Step

PROTOCOL: Final = Protocol(
    hello=(
        Step("NICK %n\r\nUSER %n 0 * :%n\r\n", wait=" 004 "),
        Step("JOIN #%r\r\n", wait=" 366 "),
    ),
    publish=lambda payload: "PRIVMSG #%r :%t\r\n",
    echo=False,
    ping="PING :",
    pong="PONG :x\r\n",
    max_payload=400,  # a line has 512 bytes at most, prefix and all
    arrivals=8,  # ngircd listens with a backlog of 10
)

PROTOCOL_INSPIRCD: Final = dataclasses.replace(PROTOCOL, arrivals=512)  # it lets people in once a second

NGIRCD: Final = """\
[Global]
Name = irc.bench.test
Info = benchmark
AdminEMail = nobody@bench.test
Listen = 127.0.0.1
Ports = {port}
MotdPhrase = hello
[Limits]
MaxConnections = 0
MaxConnectionsIP = 0
MaxJoins = 0
MaxPenaltyTime = 0
PingTimeout = 3600
[Options]
DNS = no
Ident = no
PAM = no
"""

INSPIRCD: Final = """\
<server name="irc.bench.test" description="benchmark" network="bench">
<admin name="nobody" nick="nobody" email="nobody@bench.test">
<bind address="127.0.0.1" port="{port}" type="clients">
<connect name="all" allow="*" maxchans="100" timeout="60" pingfreq="1h" limit="20000" localmax="20000"
         globalmax="20000" maxconnwarn="off" resolvehostnames="no" useident="no" usednsbl="no" recvq="64M"
         softsendq="64M" hardsendq="64M" threshold="1000000000" commandrate="1000000000" fakelag="no">
<performance softlimit="20000" somaxconn="4096">
<options defaultmodes="nt">
<log method="file" type="* -USERINPUT -USEROUTPUT" level="default" target="{folder}/log">
"""
