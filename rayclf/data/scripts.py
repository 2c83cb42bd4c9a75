"""Which scripts texts are written in, by the Unicode names of their letters: Latin, Cyrillic, Han and so on.

A backbone that never saw a script splits its words into bytes: such texts become long, and are learned badly.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

_CHARACTERS = 500  # of each text; the script of a text shows at its beginning
_NAMES = {"CJK": "Han", "KANGXI": "Han", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana"}
_KNOWN = (
    "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "ARMENIAN", "GEORGIAN", "ETHIOPIC", "DEVANAGARI", "BENGALI",
    "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "THAI", "LAO", "TIBETAN",
    "MYANMAR", "KHMER", "MONGOLIAN", "HANGUL", "CHEROKEE",
)  # fmt: skip


@cache
def script_of(character: str) -> str | None:
    """The script of a letter, ``other`` for a rare one; None for what is no letter.

    The standard library has no table of scripts, but the Unicode name of a letter holds it: ``CYRILLIC SMALL LETTER
    BE``, ``FULLWIDTH LATIN CAPITAL LETTER A``.
    """
    if not unicodedata.category(character).startswith("L"):
        return None
    words = unicodedata.name(character, "").replace("-", " ").split()
    for word in words:
        if word in _NAMES:
            return _NAMES[word]
        if word in _KNOWN:
            return word.capitalize()
    return "other"


def count_scripts(texts: Iterable[str | None]) -> Counter[str]:
    """Letters of each script in the first 500 characters of each text."""
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update((text or "")[:_CHARACTERS])
    found: Counter[str] = Counter()
    for character, times in characters.items():
        if (script := script_of(character)) is not None:
            found[script] += times
    return found
