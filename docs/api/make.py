"""Write docs/api from the code: what the library offers, as Markdown.

    python docs/api/make.py          # from the top of the source tree; scripts/reference runs it

``index.md`` is the whole public surface on one page: a signature and a line for each name. The
other pages have the docstrings. The names come from ``__all__`` and from the lists below. The types
are the objects that the annotations stand for: one that cannot be evaluated, and an attribute
without one, stop the script.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fastipam
import fastipam.cni
import fastipam.errors
import fastipam.testing

HERE = Path(__file__).parent
WIDTH = 92  # columns of a signature: a page with margins, and half of a wide screen

FIRST = ("open", "Ipam", "Transaction", "Network", "Owner", "Pod", "Netns", "Lease")
# Classes of objects that the calls above take or return, and that no program has to import.
VALUES = (
    "fastipam.addressing.ranges.RangeSet",
    "fastipam.storage.records.event.Event",
    "fastipam.storage.records.reservation.Reservation",
    "fastipam.storage.store.Store",
    "fastipam.network.reading.ListOf",
)
MAINTENANCE = (
    "fastipam.sweep.sweep",
    "fastipam.sweep.Report",
    "fastipam.sweep.finish_reboot",
    "fastipam.verify.verify",
    "fastipam.verify.Finding",
    "fastipam.repair.repair",
    "fastipam.repair.Action",
    "fastipam.backup.backup",
    "fastipam.backup.restore",
)
FIXTURES = "fastipam.testing.fixtures"

# Classes whose objects only calls make.
MADE_BY_CALLS = {
    "Action", "Contents", "Event", "Finding", "Ipam", "Lease", "Network", "NetworkOptions",
    "NetworkStats", "PluginRequest", "Report", "Request", "Reservation", "SetStats",
    "TemporaryNetns", "Transaction",
}  # fmt: skip
# Members and parameters that only the package itself uses; all of those of an opaque class.
INTERNAL: dict[str, set[str]] = {
    "Clock": {"of", "share", "tick"},
    "Ipam": {"named"},
    "Lease": {"record"},
    "Network": {
        "detach", "names_pool", "outside", "policy", "pool", "pool_key", "store", "tidy", "within",
    },
    "Reservation": {"is_over", "pack", "read"},
    "Transaction": {"flush", "is_closed", "named", "require_open"},
    "handle": {"own_netns", "seen_netns", "services"},
}  # fmt: skip
OPAQUE = {"RangeSet", "Store"}
OPERATORS = ("__call__", "__contains__", "__iter__", "__len__")

INDEX = """\
# API

