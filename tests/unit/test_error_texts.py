"""What a message and a hint of an error never show."""

from __future__ import annotations

import pytest

from fastipam.errors import ConfigError, FastipamError

_URL = "https://user:secret@10.0.0.1:2379"


@pytest.mark.parametrize("kind", [FastipamError, ConfigError])
def test_neither_text_shows_credentials(kind: type[FastipamError]) -> None:
    """User and password of a URL are hidden in the message and in the hint; the host is not."""
    error = kind(f"{_URL} does not answer", hint=f"type --server {_URL}")
    for text in (str(error), error.message, error.hint):
        assert text is not None
        assert "user" not in text
        assert "secret" not in text
        assert "10.0.0.1:2379" in text


def test_both_texts_are_one_line() -> None:
    """A line feed in a message or a hint is escaped."""
    error = FastipamError("one\ntwo", hint="three\nfour")
    assert (error.message, error.hint) == ("one\\ntwo", "three\\nfour")
