"""Text that somebody else wrote, made safe to show: nothing in it pings, links or formats as if it were ours."""

import re
import unicodedata
from urllib.parse import urlsplit

_SUSPECT = re.compile(r"[^\x20-\x7e\n\t]")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Blank though Unicode calls them letters, marks or symbols.
_BLANK = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_ZWJ, _EMOJI_STYLE = "\u200d", "\ufe0f"
_LIVE = re.compile(r"<(?=[!@#]|[^<>]*\|[^<>]*>)")
_IMAGE = re.compile(r"!(?=\[[^\[\]\n]*\]\()")
_DEFINITION = re.compile(r"^( {0,3})(?=\[[^\[\]\n]+\]:)", re.MULTILINE)
_TARGET = re.compile(r"\]\(\s*<?([^\s<>()]+(?:\([^\s<>()]*\)[^\s<>()]*)*)>?[^()\n]*\)")
_HOST = re.compile(r"(?:https?://|www\.)?((?:[\w-]+\.)+[^\W\d_]{2,})", re.IGNORECASE)
_LABEL_LIMIT = 300


def visible(text: str) -> str:
    """Return the text with every character that hides, reorders or fakes blank space shown as its escape."""
    return _SUSPECT.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    char = match.group()
    if not _hides(char) or _joins_emoji(match):
        return char
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"


def _hides(char: str) -> bool:
    code = ord(char)
    if char in _BLANK or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
        return True
    return unicodedata.category(char) in _HIDDEN and not _is_emoji(char)


def _is_emoji(char: str) -> bool:
    return 0x1F000 <= ord(char) <= 0x1FAFF or unicodedata.category(char) == "So"


def _joins_emoji(match: re.Match[str]) -> bool:
    """Whether this is the glue of a composed emoji; the same characters anywhere else are hidden ones."""
    text, at = match.string, match.start()
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if match.group() == _EMOJI_STYLE:
        return bool(before) and _is_emoji(before)
    if match.group() != _ZWJ or not before or not after:
        return False
    if before == _EMOJI_STYLE:
        before = text[at - 2 : at - 1]
    return bool(before) and _is_emoji(before) and _is_emoji(after)


def escape(text: str) -> str:
    """Return the text for a mrkdwn object or a message's `text`: no `<...>` of it comes alive."""
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def prose(text: str) -> str:
    """Return a model's Markdown for a markdown block: it formats, but can't ping, embed or disguise a link."""
    text = visible(text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _LIVE.sub("&lt;", text)
    text = _IMAGE.sub("", text)
    text = _DEFINITION.sub(r"\1\\", text)
    return _TARGET.sub(_with_true_host, text)


def _with_true_host(match: re.Match[str]) -> str:
    """Name the host a link leads to where its label names another."""
    target = match.group(1)
    host = _host_of(target)
    named = {_bare(h) for h in _HOST.findall(_label_before(match.string, match.start()))}
    if not named or named == {_bare(host)}:
        return match.group()
    return f"{match.group()} ({host or target[:80]})"


def _host_of(target: str) -> str:
    try:
        return urlsplit(target).hostname or ""
    except ValueError:
        return ""


def _bare(host: str) -> str:
    return host.lower().removeprefix("www.")


def _label_before(text: str, end: int) -> str:
    """Return the link label that ends at `end`, brackets within it included."""
    depth = 0
    for at in range(end - 1, max(-1, end - _LABEL_LIMIT), -1):
        if text[at] == "]":
            depth += 1
        elif text[at] == "[":
            if depth == 0:
                return text[at + 1 : end]
            depth -= 1
    return text[max(0, end - _LABEL_LIMIT) : end]


def cut(text: str, limit: int) -> str:
    """Return the text, or its start and an ellipsis, in at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
