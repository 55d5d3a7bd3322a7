"""A page of a list of the Kubernetes API, whose objects are decoded when they are needed."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_DECODER = json.JSONDecoder()


class Page:
    """The text of a list, whose objects are decoded one by one."""

    def __init__(self, text: str) -> None:
        """Find the list's metadata, and where its objects begin. Raises one of MALFORMED.

        API servers write the metadata of their own kinds before the objects, and that of custom
        resources after them: then all objects are decoded once to find the metadata.
        """
        self._text = text
        self._items_at = self._end = -1
        metadata: dict[str, Any] | None = None
        at = self._after("{", 0)
        while text[at] != "}" and (metadata is None or self._items_at < 0):
            key, at = _DECODER.raw_decode(text, at)
            at = self._after(":", at)
            if key == "items":
                self._items_at = at
                if metadata is None:
                    for _ in self.items():
                        pass
                    at = self._next(self._end, "}")
            else:
                value, at = _DECODER.raw_decode(text, at)
                metadata = value if key == "metadata" else metadata
                at = self._next(at, "}")
        if metadata is None or self._items_at < 0:
            raise ValueError("it has no items or no metadata")
        self.version = str(metadata["resourceVersion"])
        self.more = str(metadata.get("continue") or "")

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield the objects in turn. Raises one of MALFORMED."""
        text, at = self._text, self._items_at
        if text.startswith("null", at):
            self._end = at + 4
            return
        at = self._after("[", at)
        while text[at] != "]":
            found, at = _DECODER.raw_decode(text, at)
            if not isinstance(found["metadata"], dict):
                raise ValueError("an item has no metadata")
            yield found
            at = self._next(at, "]")
        self._end = at + 1

    def _after(self, sign: str, at: int) -> int:
        """Return where the next value begins, after a required character."""
        at = self._blank(at)
        if self._text[at] != sign:
            raise ValueError(f"{self._text[at : at + 20]!r} instead of {sign}")
        return self._blank(at + 1)

    def _next(self, at: int, closing: str) -> int:
        """Return where the next member begins, or where the closing bracket is."""
        at = self._blank(at)
        return at if self._text[at] == closing else self._after(",", at)

    def _blank(self, at: int) -> int:
        while self._text[at] in " \t\r\n":
            at += 1
        return at
