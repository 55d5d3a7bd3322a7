"""Named tuples without ``typing``, whose import takes longer than an interpreter's start.

A type checker reads ``typing.NamedTuple`` instead (see ``engine.py``); what it promises is what is
done here: fields in the order of the annotations, defaults, equality, hash, unpacking, ``_fields``,
``_asdict`` and ``_replace``, pickling.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _field(at: int) -> property:
    return property(lambda self: self[at])


class NamedTuple(tuple):  # type: ignore[type-arg]  # its parts are as different as its fields
    """The base of a record; a subclass lists its fields as annotations."""

    _fields: tuple[str, ...] = ()
    _defaults: dict[str, Any] = {}  # noqa: RUF012  # replaced in each subclass, never changed

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        cls._defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
        for at, name in enumerate(cls._fields):
            setattr(cls, name, _field(at))

    def __new__(cls, *values: Any, **named: Any) -> NamedTuple:
        fields = cls._fields
        if named or len(values) != len(fields):
            if len(values) > len(fields):
                raise TypeError(f"{cls.__name__} has {len(fields)} fields, not {len(values)}")
            rest = fields[len(values) :]
            unknown = named.keys() - set(rest)
            missing = [name for name in rest if name not in named and name not in cls._defaults]
            if unknown or missing:
                raise TypeError(
                    f"{cls.__name__}: "
                    + (f"unknown {sorted(unknown)}" if unknown else f"missing {missing}")
                )
            values += tuple(named[name] if name in named else cls._defaults[name] for name in rest)
        return tuple.__new__(cls, values)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True)
        )
        return f"{type(self).__name__}({inside})"

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **changed: Any) -> NamedTuple:
        return type(self)(**{**self._asdict(), **changed})
