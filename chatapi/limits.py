"""Every limit of the chat, with its unit, its default and the reason for it."""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

KiB: Final = 1024
MiB: Final = 1024 * KiB

NAME_CHARS: Final = 32
"""Characters in a name at most: fixed by the protocol, so that clients need not ask."""
ROOM_CHARS: Final = 64
"""Characters in a room's name at most: fixed by the protocol."""
MACHAT_NAME_BYTES: Final = 256
"""Bytes in a name or a room's name at most with ``-machat``: Go has no bound, but a name stands before each line."""
MACHAT_LINE_BYTES: Final = 64 * KiB - 1
"""`Limits.line_bytes` with ``-machat``, if it is not given: what Go's `bufio.Scanner` takes, without the line feed."""
LISTED: Final = 100
"""Names or rooms in one answer at most: fixed by the protocol."""

READ_BYTES: Final = 64 * KiB
"""Bytes received from a socket at once: with more, one sender would delay the others for longer."""
OPENING_READ_BYTES: Final = 4 * KiB
"""Bytes received at once from a connection that is not in a room yet: these get a small share of each round."""
CHUNK_BYTES: Final = 64 * KiB
"""Bytes of rendered log that are sent to a socket at once, about as much as its send buffer takes: a stalled member
holds no more than the part of a chunk that the kernel refused. A run that alone is longer by more than a quarter is
cut; one message is never cut."""
LINES_AT_ONCE: Final = 512
"""Lines of one member in one run at most: rendering makes short lines many times longer."""
RUN_SHARE: Final = 16
"""One run takes at most 1/`RUN_SHARE` of its room's log, in bytes and in entries, or it is one line."""
ROUND_SHARE: Final = 8
"""All runs between two fan-outs take about 1/`ROUND_SHARE` of the log: with more, the log would forget entries that
members have not read."""
PAUSE_AT: Final = 1 / 2
"""A member that lags by more than this part of a room's log pauses the members that send there."""
RESUME_AT: Final = 1 / 4
"""They go on when it lags by less than this part."""
LOOK_EVERY: Final = 1 / 16
"""Part of a room's log that may be written between two looks for members that lag: each look goes through all members
that are behind."""
ENTRY_COST: Final = 300
"""Bytes of Python objects around the text of one log entry (measured on CPython 3.11). They count, so that a log of
short lines is bounded too."""
ITEM_COST: Final = 200
"""Bytes of Python objects around one whisper or answer that waits in a lane."""
ID_COST: Final = 270
"""Bytes of Python objects for one id that a session remembers, beside the id itself (measured on CPython 3.11)."""
SESSION_COST: Final = 3000
"""Bytes of Python objects for one session of a member that has left, beside its ids (likewise)."""
PAST_MESSAGES: Final = 32
"""So many messages of the past, shown to a member, count as one line of its own against `rate`."""
PAST_BYTES: Final = 8 * KiB
"""So many bytes of them count as one line too, if that is more: otherwise a client that sends a few bytes could make
the server send megabytes, again and again."""
TICK: Final = 0.1
"""Seconds between two looks at the deadlines: no deadline needs to be more precise."""


