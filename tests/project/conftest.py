"""Lets the player of conversations say what differs."""

import pytest

pytest.register_assert_rewrite("conversations")
