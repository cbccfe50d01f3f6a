"""Keys in sorted order against a set that is sorted anew for each answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatapi.core.sorted_keys import SortedKeys

keys = st.text("abc", min_size=1, max_size=2)


@given(st.lists(keys), st.lists(st.tuples(st.booleans(), keys)), keys, st.integers(0, 4))
def test_sorted_keys_are_a_set_and_a_page_begins_right_behind_a_key(
    first: list[str], changes: list[tuple[bool, str]], after: str, most: int
) -> None:
    found, model = SortedKeys(first), set(first)
    for is_added, key in changes:
        (found.add if is_added else found.discard)(key)
        (model.add if is_added else model.discard)(key)
        assert len(found) == len(model)
    assert found.after(None, most) == sorted(model)[:most]
    assert found.after(after, most) == sorted(key for key in model if key > after)[:most]
