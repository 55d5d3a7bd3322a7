"""Transactions for programs with an event loop (asyncio)."""

from __future__ import annotations

import asyncio
import contextvars
import inspect

from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeVar

    from fastipam.transactions import Transaction

    Result = TypeVar("Result")


class _RolledBack(Exception):
    """The task was cancelled before the commit."""


async def run(
    begin: Callable[[], AbstractContextManager[Transaction]],
    function: Callable[[Transaction], Result],
) -> Result:
    """Implement :meth:`fastipam.Ipam.run`; ``begin`` returns the transaction."""
    given: object = function
    if not callable(given):
        if inspect.iscoroutine(given):
            given.close()
        raise ConfigError(
            f"function must be a function, not {given!r}",
            field="function",
            value=given,
            hint="give a function of the transaction, not its result: await ipam.run(attach)",
        )
    if inspect.iscoroutinefunction(function):
        raise _coroutine(function)
    loop = asyncio.get_running_loop()
    began = cancelled = False

    def call() -> Result:
        nonlocal began
        began = True
        if cancelled:
            raise _RolledBack
        with begin() as txn:
            try:
                result = function(txn)
            except StopIteration as error:
                # Before Python 3.12 a future refuses it, and the task would wait forever.
                raise RuntimeError("the function raised StopIteration") from error
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise _coroutine(function)
            if cancelled:
                raise _RolledBack
            return result

    context = contextvars.copy_context()
    future = loop.run_in_executor(None, context.run, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled = True
        if not began:  # it waits for a worker thread, and will do nothing there
            future.cancel()
            raise
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # read, so that asyncio does not log it: the task ends as cancelled
        raise


def _coroutine(function: object) -> ConfigError:
    return ConfigError(
        f"function is {function!r}, which is a coroutine function, and a transaction cannot wait "
        "for a coroutine",
        field="function",
        value=function,
        hint="give a plain function: it is called in a thread of its own",
    )
