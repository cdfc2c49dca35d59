"""Words of free text in any script.

Text is normalised (NFKC) and case-folded, so composed and decomposed accents, full and half width are one.
Words follow the Unicode rules (UAX #29) where scripts put spaces between words: letters, digits and
the marks that combine with them, apostrophes between letters, points and commas between digits. Scripts
that write without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give overlapping pairs of
characters, as search engines index them without a dictionary: 北京大学 is 北京, 京大, 大学.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any, Final

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import ArrayType, StringType


def _all_of(category: str) -> list[int]:
    """All characters of a Unicode category, e.g. M for marks."""
    return [
        code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith(category)
    ]


def _class_of(codes: list[int]) -> str:
    """Characters as the inside of a character class."""
    runs = [[code for _, code in run] for _, run in groupby(enumerate(codes), lambda one: one[1] - one[0])]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


_MARKS: Final = _class_of(_all_of("M"))
# Soft hyphens, joiners, marks of direction: not seen, and no part of a word. A space without width is one.
_UNSEEN: Final = dict.fromkeys([*_all_of("Cf"), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]) | {
    0x200B: " "
}
# Han, kana; Thai, Lao; Burmese; Khmer.
_UNSPACED: Final = (
    "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"
)
_LETTER: Final = rf"(?:(?![{_UNSPACED}])[^\W_][{_MARKS}]*)"
_POINTS: Final = ".,\u066b\u066c"
_WORD: Final = rf"{_LETTER}+(?:(?:(?<!\d)['\u2019](?!\d)|(?<=\d)[{_POINTS}](?=\d)){_LETTER}+)*"
_CLUSTER: Final = re.compile(rf"[^\W_][{_MARKS}]*")
_TOKEN: Final = re.compile(rf"({_WORD})|(?:(?=[{_UNSPACED}])[^\W_][{_MARKS}]*)+")


def words_of(text: str) -> list[str]:
    """The words of a text, in order, repeats kept."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_UNSEEN)
    found: list[str] = []
    for token in _TOKEN.finditer(unicodedata.normalize("NFKC", folded)):
        whole = token.group()
        if token.group(1):
            found.append(whole.replace("\u2019", "'"))
            continue
        clusters = _CLUSTER.findall(whole)
        pairs = [first + second for first, second in pairwise(clusters)]
        found += pairs or clusters
    return found


def words(text: Column) -> Column:
    """ARRAY<STRING>: `words_of` each text; null where it is null."""
    made: Any = arrow_udf  # its overloads know decorators only
    tokenize: Callable[[Column], Column] = made(_each, ArrayType(StringType()))
    return tokenize(text)


def _each(texts: pa.Array) -> pa.Array:
    lists = [None if text is None else words_of(text) for text in texts.to_pylist()]
    return pa.array(lists, pa.list_(pa.string()))
