"""The part of CEL that the manifests' rules and policies use, compiled to Python functions.

``compile(text)`` gives a function of the variables (a mapping by name) that returns the value or
raises ``CelError``. Values are Python's: bool, int, str, list, dict, None; a CIDR is an interface
of ipaddress, an optional value an ``Optional``. As in CEL an error on one side of ``||`` or
``&&`` does not matter when the other side decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)
from typing import Any

Scope = Mapping[str, Any]
Function = Callable[[Scope], Any]
Interface = IPv4Interface | IPv6Interface


class CelError(Exception):
    """An expression has no value: no such key, not a CIDR, a type that an operator has not."""


@dataclass(frozen=True)
class Optional:
    """A value that may be absent: what ``.?name`` and ``[?key]`` give."""

    present: bool
    value: Any = None


_TOKEN = re.compile(
    r"""\s*(?: (?P<number>\d+(?:\.\d+)?)
    | (?P<text>r?'(?:\\.|[^'\\])*'|r?"(?:\\.|[^"\\])*")
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>\.\?|\[\?|&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}]) )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_CIDR = re.compile(r"[0-9a-fA-F:.]+/(?:0|[1-9]\d*)")


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SyntaxError(f"CEL: cannot read {text[at:]!r}")
        assert match.lastgroup is not None
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return [*found, ("end", "")]


def _literal(token: str) -> str:
    if token[0] == "r":
        return token[2:-1]
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), token[1:-1])


def parse_cidr(text: Any) -> Interface:
    """Return the prefix with its host bits; netip's strictness, no IPv4 in IPv6."""
    if not isinstance(text, str) or _CIDR.fullmatch(text) is None:
        raise CelError(f"{text!r} is not a CIDR")
    try:
        found = ip_interface(text)
    except ValueError as error:
        raise CelError(str(error)) from None
    if isinstance(found, IPv6Interface) and found.ip.ipv4_mapped:
        raise CelError(f"{text!r}: an IPv4 address in IPv6")
    return found


def _parse_ip(text: Any) -> IPv4Address | IPv6Address:
    try:
        if not isinstance(text, str) or "%" in text:
            raise CelError(f"{text!r} is not an address")
        return ip_address(text)
    except ValueError as error:
        raise CelError(str(error)) from None


def _can(parse: Callable[[Any], Any], value: Any) -> bool:
    try:
        parse(value)
    except CelError:
        return False
    return True


def _contains(outer: Interface, inner: Any) -> bool:
    if isinstance(inner, str):
        inner = parse_cidr(inner)
    return outer.version == inner.version and bool(inner.network.subnet_of(outer.network))


def _contains_ip(outer: Interface, inner: Any) -> bool:
    address = _parse_ip(inner) if isinstance(inner, str) else inner
    return bool(address in outer.network)


_GLOBAL: dict[str, Callable[..., Any]] = {
    "size": len,
    "string": lambda value: value if isinstance(value, str) else str(value),
    "int": int,
    "dyn": lambda value: value,
    "cidr": parse_cidr,
    "isCIDR": lambda value: _can(parse_cidr, value),
    "ip": _parse_ip,
    "isIP": lambda value: _can(_parse_ip, value),
    "ip.isCanonical": lambda text: str(_parse_ip(text)) == text,
}
_METHODS: dict[str, Callable[..., Any]] = {
    "size": len,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "replace": str.replace,
    "split": str.split,
    "join": lambda values, between="": between.join(values),
    "lowerAscii": str.lower,
    "upperAscii": str.upper,
    "trim": str.strip,
    "indexOf": str.find,
    "lastIndexOf": str.rfind,
    "substring": lambda text, first, end=None: text[first:end],
    "masked": lambda cidr: ip_interface(cidr.network),
    "prefixLength": lambda cidr: cidr.network.prefixlen,
    "containsCIDR": _contains,
    "containsIP": _contains_ip,
    "ip": lambda cidr: cidr.ip,
    "family": lambda address: address.version,
    "format": lambda text, values: re.sub("%d", "%s", text) % tuple(values),
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "in": lambda left, right: left in right,
}


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise CelError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divide,
    "%": lambda left, right: left - right * _divide(left, right),
}


