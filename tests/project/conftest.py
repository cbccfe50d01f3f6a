"""Have pytest explain the failed assertions of `conversations`, as it does for tests."""

import pytest

pytest.register_assert_rewrite("conversations")
