"""Write tests/data/messages.txt from the source: every text that the program prints, once.

    python tests/messages.py         # scripts/reference runs it

It lists the messages of errors and their hints, notes, log lines, the help of metrics, and what
events and conditions say: each literal text with a space and a word in ``src``. The help of
commands is not in it, because docs/commands.md has it. A value that a message gets when it is
raised is shown as ``{its name}``, and what is one of two texts as ``(one|other)``.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
TARGET = ROOT / "tests" / "data" / "messages.txt"
HEAD = """\
Every text that fastipam prints, by module: written by `scripts/reference`, from the source. The
help of commands is in docs/commands.md. {name} is a value, (one|other) one of two texts. A hint is
on the line below its message.
"""

# What has texts that are not printed: programs, documents, and keywords of a command's help.
LEFT_OUT = {
    "fastipam/agent/web/page/dom.js", "fastipam/agent/web/page/picture.js",
    "fastipam/cli/commands/completion.py", "fastipam/cli/commands/install/bundle.py",
    "fastipam/cli/commands/install/executables.py", "fastipam/cli/reference.py",
    "fastipam/cluster/masquerading/ruleset.py", "fastipam/testing/namespaces.py", "writer_lock.c",
}  # fmt: skip
# Representations, markup, headers of HTTP and programs.
_NOT_PROSE = re.compile(
    r"[<(]\w[\w.-]* |(text/|default-src|camera=|private,|Accept:|Grpc-|User-)|#!/|import \w"
)
HELP = {"help", "short_help", "epilog", "examples", "exits", "metavar", "__doc__"}
LOGS = {"debug", "info", "warning", "error", "exception", "log"}
# Calls that return their first argument in another form.
FORMS = {"shown", "repr", "str", "format_ip", "len", "bytes", "sorted", "decode", "int", "float"}
# Calls whose texts are not printed.
SILENT = {"compile", "namedtuple", "TypeVar", "Struct", "split", "partition", "startswith"}
_LITERAL = re.compile(
    r"""(?P<comment>\#[^\n]*|//[^\n]*|/\*.*?\*/)
      | (?P<hint>\bhint\s*=\s*)?
        (?P<whole>[fbru]{0,2}(?:\"\"\".*?\"\"\"|'''.*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)
        (?:\s+[fbru]{0,2}"(?:[^"\\\n]|\\.)*")*)""",
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(r"""[fbru]{0,2}("|'|`)((?:[^\\]|\\.)*?)\1""", re.DOTALL)


class Entry(NamedTuple):
    """A message and its hints. Either may be missing: one module may raise what another words."""

    messages: tuple[str, ...]
    hints: tuple[str, ...] = ()


def is_prose(text: str) -> bool:
    """Return whether a text is read by people: a space, a word, and another word or a value."""
    words = re.findall(r"\{[^{}]*\}|[A-Za-z][a-z'-]+|\b[aI]\b", text)
    literal = re.sub(r"\{[^{}]*\}", "", text)
    has_word = re.search(r"\b[a-z]{2,}\b", literal)
    is_markup = _NOT_PROSE.match(text) and not text.endswith(")")
    return len(words) > 1 and " " in literal.strip("\n") and bool(has_word) and not is_markup


# Python -----------------------------------------------------------------------------------------


def named(node: ast.expr) -> str:
    """Return a short name for what an expression puts into a text."""
    match node:
        case ast.Name():
            return node.id.strip("_")
        case ast.Attribute():
            return node.attr.strip("_")
        case ast.Constant():
            return str(node.value)
        case ast.Subscript() | ast.Starred():
            return named(node.value)
        case ast.BoolOp():
            return named(node.values[0])
        case ast.BinOp():
            return named(node.left)
        case ast.IfExp():
            return named(node.body)
        case ast.UnaryOp():
            return named(node.operand)
        case ast.Call():
            called = named(node.func)
            if called == "counted" and len(node.args) > 1:
                return f"1 {named(node.args[1])}"
            if called == "join" and node.args:
                return named(node.args[0])
            if called in FORMS:
                return named(node.args[0] if node.args else node.func.value)  # type: ignore[attr-defined]
            return called
        case ast.GeneratorExp() | ast.ListComp():
            return named(node.generators[0].iter)
    return "…"


def rendered(node: ast.expr | None) -> str | None:
    """Return a text as the snapshot shows it, or None for what is not a literal text."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr():
            return "".join(_field(part) for part in node.values)
        case ast.IfExp():
            body, other = rendered(node.body), rendered(node.orelse)
            if body is not None and other is not None:
                return f"({body}|{other})"
        case ast.BinOp(op=ast.Add()):
            left, right = rendered(node.left), rendered(node.right)
            if left is not None or right is not None:
                return (left or f"{{{named(node.left)}}}") + (right or f"{{{named(node.right)}}}")
    return None


def _field(part: ast.expr) -> str:
    if not isinstance(part, ast.FormattedValue):
        return rendered(part) or ""
    text = rendered(part.value)
    if text is not None:
        return text
    quoted = part.conversion == ord("r")
    if isinstance(part.value, ast.Call) and named(part.value.func) in ("shown", "repr"):
        quoted = True
    return f"'{{{named(part.value)}}}'" if quoted else f"{{{named(part.value)}}}"


class Module:
    """The entries of one module, in the order of the source."""

    def __init__(self, tree: ast.Module, constants: dict[str, str]) -> None:
        self.entries: list[Entry] = []
        self._constants = constants
        self._seen: set[int] = set()
        self._function: ast.AST = tree
        self._read(tree)

    def _read(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name) or id(node) in self._seen:
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            before, self._function = self._function, node
            self._claim(node)
            self._read_below(node)
            self._function = before
            return
        if isinstance(node, ast.Call):
            if named(node.func) in SILENT:
                return
            self._read_call(node)
        elif isinstance(node, ast.expr):
            text = rendered(node)
            if text is not None:
                self._add([text], [])
                for below in ast.walk(node):
                    if isinstance(below, ast.FormattedValue) and rendered(below.value) is None:
                        self._read(below.value)
                    self._seen.add(id(below))
                return
        self._read_below(node)

    def _read_below(self, node: ast.AST) -> None:
        for name in node._fields:
            value = getattr(node, name, None)
            for child in value if isinstance(value, list) else (value,):
                if isinstance(child, ast.AST) and not _is_silent(node, child):
                    self._read(child)

    def _claim(self, function: ast.AST) -> None:
        """Keep for their call the texts that a function gives a name and raises with a hint."""
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and node.args:
                hint = _hint_of(node)
                if hint is not None:
                    self._texts(node.args[0])
                    self._texts(hint)

    def _read_call(self, node: ast.Call) -> None:
        """Add a log line with its values, or a message with its hint."""
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOGS:
            for at, one in enumerate(node.args):
                text = rendered(one)
                if text is not None and "%" in text:
                    values = iter(node.args[at + 1 :])
                    shown = lambda _, values=values: f"{{{named(next(values))}}}"  # noqa: E731
                    self._add([re.sub(r"%[-\d.]*[sdrfg]", shown, text)], [])
                    self._seen.add(id(one))
                    return
        hint = _hint_of(node)
        if hint is not None and node.args:
            self._add(self._texts(node.args[0]), self._texts(hint))

    def _texts(self, node: ast.expr) -> list[str]:
        """Return the texts that an argument may be, which are not read again."""
        text = rendered(node)
        if text is not None:
            self._seen.add(id(node))
            return [text]
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            found = [one for one in _assigned(self._function, name) if rendered(one) is not None]
            self._seen.update(map(id, found))
            if found:
                return [rendered(one) or "" for one in found]
            if name in self._constants:
                return [self._constants[name]]
        return []

    def _add(self, messages: list[str], hints: list[str]) -> None:
        if hints or any(map(is_prose, messages)):
            self.entries.append(Entry(tuple(messages), tuple(hints)))


def _hint_of(node: ast.Call) -> ast.expr | None:
    return next((one.value for one in node.keywords if one.arg == "hint"), None)


def _assigned(function: ast.AST, name: str) -> Iterator[ast.expr]:
    """Yield what a name is assigned in a function."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=False))
            for one, its in pairs:
                if isinstance(one, ast.Name) and one.id == name:
                    yield its


def _is_silent(node: ast.AST, child: ast.AST) -> bool:
    """Return whether a child is not printed: a docstring, a comparison, a command's help."""
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True
    if isinstance(node, ast.Compare | ast.MatchValue | ast.arguments):
        return not isinstance(child, ast.Call)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign):
        return child is getattr(node, "returns", None) or child is getattr(node, "annotation", None)
    if isinstance(node, ast.keyword):
        return node.arg in HELP
    return isinstance(child, ast.keyword) and child.arg in HELP


def constants_of(trees: list[ast.Module]) -> dict[str, str]:
    """Return the texts that modules give a name which no other module gives another text."""
    found: dict[str, set[str]] = {}
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                text = rendered(node.value)
                if text is not None:
                    found.setdefault(node.targets[0].id, set()).add(text)
    return {name: texts.pop() for name, texts in found.items() if len(texts) == 1}


# What is not Python -----------------------------------------------------------------------------


def other_entries(text: str, *, is_cython: bool) -> Iterator[Entry]:
    """Yield the entries of a Cython, C or JavaScript source, whose literals are found as texts."""
    waiting: Entry | None = None
    for found in _LITERAL.finditer(text):
        whole = found["whole"]
        if whole is None or whole.lstrip("fbru").startswith(('"""', "'''")):
            continue
        parts = [part[2] for part in _PART.finditer(whole)]
        literal = "".join(parts).encode("latin-1", "backslashreplace").decode("unicode_escape")
        shown = _fields(literal, is_cython=is_cython)
        if not is_prose(shown):
            continue
        if found["hint"] and waiting is not None:
            yield Entry(waiting.messages, (shown,))
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        waiting = Entry((), (shown,)) if found["hint"] else Entry((shown,))
    if waiting is not None:
        yield waiting


def _fields(text: str, *, is_cython: bool) -> str:
    def field(found: re.Match[str]) -> str:
        try:
            name = named(ast.parse(found[1].strip(), mode="eval").body)
        except SyntaxError:
            name = found[1]
        return f"'{{{name}}}'" if found[2] or "shown(" in found[1] else f"{{{name}}}"

    if is_cython:
        return re.sub(r"\{([^{}!:]+)(!r)?(?::[^{}]*)?\}", field, text)
    return re.sub(r"\$(\{[^{}]*\})", r"\1", text)


# The file ---------------------------------------------------------------------------------------


def sections() -> dict[str, list[Entry]]:
    """Return the entries of each source file that has some, by its path below ``src``."""
    files = sorted(
        one
        for one in SOURCE.rglob("*")
        if one.suffix in (".py", ".pyx", ".pxi", ".c", ".js") and _is_ours(one)
    )
    trees = {one: ast.parse(one.read_text()) for one in files if one.suffix == ".py"}
    known = constants_of(list(trees.values()))
    found: dict[str, list[Entry]] = {}
    seen: set[Entry] = set()
    for one in files:
        if one in trees:
            read = Module(trees[one], known).entries
        else:
            cython = one.suffix in (".pyx", ".pxi")
            read = list(other_entries(one.read_text(), is_cython=cython))
        new = [entry for entry in read if entry not in seen]
        if new:
            found[one.relative_to(SOURCE).as_posix()] = list(dict.fromkeys(new))
        seen.update(new)
    return found


def _is_ours(path: Path) -> bool:
    name = path.relative_to(SOURCE).as_posix()
    generated = path.suffix == ".c" and path.with_suffix(".pyx").exists()
    return not generated and name not in LEFT_OUT


@functools.cache
def render() -> str:
    """Return the content of the file."""
    lines = [HEAD]
    for name, entries in sections().items():
        lines.append(f"== {name} ==")
        for entry in entries:
            lines += [f"  {_line(one)}" for one in entry.messages]
            lines += [f"      hint: {_line(one)}" for one in entry.hints]
        lines.append("")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ⏎ ".join(line for line in text.strip("\n").split("\n"))


if __name__ == "__main__":
    TARGET.write_text(render())
