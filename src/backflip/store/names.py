"""Names of people: what one may be made of, what two spellings have in common, and which only look alike.

A name may be in any script. Leaves out who has one (`people`).
"""

from __future__ import annotations

import unicodedata

from backflip.errors import DataError

LONGEST_NAME = 60
JOINERS = "\u200c\u200d"
"""Zero width non-joiner and joiner: Persian and the scripts of India are spelled with them."""
VIRAMA = 9
"""Combining class of the sign that takes a letter's vowel; a joiner after it shapes the letter, at the end of a word too."""
SELECTORS = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x180B, 0x180E), 0x180F}
"""They choose among the shapes of the character before them, as in some Japanese names."""
BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x16FE4, 0x1D159}
"""Letters, marks and signs, as Unicode counts them, of which nothing is seen."""
LARGE_TWINS = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0423\u0406\u0408\u0405"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "ABEKMHOPCTXYIJSABEZHIKMNOPTYX",
)
SMALL_TWINS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u051b\u051d\u043a"
    "\u03bf\u03bd\u03b1\u03b9\u03ba\u03c1\u03c4\u03c5",
    "aeopcyxijshqwkovaikptu",
)
"""Cyrillic letters (U+04..), then Greek ones (U+03..), and the Latin ones that look like them."""


def name_of(text: str) -> str:
    """Return a name as it is stored: one encoding, single spaces.

    Raises:
        DataError: it is empty, too long, or holds what cannot be seen.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not 0 < len(name) <= LONGEST_NAME:
        raise DataError(f"a name has 1 to {LONGEST_NAME} letters; please choose another")
    for place, letter in enumerate(name):
        if not _seen(name, place):
            raise DataError(
                f"a name is made of what can be seen, and in this one U+{ord(letter):04X} cannot; please leave that out"
            )
    if all(unicodedata.category(letter)[0] in "MZC" for letter in name):
        raise DataError("this name holds nothing that can be seen by itself; please choose another")
    return name


def folded(name: str) -> str:
    """Return what two spellings of one name have in common: neither case, nor spaces around it, nor how its accents are encoded, nor
    what shapes its letters without being one.

    Done here and not by the database: SQLite's own folding knows no letters but those of ASCII.
    """
    whole = unicodedata.normalize("NFD", " ".join(_bare(name).split())).casefold()
    return unicodedata.normalize("NFC", whole)


def looks(name: str) -> str:
    """Return what names have in common that look alike on a screen, such as one in Cyrillic letters and one in Latin."""
    plain = unicodedata.normalize("NFKC", _bare(name)).translate(LARGE_TWINS)
    return folded(plain).translate(SMALL_TWINS)


def _bare(name: str) -> str:
    return "".join(letter for letter in name if letter not in JOINERS and ord(letter) not in SELECTORS)


def _seen(name: str, place: int) -> bool:
    """Return whether a character is seen, or shapes what is."""
    letter, before, after = name[place], name[place - 1 : place], name[place + 1 : place + 2]
    if letter in JOINERS:
        between = _spells(before) and _spells(after)
        return between or (before != "" and unicodedata.combining(before) == VIRAMA)
    if ord(letter) in SELECTORS:
        return before.strip() != ""
    return letter.isprintable() and ord(letter) not in BLANK


def _spells(letter: str) -> bool:
    return letter != "" and unicodedata.category(letter)[0] in "LM"
