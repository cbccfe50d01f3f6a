"""The cases of a conformance run about bytes, frames and messages on one connection."""

from __future__ import annotations

from typing import Final

from .run import Case, Run, case
from .script import Failed, encode, said, show


@case("The client begins with one JSON object that has the name, the room and the protocol.")
def handshake(run: Run) -> None:
    """Ask for names with characters that JSON escapes, or that UTF-8 has in two bytes."""
    name, room = 'Zoë"1"', "#dev\\ops"
    run.start(name, room)
    peer = run.accept()
    said_by = (peer.handshake["name"], peer.handshake["room"])
    if said_by != (name, room):
        raise Failed(f"a handshake with the name {name!r} and the room {room!r}", repr(peer.handshake))
    if peer.handshake.get("resume") is not None:
        raise Failed("a first handshake without `resume`", repr(peer.handshake))
    peer.welcome()
    run.leaves(peer)


@case("The client reads frames that arrive byte by byte.")
def one_byte_pieces(run: Run) -> None:
    """Send everything byte by byte."""
    run.start()
    peer = run.accept()
    frames = [peer.welcome_frame(), said(1, "one"), said(2, "zwölf"), said(3, "\N{SLIGHTLY SMILING FACE} two")]
    data = encode(*frames)
    for at in range(len(data)):
        peer.send_bytes(data[at : at + 1])
    run.prints("Zoe:one", "Zoe:zwölf", "Zoe:\N{SLIGHTLY SMILING FACE} two")
    run.leaves(peer)


@case("The client reads a character whose bytes arrive in two pieces.")
def cut_characters(run: Run) -> None:
    """Cut a character of four bytes at each place. The client has read the cut when it prints the message before it."""
    peer = run.join()
    emoji = "\N{SLIGHTLY SMILING FACE}"
    for cut in (1, 2, 3):
        seq = 2 * cut
        data = encode(said(seq, emoji))
        at = data.index(emoji.encode()) + cut
        peer.send_bytes(encode(said(seq - 1, "before")) + data[:at])
        run.prints("Zoe:before")
        peer.send_bytes(data[at:])
        run.prints(f"Zoe:{emoji}")
    run.leaves(peer)


@case("The client reads all frames that arrive in one piece, in their order.")
def many_frames(run: Run) -> None:
    """Send the welcome and 500 messages in one piece."""
    run.start()
    peer = run.accept()
    peer.send(peer.welcome_frame(), *(said(seq, f"line {seq}") for seq in range(1, 501)))
    run.prints(*(f"Zoe:line {seq}" for seq in range(1, 501)))
    run.leaves(peer)


@case("The client reads a frame of 240,000 bytes.")
def long_frames(run: Run) -> None:
    """Send a frame that is larger than the buffers that libraries read lines with."""
    text = "long ä " * 30_000
    peer = run.join(limits={"line_bytes": 1 << 20})
    peer.send(said(1, text), said(2, "short"))
    run.prints(f"Zoe:{text}", "Zoe:short")
    run.leaves(peer)


@case("The client ignores unknown types and unknown fields.")
def unknown(run: Run) -> None:
    """Send types and fields of a later version, and fields in another order."""
    run.start()
    peer = run.accept()
    later = {"sparkle": [{"type": "message", "text": "not a frame"}], "colour": None}
    last = said(2, "two")
    peer.send(
        peer.welcome_frame() | later,
        {"type": "sparkle", "text": "nothing to print", "name": "Zoe", "size": 1.5e3},
        said(1, "one") | later,
        {"type": "reaction", "to": 1, **later},
        {key: last[key] for key in ("text", "name", "ts", "seq", "type")},
    )
    run.prints("Zoe:one", "Zoe:two")
    run.leaves(peer)


@case("The client ends a line only at a line feed, not at U+0085, U+2028 or U+2029.")
def line_ends(run: Run) -> None:
    """Put characters into texts that some libraries take for the end of a line."""
    strange = "a\u2028b\u2029c\u0085d"
    peer = run.join()
    peer.send(said(1, strange), said(2, "first\nsecond"))
    run.prints(f"Zoe:{strange}", "Zoe:first", "Zoe:second")
    run.type(strange + "\n")
    peer.ack(peer.message(strange), 3)
    run.leaves(peer)


