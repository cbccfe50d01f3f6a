r"""A test kit for chats: time that is turned by hand, wires without sockets, and what a broker must do.

With these a whole chat runs line by line inside a test, without an event loop and without waiting::

    kit = ChatKit(limits=Limits(grace=5))
    mina, zoe = kit.member("Mina", "dev"), kit.member("Zoe", "dev")
    mina.send("hello\n")
    kit.settle()
    assert zoe.received() == "Mina:hello\n"

Everything here is part of the public API.
"""

from .contract.recorder import Recorder
from .contract.suite import BrokerContract
from .kit import ChatKit, LateBroker, MemoryWire, Peer, VirtualClock
from .proxy import Plan, Proxy

__all__ = [
    "BrokerContract",
    "ChatKit",
    "LateBroker",
    "MemoryWire",
    "Peer",
    "Plan",
    "Proxy",
    "Recorder",
    "VirtualClock",
]