class Limits(BaseModel):
    """The limits of a server: immutable, checked. Each is also a flag and an environment variable of `chatserver`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    line_bytes: int = Field(default=8 * KiB, ge=64, le=MiB)
    """Bytes of UTF-8 in one line at most, its line end not counted; room for a few paragraphs."""
    frame_bytes: int = Field(default=64 * KiB, ge=1 * KiB, le=16 * MiB)
    """Bytes of one frame of the JSON protocol at most; for its text `line_bytes` applies."""
    handshake_bytes: int = Field(default=8 * KiB, ge=128, le=MiB)
    """Bytes of the handshake at most, blanks before it not counted."""
    opening_bytes: int = Field(default=64 * KiB, ge=128, le=16 * MiB)
    """Bytes that a connection may send before it is in a room: blanks, refused nicknames and telnet's sequences count.
    At least `handshake_bytes` are allowed. They are few, because their sender is not known yet."""
    handshake_seconds: float = Field(default=10, gt=0, le=3600)
    """Seconds from connecting until the handshake must be complete; then the connection is closed."""
    nickname_seconds: float = Field(default=120, gt=0, le=3600)
    """Seconds that a person at the telnet door has to give a nickname that is valid and free."""

    log_bytes: int = Field(default=8 * MiB, ge=64 * KiB)
    """Bytes of one room's log at most: its history, and how far a slow member may fall behind."""
    log_entries: int = Field(default=65_536, ge=64)
    """Messages, joins, leaves and renames in one room's log at most."""
    total_log_bytes: int = Field(default=512 * MiB, ge=MiB)
    """Bytes of all rooms' logs together at most; the rooms that are empty for longest are closed first, then
    the largest logs are shortened."""
    keep: float = Field(default=3600, ge=0)
    """Seconds that a room and its history stay in memory after its last member left."""
    history: int = Field(default=1000, ge=0)
    """Messages replayed at most, on joining and for `/history`, even if more are requested."""
    in_hand_bytes: int = Field(default=4 * MiB, ge=64 * KiB)
    """Bytes of one room's messages that may wait for the broker; with more, its senders are paused."""

    send_buffer_bytes: int = Field(default=64 * KiB, ge=4 * KiB, le=64 * MiB)
    """Bytes the kernel may hold for a member that does not read (SO_SNDBUF; Linux doubles it)."""
    receive_buffer_bytes: int = Field(default=64 * KiB, ge=4 * KiB, le=64 * MiB)
    """Bytes the kernel may hold from a member that is not read from (SO_RCVBUF; Linux doubles it)."""
    lane_bytes: int = Field(default=64 * KiB, ge=4 * KiB)
    """Bytes of whispers and answers that may wait for one member; a page of history has at most so many, or one
    message."""

    room_members: int = Field(default=20_000, ge=1)
    """Members of one room at most."""
    rooms: int = Field(default=10_000, ge=1)
    """Rooms at most, those included that are empty and keep their history."""
    connections: int = Field(default=50_000, ge=1)
    """Connections at most, those included that have not yet sent a handshake; fewer if descriptors are short."""
    openings: int = Field(default=4096, ge=1)
    """Connections at most that have no member, because their handshake has not come or they are being closed. One more
    takes the place of the oldest one of the address that has the most of them."""
    address_openings: int = Field(default=1000, ge=1)
    """The same for one address that is not trusted: its oldest one gives way. Enough for an office that reconnects."""

    rate: float = Field(default=50, ge=0)
    """Lines a second that are read from one member in the long run; 0 for no bound. Further lines wait; none is
    lost."""
    burst: int = Field(default=200, ge=1)
    """Lines that one member may send at once before `rate` delays it. The history that one request shows counts as at
    most so many lines."""
    flood: int = Field(default=50, ge=1)
    """Refused commands, whispers and nicknames, beyond one a second, after which a member is disconnected."""
    address_rate: float = Field(default=500, ge=0)
    """Lines a second that are read from all connections of one address that is not trusted, in the long run; 0 for no
    bound, as with a `rate` of 0. Ten members' worth: a household or a small office may share an address."""
    address_burst: int = Field(default=2000, ge=1)
    """Lines that all connections of one address may send at once before `address_rate` delays them."""
    address_flood: int = Field(default=500, ge=1)
    """Refused commands, whispers and nicknames of all connections of one address that is not trusted, beyond ten a
    second, after which the next connection that causes one is disconnected."""

    grace: float = Field(default=5, ge=0)
    """Seconds that a room waits for a member that lags by more than half of its log, and that a leaving
    member has to receive the bytes that are still on their way to it."""
    room_wait: float = Field(default=12, ge=0)
    """Seconds of any minute that a room waits for slow members at most, for all of them together; half of it may be
    used at once. The default lets one slow member have its `grace`; with 120 or more there is no bound."""
    slow_penalty_seconds: float = Field(
        default=60, ge=0, validation_alias=AliasChoices("slow_penalty_seconds", "unforgiven")
    )
    """Seconds during which a room does not wait for a name or an address that was disconnected for being slow."""
    hook_seconds: float = Field(default=5, gt=0)
    """Seconds that an async hook of the program may take for one member; then the request of the member is refused."""
    reserve: float = Field(default=5, ge=0)
    """Seconds that the name of a JSON member stays reserved when its connection breaks."""
    remember: float = Field(default=300, ge=0)
    """Seconds that the ids of a JSON member's messages are remembered, so that none is kept twice."""
    remember_ids: int = Field(default=1024, ge=1)
    """Ids of one JSON member's messages that are remembered at most."""
    session_bytes: int = Field(default=256 * MiB, ge=MiB)
    """Bytes of the sessions of all JSON members; above it the sessions of members that are not connected are forgotten,
    in the order in which the members left. Those of connected members count, and are kept."""
    address_session_bytes: int = Field(default=16 * MiB, ge=64 * KiB)
    """The same for the sessions of one address that is not trusted: more than 5,000 sessions with few ids."""
    idle: float = Field(default=0, ge=0)
    """Seconds without a byte after which a member is disconnected; 0 for never."""
    linger: float = Field(default=2, ge=0)
    """Seconds that a closing connection waits for the other side's end of stream."""
    drain: float = Field(default=10, ge=0)
    """Seconds that a server that shuts down has to send its remaining data."""

    announce: int = Field(default=200, ge=0)
    """Members above which a room no longer announces joins, leaves and renames."""


class Keep(BaseModel):
    """How much of a room's history stays in a store's file: immutable, checked; each field is a flag too."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    days: float = Field(default=0, ge=0)
    """Days after which messages in the file are forgotten; 0 for never."""
    messages: int = Field(default=0, ge=0)
    """Messages of one room in the file at most; 0 for no bound."""
    bytes: int = Field(default=0, ge=0)
    """Bytes of one room's texts in the file at most, its newest run of lines aside; 0 for no bound."""
