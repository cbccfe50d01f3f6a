"""The cases of a conformance run about connections that end: what is sent again, resumed, or given up."""

from __future__ import annotations

import time
from typing import Final

from .run import Case, Run, case
from .script import Failed, encode, said, show, ts

_DROPPING: Final = 2.0
"""Seconds for which the case `backoff` drops each connection."""
_MAX_ATTEMPTS: Final = 20
"""The connections in that time above which a client does not wait between them."""


@case("The client sends a message that is not answered again, under its id.")
def ack_lost(run: Run) -> None:
    """Break the connection before a message was kept."""
    peer = run.join()
    run.type("hello\n")
    first = peer.message("hello")
    peer.reset()
    peer = run.comes_back(0)
    peer.welcome(recovered=True)
    peer.ack(peer.message_again(first), 1)
    run.type("more\n")
    more = peer.message("more")
    if more["id"] == first["id"]:
        raise Failed("another id for another message", show(more))
    peer.ack(more, 2)
    run.leaves(peer)


@case("The client never sends one message under two ids.")
def kept_before_loss(run: Run) -> None:
    """Keep a message and cut its `ack`; a client may send it again, and is told that it is a duplicate."""
    peer = run.join()
    run.type("hello\n")
    first = peer.message("hello")
    ack = {"type": "ack", "id": first["id"], "seq": 1, "ts": ts(1)}
    peer.send_bytes(encode(ack)[:20])
    peer.close()
    peer = run.comes_back(0)
    peer.welcome(1, recovered=True)
    peer.ack(first, 1)
    run.type("next\n")
    while (message := peer.message())["text"] == "hello":
        if message["id"] != first["id"]:
            raise Failed(f"this text only under its id {first['id']!r}", show(message))
        peer.send(ack | {"duplicate": True})
    if message["text"] != "next":
        raise Failed("the message 'next'", show(message))
    peer.ack(message, 2)
    peer.close()
    peer = run.comes_back(2)
    peer.welcome(2, recovered=True)
    run.leaves(peer)


@case("The client sends messages in flight again, in their order and before new ones.")
def in_flight(run: Run) -> None:
    """Reset the connection with messages in flight, of which some are acknowledged."""
    texts = [f"line {number}" for number in range(1, 6)]
    peer = run.join()
    run.type("".join(f"{text}\n" for text in texts))
    for seq in (1, 2):
        peer.ack(peer.message(texts[seq - 1]), seq)
    peer.send(said(3, "marker"))
    third = peer.message(texts[2])
    run.prints("Zoe:marker")
    peer.reset()
    peer = run.comes_back(3)
    run.type("line 6\n")
    peer.welcome(3, recovered=True)
    peer.ack(peer.message_again(third), 4)
    for seq, text in enumerate([*texts[3:], "line 6"], 5):
        peer.ack(peer.message(text), seq)
    run.leaves(peer)


@case("The client does not end before everything is answered.")
def input_ended(run: Run) -> None:
    """Break the connection after the end of the input, which the client has read if it sends a line without an end."""
    peer = run.join()
    run.type("hello")
    run.end_input()
    first = peer.message("hello")
    peer.reset()
    peer = run.comes_back(0)
    peer.welcome(recovered=True)
    peer.ack(peer.message_again(first), 1)
    run.leaves(peer)


@case("The client resumes at the last message, `ack` or `deleted`, with its number and time.")
def position(run: Run) -> None:
    """Send every kind of frame: only messages, the client's own `ack`s and `deleted` move the position."""
    peer = run.join()
    peer.send(said(1, "one"), {"type": "joined", "seq": 1, "name": "Ada"})
    run.type("mine\n")
    mine = peer.message("mine")
    peer.ack(mine, 2)
    peer.send(
        {"type": "whisper", "ts": ts(2) + 1, "name": "Zoe", "text": "psst"},
        {"type": "renamed", "seq": 2, "name": "Ada", "to": "Ida"},
        said(3, "three"),
        {"type": "ack", "id": mine["id"], "seq": 2, "ts": ts(2), "duplicate": True},
        {"type": "deleted", "seq": 4, "ts": ts(4), "name": "moderator", "target": 1},
        {"type": "left", "seq": 4, "name": "Ida", "reason": "bye"},
        {"type": "ack", "id": "a whisper", "seq": None, "ts": ts(4) + 1},
        {"type": "notice", "code": "available", "detail": "messages are kept again"},
        {"type": "error", "code": "bad_frame", "detail": "about no message"},
    )
    run.prints("Zoe:one", "Zoe:three")
    peer.close()
    peer = run.comes_back(4)
    peer.welcome(4, recovered=True)
    peer.send(said(5, "five"))
    run.prints("Zoe:five")
    run.leaves(peer)


