"""Letters that pass for others: a command or a host's name may be spelled with them and be another one."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_SHOWN = 5
_TOKEN = re.compile(r"[\w.-]+")
_LETTERS = re.compile(r"[^\W\d_]+")
# Cyrillic, Greek, Armenian and phonetic letters that common fonts draw like Latin ones.
_ALIKE = frozenset(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u051d\u04bb\u0475\u04cf\u04c0"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0423\u0406\u0408\u0405\u050c"
    "\u03bf\u03b1\u03bd\u03c1\u03c5\u03b9\u03ba\u03f2\u03f3"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0585\u0578\u057d\u0570\u0581\u0566\u0251\u0261\u026a\u0269"
)


def found(args: Any) -> list[str]:
    """Return the first words in arguments that mix Latin letters with their doubles, those as their escapes."""
    words = dict.fromkeys(word for text in _texts(args) if not text.isascii() for word in _words(text))
    return list(words)[:_SHOWN]


def _words(text: str) -> list[str]:
    return [
        "".join(f"\\u{ord(char):04x}" if _passes(char) else char for char in token)
        for token in _TOKEN.findall(text)
        if not token.isascii() and _deceives(token)
    ]


def _deceives(token: str) -> bool:
    if any(_is_styled(char) for char in token):
        return True
    if not any(char.isascii() and char.isalpha() for char in token):
        return False
    # A word of another alphabet beside a Latin one is honest, unless all of it could be read as Latin.
    return any(
        any(char in _ALIKE for char in letters) and all(char in _ALIKE or _is_latin(char) for char in letters)
        for letters in _LETTERS.findall(token)
    )


def _passes(char: str) -> bool:
    return char in _ALIKE or _is_styled(char)


def _is_latin(char: str) -> bool:
    return char.isascii() or unicodedata.name(char, "").startswith("LATIN ")


def _is_styled(char: str) -> bool:
    """Whether Unicode itself calls it another form of a Latin letter: full width, mathematical, a ligature."""
    # What is raised or lowered is seen as that: 1\u00aa, n\u00ba.
    if char.isascii() or not char.isalpha() or unicodedata.decomposition(char).startswith(("<super>", "<sub>")):
        return False
    return unicodedata.normalize("NFKC", char).isascii()


def _texts(value: Any) -> Iterator[str]:
    """Yield names and texts in order. Not by recursion: arguments may be nested deeper than it goes."""
    left = [value]
    while left:
        match left.pop():
            case str(text):
                yield text
            case dict(named):
                left.extend(reversed([part for pair in named.items() for part in pair]))
            case list(items):
                left.extend(reversed(items))
            case _:
                pass