def _select(value: Any, name: str) -> Any:
    if isinstance(value, Optional):
        return _maybe(value, name)
    if not isinstance(value, Mapping):
        raise CelError(f"{name}: {type(value).__name__} has no fields")
    try:
        return value[name]
    except KeyError:
        raise CelError(f"no such key: {name}") from None


def _index(value: Any, key: Any) -> Any:
    if isinstance(value, Optional):
        return _maybe(value, key)
    try:
        return value[key]
    except (KeyError, IndexError):
        raise CelError(f"no such key: {key}") from None


def _maybe(value: Any, key: Any) -> Optional:
    if isinstance(value, Optional):
        if not value.present:
            return value
        value = value.value
    try:
        return Optional(True, value[key])
    except (KeyError, IndexError, TypeError):
        return Optional(False)


def _call_optional(value: Optional, name: str, arguments: list[Any]) -> Any:
    match name:
        case "orValue":
            return value.value if value.present else arguments[0]
        case "hasValue":
            return value.present
        case "value" if value.present:
            return value.value
        case "or":
            return value if value.present else arguments[0]
    raise CelError(f"optional: no {name}()")


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it; what Python says of types that do not fit is CEL's error."""
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise CelError(str(error)) from error


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CelError(f"not a bool: {value!r}")
    return value


def _either(left: Function, right: Function, decides: bool) -> Function:
    def both(scope: Scope) -> bool:
        try:
            if _truth(left(scope)) == decides:
                return decides
        except CelError:
            if _truth(right(scope)) == decides:
                return decides
            raise
        return _truth(right(scope))

    return both


@dataclass(frozen=True)
class _Field:
    """``value.name``: has() asks whether the field is there."""

    value: Function
    name: str

    def __call__(self, scope: Scope) -> Any:
        return _select(self.value(scope), self.name)


