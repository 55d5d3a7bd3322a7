from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final

from fastipam.network import Network
from fastipam.storage.store import Store

_Answered = TypeVar("_Answered")

__test__: dict[str, str]

def parse_request(
    frame: bytes,
) -> tuple[str, bytes, bytes, bytes, int, int, int, int, bytes] | None: ...

@final
class Results:
    def __new__(
        cls, head: bytes, sets: Sequence[tuple[int, int, Sequence[tuple[int, int, int, bytes]]]]
    ) -> Results: ...
    def __init__(
        self,
        head: bytes,
        sets: Sequence[tuple[int, int, Sequence[tuple[int, int, int, bytes]]]],
    ) -> None: ...
    def text(self, addresses: Sequence[tuple[int, int]]) -> bytes | None: ...

@final
class Plain:
    @property
    def network(self) -> Network: ...
    @property
    def is_plain(self) -> bool: ...
    def __new__(
        cls,
        network: Network,
        where: tuple[str, str | None, bool],
        *,
        is_plain: bool,
        results: Results | None = None,
        messages: bytes = b"",
        repeat: str = "",
        is_known: bool = True,
    ) -> Plain: ...

def serve(
    frames: list[bytes],
    first: int,
    known: dict[bytes, Any],
    get: Callable[..., Store],
    kind: Callable[[int, bytes, bytes], _Answered],
) -> list[tuple[_Answered, set[Store]]]: ...
