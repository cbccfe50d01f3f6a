"""The contract suite for brokers: what a broker owes to the rooms, and what a whole chat over it promises."""

from __future__ import annotations

from .keeping import KeepingContract
from .order import OrderContract
from .presence import PresenceContract
from .shared_chats import SharedChatContract
from .sharing import SharingContract


class BrokerContract(OrderContract, KeepingContract, SharingContract, PresenceContract, SharedChatContract):
    """Tests that hold for every broker, for pytest and its plugin of anyio. A subclass says what is to be tested::

        class TestMine(BrokerContract):
            pytestmark = pytest.mark.anyio
            keeps = True

            @pytest.fixture(autouse=True)
            def _place(self, tmp_path):
                self.path = tmp_path / "chat.db"

            def broker(self, clock):
                return MyBroker(self.path, clock)

    What does not apply is skipped, with the reason: tests of what is kept where `keeps` is false, of failures where
    `fail` is not given, of forgetting where `forgets_after` is 0, of shared rooms where `presence` is None. See
    docs/backends.md for what each group means.
    """
