"""What may be a name, and when two of them are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples

from chatapi.core.names import check_name, check_room, name_key
from chatapi.errors import RefusalCode, Refused

CHECKS = pytest.mark.parametrize(
    ("check", "most", "code"), [(check_name, 32, RefusalCode.BAD_NAME), (check_room, 64, RefusalCode.BAD_ROOM)]
)


@pytest.mark.parametrize(
    "name", ["M", "Mina", "mina_2", "a.b|c~d!", "Zoë", "Ωμέγα", "山田", "مينا", "👩", "1", "a@b", "a/*#", "-", "\ue000"]
)
def test_a_name_may_be_of_any_script_and_most_punctuation(name: str) -> None:
    assert check_name(name) == name
    assert check_room(name) == name


@CHECKS
@pytest.mark.parametrize("char", ["x", "ë", "山", "👩"])
def test_a_name_is_as_long_as_its_limit_and_no_longer(
    check: Callable[[str], str], most: int, code: RefusalCode, char: str
) -> None:
    assert check(char * most) == char * most
    with pytest.raises(Refused, match=f"{most + 1} characters; at most {most} ") as caught:
        check(char * (most + 1))
    assert caught.value.code == code


@CHECKS
def test_the_length_counts_what_is_shown(check: Callable[[str], str], most: int, code: RefusalCode) -> None:
    assert check("\N{LATIN SMALL LETTER A}\u0323\u0302" * most) == "ậ" * most  # three characters for one
    assert check("\u03b1\u0313\u0300\u0345" * most) == "\u1f82" * most  # four for one, which is as bad as it gets
    with pytest.raises(Refused, match=f"has {most + 2} characters") as caught:
        check("\u0958" * (most // 2 + 1))  # one that NFC takes apart into two
    assert caught.value.code == code
    with pytest.raises(Refused, match="1000000 characters"):
        check("x" * 1_000_000)


@CHECKS
@pytest.mark.parametrize(
    ("char", "why"),
    [
        (" ", "white space"),
        ("\t", "white space"),
        ("\n", "white space"),
        ("\u00a0", "white space"),
        ("\u3000", "white space"),
        ("\u2028", "white space"),
        ("\0", "a control character"),
        ("\x1b", "a control character"),
        ("\x7f", "a control character"),
        ("\x9b", "a control character"),
        ("\u200b", "an invisible format character"),
        ("\u202e", "an invisible format character"),
        ("\ufeff", "an invisible format character"),
        ("\U000e0041", "an invisible format character"),
        ("\u0378", "an unassigned character"),
        ("\U0010ffff", "an unassigned character"),
        ("\ud800", "half a surrogate pair"),
        (":", "':'"),
        (",", "','"),
    ],
)
def test_what_cannot_stand_in_a_name_is_refused_and_named(
    check: Callable[[str], str], most: int, code: RefusalCode, char: str, why: str
) -> None:
    for name in (char, f"{char}ina", f"M{char}na", f"Zoë{char}"):
        with pytest.raises(Refused) as caught:
            check(name)
        assert caught.value.code == code
        assert why in caught.value.detail
        assert repr(char) in caught.value.detail or f"U+{ord(char):04X}" in caught.value.detail


@CHECKS
def test_an_empty_name_is_refused(check: Callable[[str], str], most: int, code: RefusalCode) -> None:
    with pytest.raises(Refused, match=f"empty; it must have 1 to {most} characters") as caught:
        check("")
    assert caught.value.code == code


@pytest.mark.parametrize("first", "@/*#")
@pytest.mark.parametrize("rest", ["", "Mina", "Zoë"])
def test_a_name_does_not_start_like_a_command_or_a_notice(first: str, rest: str) -> None:
    with pytest.raises(Refused, match=re.escape(f"the name starts with {first!r}")) as caught:
        check_name(first + rest)
    assert caught.value.code == RefusalCode.BAD_NAME


def test_a_name_is_shown_in_its_composed_form() -> None:
    assert check_name("Zoe\u0308") == check_room("Zoe\u0308") == "Zoë"


@examples(300)
@given(st.text(max_size=70) | st.text("ab:,@/*# \t\u0308\u0958", max_size=40))
@example("\u212a")
def test_whatever_is_accepted_keeps_every_rule(raw: str) -> None:
    try:
        name = check_name(raw)
    except Refused:
        return
    assert name == unicodedata.normalize("NFC", raw) == check_name(name)
    assert 1 <= len(name) <= 32
    assert not re.search(r"^[@/*#]|[:,\s]", name)
    assert not {unicodedata.category(char) for char in name} & {"Cc", "Cf", "Cs", "Cn"}
    assert name_key(name) == name_key(name_key(name))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mina", "mINA"),
        ("Zoë", "ZOE\u0308"),
        ("Straße", "STRASSE"),
        ("ΣΑΣ", "σας"),
        ("Ｍｉｎａ", "mina"),
        ("\ufb01n", "FIN"),
        ("\u212aim", "kim"),
        ("m²", "M2"),
        ("ℌ", "h"),
    ],
)
def test_names_that_differ_in_case_or_form_alone_are_the_same(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(("one", "other"), [("Mina", "Mína"), ("Mina", "Mina_"), ("O", "0"), ("A", "А")])
def test_names_that_differ_in_more_are_not_the_same(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


@examples(100)
@given(st.text("".join(map(chr, range(0x21, 0x7F))), min_size=1))
def test_wide_letters_make_no_other_name(name: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) for char in name)
    assert name_key(name) == name_key(wide) == name_key(name.upper())
