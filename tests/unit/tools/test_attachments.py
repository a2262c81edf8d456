"""Files for people: what is taken, under which name and type, and what is refused before it takes up room."""

import base64

import pytest

from agent.tools import attachments
from agent.tools.attachments import EACH, EACH_TEXT, MOST, OPAQUE, NotTaken, attachment, bounded, clean_name, decoded

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def test_a_picture_keeps_its_bytes_and_gets_an_ending() -> None:
    made = decoded(base64.b64encode(PNG).decode(), name="image", media_type="image/png")
    assert (made.name, made.media_type, made.content) == ("image.png", "image/png", PNG)


def test_bytes_without_a_type_are_known_by_their_start() -> None:
    assert attachment(PNG).name == "file.png"
    assert attachment(b"\x00\x01\xff").media_type == OPAQUE


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("/", "file"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("re\u202egnp.exe", "regnp.exe"),
        ("a\r\nX-Evil: 1.png", "aX-Evil_ 1.png"),
        ("zero\u200bwidth\ufeff.txt", "zerowidth.txt"),
        ('quo"te;.txt', "quo_te_.txt"),
        ("<!channel>.txt", "__channel_.txt"),
        ("x" * 500 + ".txt", "x" * 80 + ".txt"),
        ("Übersicht März.csv", "Übersicht März.csv"),
        (None, "file"),
    ],
    ids=range(13),
)
def test_a_name_is_one_plain_word_of_a_path(given: str | None, clean: str) -> None:
    assert clean_name(given) == clean


@pytest.mark.parametrize(
    "given",
    [
        "text/html\r\nSet-Cookie: a=b",
        "text",
        "/",
        "text/",
        "a/b/c",
        "image/png\x00",
        "x" * 300 + "/y",
        "text/pläin",
        "",
    ],
    ids=range(9),
)
def test_what_is_no_media_type_says_nothing(given: str) -> None:
    assert attachments.clean_media_type(given) == OPAQUE


def test_a_media_type_loses_its_parameters() -> None:
    assert attachments.clean_media_type("Text/CSV; charset=utf-16; x=<script>") == "text/csv"


@pytest.mark.parametrize("data", ["not base64!", "AAA", "é", "===="], ids=range(4))
def test_wrong_base64_is_refused_with_the_reason(data: str) -> None:
    with pytest.raises(NotTaken, match="base64"):
        decoded(data)


def test_80_megabytes_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base64.b64decode", lambda *_args, **_kw: pytest.fail("it was decoded"))
    with pytest.raises(NotTaken, match="larger than 5 MiB"):
        decoded("A" * (80 << 20))


@pytest.mark.parametrize(
    ("content", "media_type"),
    [(b"", "image/png"), (bytes(EACH + 1), "image/png"), (b"a" * (EACH_TEXT + 1), "text/plain")],
    ids=["empty", "large", "long text"],
)
def test_what_is_empty_or_too_large_is_refused(content: bytes, media_type: str) -> None:
    with pytest.raises(NotTaken):
        attachment(content, media_type=media_type)


def test_text_that_calls_itself_bytes_is_still_read_through() -> None:
    assert attachment(b"password=hunter2", media_type=OPAQUE).is_text
    assert attachment(b"a", media_type="image/svg+xml").is_text
    assert not attachment(PNG).is_text


def test_five_files_and_ten_megabytes_are_kept_each_under_a_name_of_its_own() -> None:
    small = [attachment(bytes([n]) * 8, name="same.bin", media_type="image/png") for n in range(8)]
    kept, left = bounded(small)
    assert (len(kept), left) == (MOST, 3)
    assert len({file.name for file in kept}) == MOST
    large = [attachment(bytes(EACH), media_type="image/png") for _ in range(3)]
    assert [len(part) if isinstance(part, tuple) else part for part in bounded(large)] == [2, 1]
