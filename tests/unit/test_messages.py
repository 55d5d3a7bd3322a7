"""The list of messages is the source's, and its reader finds what it should and nothing else."""

from __future__ import annotations

import ast
import re

import pytest
from tests import messages


def test_list_is_current() -> None:
    """tests/data/messages.txt is what scripts/reference writes."""
    assert messages.TARGET.read_text() == messages.render(), "run scripts/reference"


@pytest.mark.parametrize(
    ("source", "entries"),
    [
        (
            'raise E(f"{name!r} is not a time", hint="use 2h")',
            [(("'{name}' is not a time",), ("use 2h",))],
        ),
        (
            'def f():\n    text = "it is empty"\n    raise E(text, hint=HINT)',
            [(("it is empty",), ("run `fastipam check`",))],
        ),
        ('log.info("store=%s not read: %s", path, e)', [(("store={path} not read: {e}",), ())]),
        ("x = f\"{counted(n, 'address')} left\"", [(("{1 address} left",), ())]),
        ("y = f\"{n} {'is' if n < 2 else 'are'} free\"", [(("{n} (is|are) free",), ())]),
        ('def f():\n    """A docstring is not printed."""', []),
        ('@option(help="What a command says.")\ndef f(): ...', []),
        ('if text == "not a message": ...', []),
    ],
)
def test_reader(source: str, entries: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    """Messages have their hints and the names of their values; what is not printed is left out."""
    found = messages.Module(ast.parse(source), {"HINT": "run `fastipam check`"}).entries
    assert found == entries


def test_reader_of_other_sources() -> None:
    """A Cython source has texts and values as Python has; a C source has texts."""
    source = '# a comment "is not read"\nE(f"{hex(x)} cannot "\n  "be read", hint="try again")'
    (entry,) = messages.other_entries(source, is_cython=True)
    assert entry == (("{hex} cannot be read",), ("try again",))
    (entry,) = messages.other_entries('/* "not this one" */ say("try again");', is_cython=False)
    assert entry.messages == ("try again",)


def test_plain_words() -> None:
    """A wrong value "is not a …", and no message has a phrase that makes its reader guess."""
    riddles = r"(?<!there )\bis no (?!longer\b)\w|\bare no\b|\b(nobody|somebody|anew)\b|to and fro"
    assert not [line for line in messages.render().splitlines() if re.search(riddles, line)]
