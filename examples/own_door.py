"""A chat server with a door of its own beside the others, for clients that send one command a line.

LOGIN NAME ROOM joins a room, SAY TEXT speaks in it, WHO lists the members, QUIT leaves.

python examples/own_door.py [HOST:PORT [HOST:PORT]]

The first address is for the usual clients, the second one for those with commands. Ctrl-C drains the
server; then the program ends with code 0.
"""

from __future__ import annotations

import argparse
import sys

import gotcpchat
from chatapi import AddressError, RefusalCode, Refused
from chatapi.doors import ConnectionProtocol, TextStyle, handshake_of, refuse_strangers


class CommandProtocol(ConnectionProtocol):
    """One command a line, before the client has joined a room and afterwards."""

    style = TextStyle(joint=b" says: ", end=b"\r\n", notices=True)

    def next_step(self, most: int) -> str | None:
        """Return the next line as text. Raises `Refused` for a browser, which a web page may have sent here."""
        if self.connection.client is None and refuse_strangers(self.received):
            return None
        line = self.received.take_line(self.connection.hub.limits.line_bytes)
        return None if line is None else line.decode(errors="replace").strip()

    def handle(self, step: str) -> None:
        """Carry out a command. If it raises an error, `refuse` tells the client."""
        word, _, rest = step.partition(" ")
        client = self.connection.client
        if client is None:
            name, _, room = rest.partition(" ")
            if word != "LOGIN":
                raise Refused(RefusalCode.BAD_HANDSHAKE, "say LOGIN NAME ROOM first")
            handshake = handshake_of({"name": name, "room": room, "history": 10}, self.connection.hub.naming)
            self.connection.admit(handshake, lambda handshake: self)
        elif word == "SAY":
            client.post(rest)
        elif word == "WHO" and client.room is not None:
            self.tell(" ".join(client.room.first_members(100)))
        elif word == "QUIT":
            self.connection.wait(self.connection.kept(), self.connection.bye)
        else:
            self.tell("the commands are SAY TEXT, WHO and QUIT")
            self.connection.fault()

    def tell(self, text: str) -> None:
        """Send a line of the server's own."""
        self.connection.write(self.style.line(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat server with a door of its own.")
    parser.add_argument("address", nargs="?", default="localhost:8989", metavar="HOST:PORT", help="for usual clients")
    parser.add_argument("own", nargs="?", default="localhost:8990", metavar="HOST:PORT", help="for commands")
    arguments = parser.parse_args()
    doors = {"commands": (arguments.own, CommandProtocol)}
    try:
        in_good_order = gotcpchat.run_tcp(arguments.address, doors=doors, started=print)
    except AddressError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(f"{parser.prog}: cannot listen: {error}")
    sys.exit(0 if in_good_order else 1)  # 1 after a second Ctrl-C