@case("The client sends each line unchanged, in one message with an id of its own.")
def sending(run: Run) -> None:
    """Have texts sent that need escapes, and a last line without an end."""
    peer = run.join()
    texts = ["hello", '  /bye "quoted" back\\slash', "grüße \N{SLIGHTLY SMILING FACE}", "@Zoe"]
    run.type("\n".join(texts))
    run.end_input()
    keys = []
    for seq, text in enumerate(texts, 1):
        message = peer.message(text)
        keys.append(message["id"])
        peer.ack(message, seq)
    if len(set(keys)) < len(keys):
        raise Failed("another `id` for each message", repr(keys))
    run.leaves(peer)


@case("The client asks for `echo` true or false, or accepts its own messages as `ack` and as `message`.")
def own_messages(run: Run) -> None:
    """Be a server with `-echo`: it sends a member its own messages, unless the handshake declines."""
    peer = run.join()
    run.type("hello\n")
    peer.ack(peer.message("hello"), 1, echo=True)
    peer.close()
    peer = run.comes_back(1)
    peer.welcome(1, recovered=True)
    run.leaves(peer)


@case("The client sends `bye` after the last acknowledgement, and nothing after it.")
def goodbye(run: Run) -> None:
    """End the input: the client says goodbye when its message is acknowledged."""
    peer = run.join()
    run.type("hello\n")
    message = peer.message("hello")
    run.end_input()
    peer.ack(message, 1)
    frames = peer.until_end()
    if [frame["type"] for frame in frames] != ["bye"]:
        raise Failed("the frame `bye`, and nothing after it", ", ".join(map(show, frames)) or "the end of the stream")
    peer.close()
    run.exits(0, "the client ends when its input has ended and everything is answered")


@case("The client sends no frame larger than the welcome's `frame_bytes`.")
def frame_bytes(run: Run) -> None:
    """Have a message typed whose frame is too large in bytes, though not in characters."""
    peer = run.join(limits={"frame_bytes": 1024})
    run.type("é" * 600 + "\nshort\n")
    peer.ack(peer.message("short"), 1)
    run.leaves(peer, code=1)


@case("The client reports a refused message, and does not send it again.")
def refused_message(run: Run) -> None:
    """Refuse a message for good."""
    peer = run.join()
    run.type("bad\n")
    bad = peer.message("bad")
    peer.send({"type": "error", "code": "text_too_long", "detail": "the text is too long", "id": bad["id"]})
    run.type("good\n")
    peer.ack(peer.message("good"), 1)
    peer.close()
    peer = run.comes_back(1)
    peer.welcome(1, recovered=True)
    run.leaves(peer, code=1)
    run.names("text_too_long")


@case("The client sends a message again, under its id, after `unavailable`.")
def unavailable(run: Run) -> None:
    """Refuse a message because it cannot be kept for now."""
    peer = run.join()
    run.type("hello\n")
    first = peer.message("hello")
    refusal = {"code": "unavailable", "detail": "not kept: the disk is full"}
    peer.send({"type": "error", **refusal, "id": first["id"]}, {"type": "notice", **refusal})
    peer.send({"type": "notice", "code": "available", "detail": "messages are kept again"})
    peer.ack(peer.message_again(first), 1)
    run.leaves(peer)


@case("The client leaves no more ids unanswered than the welcome's `remember_ids`.")
def remember_ids(run: Run) -> None:
    """Acknowledge nothing, on a server that remembers 4 ids."""
    texts = [f"line {number}" for number in range(10)]
    peer = run.join(limits={"remember_ids": 4})
    run.type("".join(f"{text}\n" for text in texts))
    first = peer.message(texts[0])
    peer.send(said(1, "marker"))
    run.prints("Zoe:marker")
    peer.end()
    keys = {first["id"], *(frame.get("id") for frame in peer.until_end())}
    if len(keys) > 4:
        raise Failed("at most 4 ids that are not answered, as `remember_ids` says", f"{len(keys)} ids")
    peer = run.comes_back(1)
    peer.welcome(1, recovered=True, limits={"remember_ids": 4})
    for seq, text in enumerate(texts, 2):
        peer.ack(peer.message(text), seq)
    run.leaves(peer)


CASES: Final = tuple(one for one in list(vars().values()) if isinstance(one, Case))
"""These cases, in the order in which they run."""