@case("After a cut replay, the client resumes at its own position, not at the welcome's.")
def cut_replay(run: Run) -> None:
    """Cut a replay twice, before and after its first message."""
    peer = run.join()
    peer.send(said(1, "one"), said(2, "two"))
    run.prints("Zoe:one", "Zoe:two")
    peer.close()
    peer = run.comes_back(2)
    peer.welcome(6, recovered=True)
    peer.send_bytes(encode(said(3, "three"))[:-10])
    peer.close()
    peer = run.comes_back(2)
    peer.welcome(6, recovered=True)
    peer.send_bytes(encode(said(3, "three"), said(4, "four"))[:-10])
    run.prints("Zoe:three")
    peer.close()
    peer = run.comes_back(3)
    peer.welcome(6, recovered=True)
    peer.send(said(4, "four"), said(5, ""), said(6, "six"))
    run.prints("Zoe:four", "Zoe:six")
    run.leaves(peer)


@case("If nothing is recovered, the client says so and goes on from the welcome.")
def gap(run: Run) -> None:
    """Recover nothing: the client goes on from the welcome's position, and its session still counts."""
    peer = run.join()
    peer.send(said(1, "one"))
    run.prints("Zoe:one")
    run.type("hello\n")
    first = peer.message("hello")
    peer.reset()
    peer = run.comes_back(1)
    peer.welcome(40, recovered=False, reason="trimmed")
    peer.ack(peer.message_again(first), 41)
    peer.send(said(42, "later"))
    run.prints("Zoe:later")
    peer.close()
    peer = run.comes_back(42)
    peer.welcome(7, recovered=False, reason="unknown_epoch", epoch="two")
    peer.send(said(8, "in another log"))
    run.prints("Zoe:in another log")
    peer.close()
    peer = run.comes_back(8, epoch="two")
    peer.welcome(8, recovered=True, epoch="two")
    run.leaves(peer)
    run.names("trimmed")
    run.names("unknown_epoch")


@case("If the session is another one, the client does not send messages in flight again.")
def session_forgotten(run: Run) -> None:
    """Forget the session: it is unknown whether the message in flight was kept, so it must not be sent again."""
    peer = run.join()
    run.type("hello\n")
    peer.message("hello")
    peer.reset()
    peer = run.comes_back(0)
    peer.welcome(1, recovered=False, reason="unknown_epoch", epoch="two", session="key-2")
    run.type("next\n")
    peer.ack(peer.message("next"), 2)
    peer.close()
    peer = run.comes_back(2, epoch="two", session="key-2")
    peer.welcome(2, recovered=True, epoch="two", session="key-2")
    run.leaves(peer, code=1)


@case("The client does not send messages again that are older than the welcome's `remember`.")
def remember(run: Run) -> None:
    """Stay away for longer than the server remembers ids."""
    peer = run.join(limits={"remember": 2})
    run.type("hello\n")
    peer.message("hello")
    since = time.monotonic()
    peer.reset()
    peer = run.comes_back(0)
    time.sleep(max(0.0, since + 2 - time.monotonic()))
    peer.welcome(recovered=True, limits={"remember": 2})
    run.type("next\n")
    peer.ack(peer.message("next"), 1)
    run.leaves(peer, code=1)


@case("If a number is missing, the client connects again and asks for the message.")
def missing_number(run: Run) -> None:
    """Leave a message out: the client connects again and asks for it."""
    peer = run.join()
    peer.send(said(1, "one"), said(3, "three"))
    run.prints("Zoe:one")
    peer = run.comes_back(1)
    peer.welcome(3, recovered=True)
    peer.send(said(2, "two"), said(3, "three"))
    run.prints("Zoe:two", "Zoe:three")
    run.leaves(peer)


