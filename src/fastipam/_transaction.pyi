from types import TracebackType
from typing import Any, Self, final

from typing_extensions import disjoint_base

__test__: dict[str, str]

@final
class WriterLock:
    path: str
    def __new__(cls, path: str, patience_s: float = 8.0) -> WriterLock: ...
    def __init__(self, path: str, patience_s: float = 8.0) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

@final
class OpenFiles:
    stale: bool
    def __new__(
        cls,
        env: Any,
        databases: tuple[Any, ...],
        lock: WriterLock,
        data_path: bytes,
        lock_path: bytes,
    ) -> OpenFiles: ...
    def __init__(
        self,
        env: Any,
        databases: tuple[Any, ...],
        lock: WriterLock,
        data_path: bytes,
        lock_path: bytes,
    ) -> None: ...
    @property
    def env(self) -> Any: ...
    @property
    def databases(self) -> tuple[Any, ...]: ...
    @property
    def lock(self) -> WriterLock: ...
    @property
    def users(self) -> int: ...
    @property
    def closing(self) -> bool: ...
    @property
    def identity(self) -> tuple[int, int]: ...
    @property
    def is_forked(self) -> bool: ...
    def is_current(self) -> bool: ...
    def close(self) -> None: ...
    def reopen(self) -> bool: ...

@disjoint_base
class WriteBlock:
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

@disjoint_base
class ReadBlock:
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
