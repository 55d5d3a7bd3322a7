"""CNI for plugin authors: the IPAM plugin in one call, and the parts for a plugin of your own.

:func:`handle` is the whole IPAM plugin. The executable in the CNI bin directory (``main``), the
agent and embedding programs call it. A main plugin also needs :class:`Request`, :func:`result` and
:func:`error_object`. No logic exists twice.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cni.answers import error_object as error_object
    from fastipam.cni.answers import result as result
    from fastipam.cni.handler import handle as handle
    from fastipam.cni.request import Request as Request

__all__ = ["Request", "error_object", "handle", "result"]

_HOME = {"Request": "request", "error_object": "answers", "handle": "handler", "result": "answers"}

if not TYPE_CHECKING:  # a type checker takes any name from a module that has it

    def __getattr__(name: str) -> object:
        # Imported at the first use, so that main.py can report why the plugin cannot be loaded.
        if name not in _HOME:
            raise AttributeError(f"module 'fastipam.cni' has no attribute {name!r}")
        from importlib import import_module

        import_module("fastipam.errors")  # handle() imports this late
        value = getattr(import_module(f"fastipam.cni.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
