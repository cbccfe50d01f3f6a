"""The contract suite for brokers: the duties of a broker, and the promises of a whole chat over it."""

from __future__ import annotations

from .chats import ChatContract
from .keeping import KeepingContract
from .order import OrderContract
from .presence import PresenceContract
from .shared_chats import SharedChatContract
from .sharing import SharingContract


class BrokerContract(
    OrderContract, KeepingContract, SharingContract, PresenceContract, ChatContract, SharedChatContract
):
    """Tests for every broker, for pytest and its plugin of anyio. A subclass names the broker::

        class TestMine(BrokerContract):
            pytestmark = pytest.mark.anyio
            keeps = True

            @pytest.fixture(autouse=True)
            def _place(self, tmp_path):
                self.path = tmp_path / "chat.db"

            def broker(self, clock):
                return MyBroker(self.path, clock)

    Tests that do not apply are skipped, with the reason: those of keeping if `keeps` is false, of failures if `fail` is
    not overridden, of forgetting if `forgets_after` is 0, of shared rooms if `presence` is None. docs/backends.md
    explains each group.
    """