class _Parser:
    """Recursive descent, a method for each level of precedence."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0

    def next(self) -> tuple[str, str]:
        self.at += 1
        return self.tokens[self.at - 1]

    def take(self, *signs: str) -> str:
        """Return the next token's text when it is one of these, and step over it; else ""."""
        kind, text = self.tokens[self.at]
        if text in signs and kind in ("sign", "name"):
            self.at += 1
            return text
        return ""

    def want(self, sign: str) -> None:
        if not self.take(sign):
            raise SyntaxError(f"CEL: {sign!r} is missing before {self.tokens[self.at][1]!r}")

    def whole(self) -> Function:
        function = self.ternary()
        if self.tokens[self.at][0] != "end":
            raise SyntaxError(f"CEL: {self.tokens[self.at][1]!r} is not expected")
        return function

    def ternary(self) -> Function:
        condition = self.disjunction()
        if not self.take("?"):
            return condition
        yes = self.ternary()
        self.want(":")
        no = self.ternary()
        return lambda scope: yes(scope) if _truth(condition(scope)) else no(scope)

    def disjunction(self) -> Function:
        left = self.conjunction()
        while self.take("||"):
            left = _either(left, self.conjunction(), True)
        return left

    def conjunction(self) -> Function:
        left = self.relation()
        while self.take("&&"):
            left = _either(left, self.relation(), False)
        return left

    def relation(self) -> Function:
        left = self.binary(("+", "-"), lambda: self.binary(("*", "/", "%"), self.unary))
        while sign := self.take(*_COMPARE):
            right = self.binary(("+", "-"), lambda: self.binary(("*", "/", "%"), self.unary))
            left = self.apply(_COMPARE[sign], left, right)
        return left

    def binary(self, signs: tuple[str, ...], operand: Callable[[], Function]) -> Function:
        left = operand()
        while sign := self.take(*signs):
            left = self.apply(_ARITHMETIC[sign], left, operand())
        return left

    @staticmethod
    def apply(operation: Callable[..., Any], left: Function, right: Function) -> Function:
        return lambda scope: _guarded(operation, left(scope), right(scope))

    def unary(self) -> Function:
        if self.take("!"):
            inner = self.unary()
            return lambda scope: not _truth(inner(scope))
        if self.take("-"):
            inner = self.unary()
            return lambda scope: -inner(scope)
        return self.member()

    def member(self) -> Function:
        value = self.primary()
        while sign := self.take(".", ".?", "[", "[?"):
            if sign == ".":
                name = self.next()[1]
                value = self.call(value, name) if self.take("(") else self.field(value, name)
            elif sign == ".?":
                value = self.maybe(value, self.constant(self.next()[1]))
            else:
                key = self.ternary()
                self.want("]")
                value = self.maybe(value, key) if sign == "[?" else self.item(value, key)
        return value

    @staticmethod
    def constant(value: Any) -> Function:
        return lambda _scope: value

    @staticmethod
    def field(value: Function, name: str) -> Function:
        return _Field(value, name)

    @staticmethod
    def item(value: Function, key: Function) -> Function:
        return lambda scope: _index(value(scope), key(scope))

    @staticmethod
    def maybe(value: Function, key: Function) -> Function:
        return lambda scope: _maybe(value(scope), key(scope))

    def arguments(self) -> list[Function]:
        found: list[Function] = []
        while not self.take(")"):
            found.append(self.ternary())
            self.take(",")
        return found

    def call(self, value: Function, name: str) -> Function:
        if name in ("all", "exists", "exists_one", "filter", "map"):
            return self.macro(value, name)
        arguments = self.arguments()

        def run(scope: Scope) -> Any:
            receiver = value(scope)
            given = [argument(scope) for argument in arguments]
            if isinstance(receiver, Optional):
                return _call_optional(receiver, name, given)
            if name not in _METHODS:
                raise CelError(f"no method {name}")
            return _guarded(_METHODS[name], receiver, *given)

        return run

    def macro(self, value: Function, name: str) -> Function:
        variable = self.next()[1]
        self.want(",")
        body = self.ternary()
        self.want(")")

        def run(scope: Scope) -> Any:
            elements = list(value(scope))
            results = (body({**scope, variable: element}) for element in elements)
            match name:
                case "all":
                    return all(map(_truth, results))
                case "exists":
                    return any(map(_truth, results))
                case "exists_one":
                    return sum(map(_truth, results)) == 1
                case "map":
                    return list(results)
            return [one for one, kept in zip(elements, results, strict=True) if _truth(kept)]

        return run

    def primary(self) -> Function:
        kind, text = self.next()
        if kind == "number":
            return self.constant(float(text) if "." in text else int(text))
        if kind == "text":
            return self.constant(_literal(text))
        if text == "(":
            inner = self.ternary()
            self.want(")")
            return inner
        if text == "[":
            elements: list[Function] = []
            while not self.take("]"):
                elements.append(self.ternary())
                self.take(",")
            return lambda scope: [element(scope) for element in elements]
        if kind != "name":
            raise SyntaxError(f"CEL: {text!r} is not expected")
        return self.name(text)

    def name(self, text: str) -> Function:
        if text in ("true", "false", "null"):
            return self.constant({"true": True, "false": False, "null": None}[text])
        following = [token[1] for token in self.tokens[self.at : self.at + 3]]
        if text == "ip" and following == [".", "isCanonical", "("]:
            self.at += 2
            text = "ip.isCanonical"
        if self.take("("):
            arguments = self.arguments()
            if text == "has":
                return self.has(arguments[0])
            if text not in _GLOBAL:
                raise SyntaxError(f"CEL: the fake does not know {text}()")
            function = _GLOBAL[text]
            return lambda scope: _guarded(function, *(one(scope) for one in arguments))

        def variable(scope: Scope) -> Any:
            try:
                return scope[text]
            except KeyError:
                raise CelError(f"undeclared reference to {text!r}") from None

        return variable

    @staticmethod
    def has(argument: Function) -> Function:
        if not isinstance(argument, _Field):
            raise SyntaxError("CEL: has() takes a field")
        value, name = argument.value, argument.name

        def run(scope: Scope) -> bool:
            receiver = value(scope)
            if isinstance(receiver, Optional):
                return _maybe(receiver, name).present
            return isinstance(receiver, Mapping) and name in receiver

        return run


@cache
def compile(text: str) -> Function:  # noqa: A001 - as re.compile
    """Return the function of an expression, O(its length). Raises SyntaxError."""
    return _Parser(text).whole()