Written by `scripts/reference`, from the code. This is the whole public surface: a signature and a
line for each name, the types of all that is taken and returned. What is not here is not part of the
API and may change in any release; see [versions](../embedding.md#versions-and-deprecation). Each
heading leads to the full texts: what is O(1), what is raised, when a change is on disk. Types that
are not here are the standard library's."""
LIBRARY = """\
How to use it: [embedding](../embedding.md). `import fastipam` imports a name only when it is first
used."""
ERRORS = "What to do about each: [embedding](../embedding.md#errors)."
UPKEEP = """\
What the command line and the agent do to keep a store in order, for programs that do the same
themselves. They are not names of `fastipam` itself: `from fastipam.sweep import sweep`, and so from
`fastipam.verify`, `fastipam.repair` and `fastipam.backup`."""
TESTING = "How to use it: [embedding](../embedding.md#testing-what-you-build)."


class Page(NamedTuple):
    """A page of full texts about the names at some dotted paths."""

    file: str
    title: str
    introduction: str
    paths: tuple[str, ...]


class Entry(NamedTuple):
    """A function, a class, a member of a class, or a constant. ``types`` are those it shows."""

    name: str
    signature: str
    text: str = ""
    types: tuple[Any, ...] = ()
    members: tuple[Entry, ...] = ()
    kind: type | None = None

    @property
    def anchor(self) -> str:
        """The anchor that a code host makes of the name as a heading."""
        return re.sub(r"[^\w-]", "", self.name.lower())


def pages() -> list[Page]:
    """Return the pages, each with its names in their order."""
    elsewhere = {*fastipam.errors.__all__, "cni", "__version__"}
    own = [name for name in fastipam.__all__ if name not in elsewhere]
    own.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    fixtures = [name for name in vars(importlib.import_module(FIXTURES)) if name[:9] == "fastipam_"]
    library = (*(f"fastipam.{name}" for name in own), *VALUES)
    errors = tuple(dict.fromkeys(_below(fastipam.FastipamError)))
    cni = tuple(f"fastipam.cni.{name}" for name in fastipam.cni.__all__)
    testing = tuple(f"fastipam.testing.{name}" for name in fastipam.testing.__all__)
    testing += ("fastipam.testing.stores.NetworkOptions",)
    testing += tuple(f"{FIXTURES}.{name}" for name in fixtures)
    return [
        Page("library.md", "The library", LIBRARY, library),
        Page("errors.md", "Errors", f"{ERRORS}\n\n{_doc(fastipam.errors)}", errors),
        Page("cni.md", "fastipam.cni", _doc(fastipam.cni), cni),
        Page("maintenance.md", "Maintenance", UPKEEP, MAINTENANCE),
        Page("testing.md", "fastipam.testing", f"{TESTING}\n\n{_doc(fastipam.testing)}", testing),
    ]


def _below(kind: type[BaseException]) -> Iterator[str]:
    """Yield the path of a public error, and those of the errors below it."""
    if kind.__name__ in fastipam.errors.__all__:
        yield f"fastipam.{kind.__name__}"
    for one in kind.__subclasses__():
        if one.__module__ == fastipam.errors.__name__:
            yield from _below(one)


# Types ----------------------------------------------------------------------------------------


@functools.cache
def namespace(module: str) -> dict[str, Any]:
    """Return the names of a module, with those that it has for type checkers only."""
    found = importlib.import_module(module)
    names = {**vars(found)}
    for node in ast.parse(inspect.getsource(found)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                _execute(statement, names)
    return names


def _execute(statement: ast.stmt, names: dict[str, Any]) -> None:
    """Execute a statement for type checkers. What it imports may exist for them only, too."""
    if (
        not isinstance(statement, ast.ImportFrom)
        or not str(statement.module).startswith("fastipam")
        or statement.names[0].name == "*"
    ):
        exec(compile(ast.Module([statement], []), "<types>", "exec"), names)
        return
    module = str(statement.module)
    for alias in statement.names:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{module}.{alias.name}")
        known = vars(importlib.import_module(module))
        if alias.name not in known:
            known = namespace(module)
        names[alias.asname or alias.name] = known[alias.name]


@functools.cache
def stub() -> dict[str, Any]:
    """Return the names of the native module's stub, which has its signatures."""
    path = Path(fastipam.__file__).with_name("_bitmap.pyi")
    names: dict[str, Any] = {"disjoint_base": lambda kind: kind, "__name__": "fastipam._bitmap"}
    for node in ast.parse(path.read_text()).body:
        flags = annotations.compiler_flag  # a stub names classes before they are there
        code = compile(ast.Module([node], []), str(path), "exec", flags)
        with contextlib.suppress(ImportError):  # an older typing_extensions has no disjoint_base
            exec(code, names)
    return names


def evaluate(annotation: Any, names: dict[str, Any]) -> Any:
    """Return the type that an annotation stands for."""
    return eval(annotation, names) if isinstance(annotation, str) else annotation


def resolve(kind: Any) -> Any:
    """Return the type that an alias of a `type` statement names, as numpy 2.5 has NDArray."""
    named = getattr(typing.get_origin(kind) or kind, "__value__", None)
    if named is None:
        return kind
    inner = typing.get_args(kind)
    return named[inner] if inner else named


def show(kind: Any) -> str:
    """Return a type as a program writes it."""
    kind = resolve(kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is None or kind is type(None):
        return "None"
    if kind is Ellipsis:
        return "..."
    if isinstance(kind, list):  # the arguments of a Callable
        return f"[{', '.join(map(show, kind))}]"
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(show_value, inner))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(show, inner))
    name = str(getattr(origin or kind, "__name__", None) or kind)
    if name == "ndarray":  # the shape and the dtype are any
        return "numpy.ndarray"
    return f"{name}[{', '.join(map(show, inner))}]" if inner else name


def show_value(value: object) -> str:
    """Return a default as a program writes it; "..." for an object that has no short name."""
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"') + '"'
    return "..." if " at 0x" in repr(value) else repr(value)


def classes(kind: Any) -> Iterator[Any]:
    """Yield the classes that a type is made of."""
    kind = resolve(kind)
    origin = typing.get_origin(kind)
    if isinstance(kind, list | tuple):
        for one in kind:
            yield from classes(one)
    elif origin is not typing.Literal:
        yield origin or kind
        yield from classes(typing.get_args(kind))


# Entries --------------------------------------------------------------------------------------


def entry(path: str) -> Entry:
    """Return what is at a dotted path."""
    module, _, name = path.rpartition(".")
    found = namespace(module)[name]
    if isinstance(found, type):
        return _class(found)
    if callable(found):
        made = _function(name, found)
        if module == FIXTURES:
            fixture = made.signature.partition(" -> ")[2].removeprefix("Iterator[").rstrip("]")
            made = made._replace(signature=f"fixture {name}: {fixture}")
        return made
    return Entry(name, f"{name}: {show(type(found))} = {show_value(found)}", "", (type(found),))


def _function(name: str, function: Any, names: dict[str, Any] | None = None) -> Entry:
    """Return the entry of a function or method. ``names`` are those of a stub."""
    inner = inspect.unwrap(function)
    signature = inspect.signature(inner)
    names = names or namespace(inner.__module__)
    shown, kinds, keyword_only = [], [], False
    short = name.rpartition(".")[2]
    for one in signature.parameters.values():
        if one.name in ("self", "cls", *INTERNAL.get(name, ())):
            continue
        if one.kind is one.KEYWORD_ONLY and not keyword_only:
            shown.append("*")
        keyword_only = keyword_only or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        stars = ("", "*", "**")[
            (one.kind is one.VAR_POSITIONAL) + 2 * (one.kind is one.VAR_KEYWORD)
        ]
        text = stars + one.name
        if one.annotation is not one.empty:
            kinds.append(evaluate(one.annotation, names))
            text += f": {show(kinds[-1])}"
        if one.default is not one.empty:
            text += f" = {show_value(one.default)}"
        shown.append(text)
    result = ""
    if signature.return_annotation is not signature.empty:
        kinds.append(evaluate(signature.return_annotation, names))
        result = f" -> {show(kinds[-1])}"
        if getattr(function, "__code__", inner.__code__).co_filename == contextlib.__file__:
            result = result.replace("Iterator", "AbstractContextManager")
    if inspect.iscoroutinefunction(inner):
        short = f"async {short}"
    return Entry(name, _fold(short, shown, result), _doc(function), tuple(kinds))


def _fold(name: str, parameters: list[str], result: str) -> str:
    """Return a signature, in several lines if one is too short."""
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= WIDTH:
        return line
    lines: list[str] = []
    for each in parameters:
        if lines and len(lines[-1]) + len(each) < WIDTH:
            lines[-1] += f" {each},"
        else:
            lines += textwrap.wrap(
                f"{each},", WIDTH, initial_indent="    ", subsequent_indent=" " * 8
            )
    return "\n".join((f"{name}(", *lines, f"){result}"))


def _class(kind: type) -> Entry:
    """Return the entry of a class, with its public members but those of a base that is shown."""
    name = kind.__name__
    bases = list(_bases(kind))
    shown = f"({', '.join(base.__name__ for base in bases)})" if bases else ""
    if name in OPAQUE or getattr(kind, "_is_protocol", False):
        return Entry(name, f"class {name}", _doc(kind).partition("\n\n")[0], kind=kind)
    inherited = {member for base in bases for member in dir(base)} | {
        field for base in bases if base.__module__.startswith("fastipam") for field in _fields(base)
    }
    fields = {field: each for field, each in _fields(kind).items() if field not in inherited}
    methods = [each for member, each in _methods(kind) if member not in inherited]
    members = (*_constructor(kind, bases), *fields.values(), *methods)
    return Entry(name, f"class {name}{shown}", _doc(kind), members=members, kind=kind)


def _bases(kind: type) -> Iterator[type]:
    """Yield the bases of a class that are shown: public ones, and Python's."""
    for base in kind.__bases__:
        if base.__module__ == "builtins" or getattr(fastipam, base.__name__, None) is base:
            yield from {base} - {object}
        else:
            yield from _bases(base)


def _own(kind: type) -> list[type]:
    """Return a class and its bases in the package; those below the public ones stay hidden."""
    hidden = ("fastipam.storage", "fastipam._ledger")
    inside = kind.__module__.startswith(hidden)
    return [
        one
        for one in kind.__mro__
        if one.__module__.startswith("fastipam")
        and (inside or not one.__module__.startswith(hidden))
    ]


def _constructor(kind: type, bases: list[type]) -> Iterator[Entry]:
    """Yield how an object is made, unless calls make it, or a base says it."""
    name = kind.__name__
    if name in MADE_BY_CALLS:
        return
    for one in kind.__mro__:
        if one in bases or not one.__module__.startswith("fastipam"):
            return
        names = stub() if one.__module__ == "fastipam._bitmap" else namespace(one.__module__)
        declared = vars(names[name]) if names is stub() else vars(one)
        for maker in (declared.get("__init__"), declared.get("__new__")):
            if maker is not None:
                made = _function(name, inspect.unwrap(getattr(maker, "__func__", maker)), names)
                signature = re.sub(r" -> (None|Self|\w+)$", "", made.signature)
                yield Entry(name, signature, types=made.types)
                return


def _methods(kind: type) -> Iterator[tuple[str, Entry]]:
    """Yield the public methods and properties of a class, in the order of the source."""
    seen = {*INTERNAL.get(kind.__name__, ())}
    for one in _own(kind):
        names = stub() if one.__module__ == "fastipam._bitmap" else namespace(one.__module__)
        declared = vars(names[one.__name__]) if names is stub() else vars(one)
        for name, found in declared.items():
            is_operator = name in OPERATORS and (inspect.isfunction(found) and found.__doc__)
            if (name.startswith("_") and not is_operator) or name in seen:
                continue
            whole, text = f"{kind.__name__}.{name}", _doc(vars(one).get(name))
            seen.add(name)
            if isinstance(found, property | functools.cached_property):
                getter: Any = found.fget if isinstance(found, property) else found.func
                result = evaluate(inspect.signature(getter).return_annotation, names)
                yield name, Entry(whole, f"{name}: {show(result)}", text, (result,))
            elif isinstance(found, staticmethod | classmethod):
                made = _function(whole, found.__func__, names)
                yield name, made._replace(signature=f"{kind.__name__}.{made.signature}", text=text)
            elif inspect.isfunction(found):
                yield name, _function(whole, found, names)._replace(text=text)


def _fields(kind: type) -> dict[str, Entry]:
    """Return the public attributes of a class: annotated ones, and those that __init__ sets."""
    found: dict[str, Entry] = {}
    for one in reversed(_own(kind)):
        if one.__module__ == "fastipam._bitmap":
            names, tree = (
                stub(),
                ast.parse(Path(fastipam.__file__).with_name("_bitmap.pyi").read_text()),
            )
        else:
            names = namespace(one.__module__)
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        node = next(
            each
            for each in tree.body
            if isinstance(each, ast.ClassDef) and each.name == one.__name__
        )
        for name, annotation in _declared(node.body):
            if name in INTERNAL.get(kind.__name__, ()) or name.startswith("_"):
                continue
            if annotation is not None:
                field = evaluate(annotation, names)
                found[name] = Entry(
                    f"{kind.__name__}.{name}", f"{name}: {show(field)}", "", (field,)
                )
            elif name not in found and not isinstance(vars(one).get(name), property):
                raise TypeError(f"{one.__module__}.{one.__name__}.{name} has no annotation")
    return found


def _declared(body: list[ast.stmt]) -> Iterator[tuple[str, str | None]]:
    """Yield the attributes that a class declares, or sets in __init__, and their annotations."""
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, ast.unparse(statement.annotation)
        elif isinstance(statement, ast.If):  # what only a type checker reads
            yield from _declared(statement.body)
        elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = (*statement.args.args, *statement.args.kwonlyargs)
            given = {one.arg: ast.unparse(one.annotation) for one in arguments if one.annotation}
            for inner in ast.walk(statement):
                if isinstance(inner, ast.AnnAssign):
                    yield from _of_self(inner.target, ast.unparse(inner.annotation))
                elif isinstance(inner, ast.Assign):
                    for target in inner.targets:
                        yield from _of_self(target, _type_of(inner.value, given))


def _type_of(value: ast.expr, given: dict[str, str]) -> str | None:
    """Return the type of a value: an argument's, or a constant's, or None when it is not plain."""
    if isinstance(value, ast.Constant) and value.value is not None:
        return type(value.value).__name__
    if isinstance(value, ast.Compare):
        return "bool"
    return given.get(value.id) if isinstance(value, ast.Name) else None


def _of_self(target: ast.AST, annotation: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield the attributes of self in the target of an assignment."""
    for part in ast.walk(target):
        if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self":
            yield part.attr, annotation


# Markdown -------------------------------------------------------------------------------------


def _doc(found: Any) -> str:
    """Return the docstring of an object."""
    return inspect.cleandoc(getattr(found, "__doc__", None) or "")


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


def _markdown(text: str, link: Callable[[str], str]) -> str:
    """Return a docstring as Markdown. ``link`` makes a link of a name."""
    done: list[str] = []
    is_literal = False
    for part in re.split(r"\n{2,}(?! )|(?<=::)\n\n", text):
        if part.startswith(">>> ") or (is_literal and part.startswith(" ")):
            done.append(_block(textwrap.dedent(part)))
            continue
        is_literal = part.endswith("::")
        prose = re.sub(r":\w+:`([^`]+)`", lambda role: link(role[1]), part.removesuffix("::"))
        prose = re.sub(r"``(.+?)``", r"`\1`", prose, flags=re.DOTALL)
        done.append(textwrap.fill(prose, 100, break_long_words=False, break_on_hyphens=False))
    return "\n\n".join(one for one in done if one)


def _linker(file: str, owner: str, places: dict[str, str]) -> Callable[[str], str]:
    """Return what makes links on a page, in the text of a class."""

    def link(target: str) -> str:
        name = re.sub(r"^~?(fastipam\.)?", "", target)
        for known in (name, f"{owner}.{name}", name.rpartition(".")[2]):
            if known in places:
                return f"[`{name}`]({places[known].removeprefix(file)})"
        return f"`{name}`"

    return link


def _page(page: Page, entries: list[Entry], places: dict[str, str]) -> str:
    link = _linker(page.file, "", places)
    parts = [f"# {page.title}", _markdown(page.introduction, link)]
    for each in entries:
        link = _linker(page.file, each.name, places)
        silent = [one.signature for one in each.members if not one.text]
        head = "\n".join([each.signature, *(textwrap.indent(one, "    ") for one in silent)])
        parts += [f"## {each.name}", _block(head), _markdown(each.text, link)]
        for one in each.members:
            if one.text:
                parts += [f"### {one.name}", _block(one.signature), _markdown(one.text, link)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _index(found: dict[Page, list[Entry]]) -> str:
    parts = [INDEX]
    for page, entries in found.items():
        parts.append(f"## [{page.title}]({page.file})")
        parts.append(_block("\n\n".join("\n".join(_short(each)) for each in entries)))
    return "\n\n".join(parts) + "\n"


def _short(each: Entry) -> Iterator[str]:
    """Yield the signature of an entry, the first line of its text, and its members."""
    yield each.signature
    line = " ".join(each.text.partition("\n\n")[0].split())
    line = re.sub(r":\w+:`~?(?:[a-z_]+\.)*([^`]+)`", r"\1", line).replace("``", "")
    if line:
        yield textwrap.fill(line, WIDTH, initial_indent="    ", subsequent_indent="    ")
    for one in each.members:
        yield textwrap.indent("\n".join(_short(one)), "    ")


def surface() -> dict[Page, list[Entry]]:
    """Return the entries of each page."""
    return {page: [entry(path) for path in page.paths] for page in pages()}


def render() -> dict[str, str]:
    """Return the content of each file of docs/api."""
    found = surface()
    places: dict[str, str] = {}
    for page, entries in found.items():
        for one in (one for each in entries for one in (each, *each.members)):
            if one.text:
                places.setdefault(one.name, f"{page.file}#{one.anchor}")
    files = {page.file: _page(page, entries, places) for page, entries in found.items()}
    return {"index.md": _index(found), **files}


def main() -> None:
    """Write the files."""
    for name, text in render().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
