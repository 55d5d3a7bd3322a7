"""Make changes of a store fail, or kill the process, at a step that the test names."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import Literal

from fastipam.storage.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from fastipam.errors import FastipamError
    from fastipam.ipam import Ipam

Step = Literal["begin", "before-commit", "after-commit"]
STEPS: tuple[Step, ...] = ("begin", "before-commit", "after-commit")

_faults: list[_Fault] = []  # with nested blocks, the outer block's fault comes first


class _Fault:
    """An action at a step of a change of ``store``, or of any store when it is None.

    ``call`` is the number of the change, counted from 1, or None for every change.
    """

    def __init__(
        self, store: object, step: Step, call: int | None, act: Callable[[], object]
    ) -> None:
        self._store = store
        self._call = call
        self._seen = 0
        self._step = step
        self._act = act

    def begins(self, store: object) -> bool:
        """Count a change that begins, and return whether the fault applies to it."""
        if self._store not in (None, store):
            return False
        self._seen += 1
        return self._call in (None, self._seen)

    def at(self, step: Step) -> None:
        """Run the action if this is its step."""
        if step == self._step:
            self._act()


def _begin(transaction: Transaction) -> Transaction:
    faults = [one for one in reversed(_faults) if one.begins(transaction.store)]
    transaction.store.local.faults = faults
    _act(faults, "begin")
    return super(Transaction, transaction).__enter__()


def _end(transaction: Transaction, kind: Any, error: Any, trace: Any) -> Any:
    # The attribute is missing if the change began before there was a fault.
    faults = getattr(transaction.store.local, "faults", []) if kind is None else []
    try:
        _act(faults, "before-commit")
    except BaseException as fault:
        super(Transaction, transaction).__exit__(type(fault), fault, fault.__traceback__)
        raise
    swallowed = super(Transaction, transaction).__exit__(kind, error, trace)
    _act(faults, "after-commit")
    return swallowed


def _act(faults: list[_Fault], step: Step) -> None:
    for one in faults:
        one.at(step)


def _put(fault: _Fault) -> None:
    _faults.append(fault)
    hooked: Any = Transaction
    hooked.__enter__, hooked.__exit__ = _begin, _end
    hooked.shares = False  # each change is counted


def _remove(fault: _Fault) -> None:
    _faults.remove(fault)
    if not _faults:
        hooked: Any = Transaction
        del hooked.__enter__, hooked.__exit__
        hooked.shares = True


def kill_at(step: Step, call: int) -> None:
    """Kill this process by SIGKILL at ``step`` of change number ``call`` of any store."""
    _put(_Fault(None, step, call, lambda: os.kill(os.getpid(), signal.SIGKILL)))


@contextmanager
def failing(
    ipam: Ipam, error: FastipamError, *, call: int | None = None, committed: bool = False
) -> Iterator[None]:
    """Make every change of this store raise ``error`` inside the block, and change nothing.

    With ``call`` only the change with that number in the block fails, counted from 1; a transaction
    is one change. With ``committed`` the change is made and committed, and its caller gets the
    error all the same, as if the process had been killed between the commit and the answer.

    Typical errors are ``StoreFull("no space is left")``, ``StoreUnavailable(…)`` and
    ``StoreBusy(…)``. Reading works as before. All threads are affected, and so is
    ``fastipam.cni.handle`` with the same directory; its STATUS reports the error, unless ``call``
    or ``committed`` is given. In nested blocks the error of the inner block is raised.
    """

    def act() -> NoReturn:
        raise error.with_traceback(None)

    store: Any = ipam.store
    fault = _Fault(store, "after-commit" if committed else "begin", call, act)
    outer = vars(store).get("require_writable")
    if call is None and not committed:
        store.require_writable = act
    _put(fault)
    try:
        yield
    finally:
        _remove(fault)
        if outer is not None:
            store.require_writable = outer
        else:
            vars(store).pop("require_writable", None)