@case("After a change of its name, the client comes back under the new one.")
def renamed(run: Run) -> None:
    """Give the client another name, as a program that embeds the server can."""
    peer = run.join()
    peer.send({"type": "renamed", "seq": 0, "name": "Mina", "to": "Mina2"}, said(1, "one"))
    run.prints("Zoe:one")
    peer.close()
    peer = run.comes_back(1, name="Mina2")
    peer.welcome(1, recovered=True)
    run.leaves(peer)


@case("After `reconnect` false, the client ends and does not come back.")
def stay_away(run: Run) -> None:
    """Disconnect the client for good."""
    peer = run.join()
    peer.bye("kicked", reconnect=False)
    run.gives_up("kicked")


@case("After `reconnect` true, the client comes back, not before `after`.")
def come_back_after(run: Run) -> None:
    """Disconnect the client for a while, and then with a code of a later version."""
    peer = run.join()
    peer.send(said(1, "one"))
    since = time.monotonic()
    peer.bye("draining", reconnect=True, after=2)
    run.prints("Zoe:one")
    peer = run.comes_back(1)
    _waited(since, 2)
    peer.welcome(1, recovered=True)
    peer.bye("of_a_later_version", reconnect=True)
    peer = run.comes_back(1)
    peer.welcome(1, recovered=True)
    run.leaves(peer)


@case("The client reports a refusal with its code, and ends.")
def name_taken(run: Run) -> None:
    """Refuse the first handshake."""
    run.start()
    run.accept().refuse("name_taken")
    run.gives_up("name_taken")


@case("A client that comes back tries again after a temporary refusal.")
def refused_for_now(run: Run) -> None:
    """Refuse the handshakes of a client that comes back, with codes after which it can try again."""
    peer = run.join()
    run.type("hello\n")
    first = peer.message("hello")
    peer.reset()
    run.comes_back(0).refuse("draining")
    peer = run.comes_back(0)
    since = time.monotonic()
    peer.refuse("name_taken", after=1)
    peer = run.comes_back(0)
    _waited(since, 1)
    peer.welcome(recovered=True)
    peer.ack(peer.message_again(first), 1)
    run.leaves(peer)


@case("A client that comes back ends after a permanent refusal.")
def refused_for_good(run: Run) -> None:
    """Refuse the handshake of a client that comes back, with a code after which trying again is useless."""
    run.join().reset()
    run.comes_back(0).refuse("unauthorized")
    run.gives_up("unauthorized")


@case("The client tries again while no server listens.")
def server_away(run: Run) -> None:
    """Stop listening for half a second."""
    peer = run.join()
    peer.send(said(1, "one"))
    run.prints("Zoe:one")
    run.listener.close()
    peer.bye("draining", reconnect=True)
    time.sleep(0.5)
    run.listener.open()
    peer = run.comes_back(1)
    peer.welcome(1, recovered=True)
    run.leaves(peer)


@case("The client waits between attempts, longer each time.")
def backoff(run: Run) -> None:
    """Drop each connection for some seconds, and count them."""
    run.join().reset()
    until = time.monotonic() + _DROPPING
    attempts = 0
    peer = run.comes_back(0)
    while time.monotonic() < until:
        peer.reset()
        attempts += 1
        if attempts > _MAX_ATTEMPTS:
            raise Failed("the client waits between attempts, longer each time", f"{attempts} in {_DROPPING:g} seconds")
        peer = run.comes_back(0)
    peer.welcome(recovered=True)
    run.leaves(peer)


def _waited(since: float, seconds: float) -> None:
    """Check that the client has waited, except for the resolution of its clock."""
    waited = time.monotonic() - since
    if waited < seconds * 0.95:
        raise Failed(f"the client waits for {seconds:g} seconds, as `after` says", f"it came back after {waited:.2f}")


CASES: Final = tuple(one for one in list(vars().values()) if isinstance(one, Case))
"""These cases, in the order in which they run."""
