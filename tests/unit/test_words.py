# ruff: noqa: RUF001
"""Words by the rules of Unicode, in the scripts that people write titles in."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walkbits.ingest.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red-Wine 75cl, 3.5 l (1,000 ml)", ["red", "wine", "75cl", "3.5", "l", "1,000", "ml"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("الْكِتَاب الجديد", ["الْكِتَاب", "الجديد"]),
        ("Cafe\u0301 CAFÉ", ["café", "café"]),
        ("ﬁne Ｗｉｄｅ ｶﾅ", ["fine", "wide", "カナ"]),
        ("北京大学", ["北京", "京大", "大学"]),
        ("大学", ["大学"]),
        ("茶", ["茶"]),
        ("iPhone手机壳", ["iphone", "手机", "机壳"]),
        ("ดื่มน้อย", ["ดื่ม", "มน้", "น้อ", "อย"]),
        ("Don’t don't rock'n'roll", ["don't", "don't", "rock'n'roll"]),
        ("straße STRASSE", ["strasse", "strasse"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("soft\u00adhyphen \u200eright\u200f", ["softhyphen", "right"]),
        ("ภาษา\u200bไทย", ["ภา", "าษ", "ษา", "ไท", "ทย"]),
        ("葛\U000e0100城 ❤\ufe0f", ["葛城"]),
        ("한국어 책, বই ১২٫৫", ["한국어", "책", "বই", "১২٫৫"]),
        ("a_b — c…d\u2028e", ["a", "b", "c", "d", "e"]),
        ("", []),
        ("!?—", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text())
def test_forms_of_one_text_have_one_list_of_words(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    assert [words_of(form) for form in forms] == [words_of(text)] * 4


@given(st.text())
def test_no_letter_is_lost(text: str) -> None:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found = set("".join(words_of(text)))
    assert {one for one in folded if one.isalnum()} <= found
