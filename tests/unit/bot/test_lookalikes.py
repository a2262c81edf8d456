"""Words that are not what they seem, and honest ones in other alphabets."""

import pytest

from bot.lookalikes import found


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"command": "kub\u0435ctl get pods"}, ["kub\\u0435ctl"]),
        ({"host": "\u0440\u0430\u0443.example"}, ["\\u0440\\u0430\\u0443.example"]),
        ({"command": ["\uff52\uff4d", "-rf"]}, ["\\uff52\\uff4d"]),
        ({"a": {"n\u03bfde": [1, None, True]}}, ["n\\u03bfde"]),
        ({"a": "db-\u0430\u0441", "b": "db-\u0430\u0441"}, ["db-\\u0430\\u0441"]),
        ({"a": " ".join(f"web{n}-\u0430" for n in range(9))}, [f"web{n}-\\u0430" for n in range(5)]),
        ({"host": "c\u0430f\u00e9.example"}, ["c\\u0430f\u00e9.example"]),
        ({"command": "kubectl get pods"}, []),
        ({"path": "/srv/\u043e\u0442\u0447\u0451\u0442.txt"}, []),
        ({"text": "\u043f\u0435\u0440\u0435\u0437\u0430\u043f\u0443\u0441\u0442\u0438 web"}, []),
        ({"text": "Slack\u3067\u901a\u77e5, caf\u00e9, na\u00efve, m\u00b2, Stra\u00dfe"}, []),
        ({"text": "kap\u0131, 1\u00aa, n\u00ba 3"}, []),
        ({}, []),
    ],
)
def test_words_of_mixed_letters_are_named_and_no_others(args: dict[str, object], words: list[str]) -> None:
    assert found(args) == words


def test_arguments_may_be_nested_as_deep_as_they_can_be_asked_for() -> None:
    args: dict[str, object] = {"host": "\u0440ay"}
    for _ in range(450):
        args = {"a": [args]}
    assert found(args) == ["\\u0440ay"]
