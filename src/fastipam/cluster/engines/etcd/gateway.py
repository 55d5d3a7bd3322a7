"""The messages of etcd's JSON gateway: JSON, base64, and what its errors mean."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from fastipam.cluster.engine import (
    Compacted,
    EngineDenied,
    EngineError,
    EngineFull,
    EngineTimeout,
    EngineUnavailable,
    KeyEvent,
    KeyValue,
    Put,
    SessionGone,
)

try:
    # The scanner that json itself uses; importing json takes as long as an interpreter's start.
    from _json import encode_basestring_ascii as quote
    from _json import make_scanner
except ImportError:  # pragma: no cover  # an interpreter without the C accelerator
    from json.encoder import encode_basestring_ascii as quote
    from json.scanner import make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cluster.engine import Compare, Delete

FIRST_KEY = b"\0"  # no key of etcd's is empty
MAKE_ROOM = (
    "compact and defragment all members and then `etcdctl alarm disarm`, or start them with a "
    "larger --quota-backend-bytes"
)
# The exceptions that are raised on reading an answer that is not etcd's.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

# gRPC's status codes (grpc/grpc, doc/statuscodes.md) that etcd uses.
_INVALID_ARGUMENT = 3
_DEADLINE_EXCEEDED = 4
_NOT_FOUND = 5
_PERMISSION_DENIED = 7
_FAILED_PRECONDITION = 9
_OUT_OF_RANGE = 11
_UNAVAILABLE = 14
_UNAUTHENTICATED = 16

# Errors of a member that has proposed nothing: another member may be asked at once.
_NOT_DONE = (
    "no leader", "not leader", "too many requests", "not capable", "is not supported",
    "corrupt cluster", "unhealthy cluster",
)  # fmt: skip
# Errors for a token that is too old: nothing was done, log in again.
_TOKEN_IS_OLD = ("invalid auth token", "revision of auth store is old", "auth: token")


class Retry(Exception):
    """This member cannot serve now and did nothing: ask another, or the same one later."""


class Stale(Exception):
    """The token was refused and nothing was done: log in again."""


class _Context:
    """The options of the scanner, under the names that it reads."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner empties it after every document


_scan: Any = make_scanner(_Context())  # type: ignore[arg-type]


def decode(raw: bytes) -> Any:
    """Return the JSON value in ``raw``. Raises ValueError."""
    try:
        value, end = _scan(raw.decode().lstrip(), 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    del end  # the gateway's stream has one value a line, and a line feed after it
    return value


def encode(raw: bytes) -> str:
    """Return bytes as protobuf's JSON writes them: base64, in quotes."""
    return f'"{b2a_base64(raw, newline=False).decode()}"'


def _decoded(text: str) -> bytes:
    return a2b_base64(text)


def range_end(prefix: bytes) -> bytes:
    """Return the first key after all that begin with ``prefix``; NUL means the end of all keys."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b"\0"


def key_value(found: dict[str, Any]) -> KeyValue:
    """Read a mvccpb.KeyValue; protobuf's JSON leaves out fields that are empty or 0."""
    return KeyValue(
        _decoded(found["key"]),
        _decoded(found.get("value", "")),
        int(found.get("create_revision", 0)),
        int(found.get("mod_revision", 0)),
        int(found.get("version", 0)),
    )


def event(found: dict[str, Any]) -> KeyEvent:
    """Read a mvccpb.Event; the default kind, PUT, is left out."""
    item = found["kv"]
    return KeyEvent(
        "delete" if found.get("type") == "DELETE" else "put",
        _decoded(item["key"]),
        _decoded(item.get("value", "")),
        int(item["mod_revision"]),
    )


def login(username: str, password: str) -> str:
    """Return an etcdserverpb.AuthenticateRequest."""
    return f'{{"name":{quote(username)},"password":{quote(password)}}}'


def transaction(compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> str:
    """Return an etcdserverpb.TxnRequest; if its conditions fail, it reads the compared keys."""
    conditions = ",".join(map(_condition, compares))
    wanted = ",".join(map(_operation, operations))
    keys = dict.fromkeys(compare.key for compare in compares)
    reads = ",".join(f'{{"request_range":{{"key":{encode(key)}}}}}' for key in keys)
    return f'{{"compare":[{conditions}],"success":[{wanted}],"failure":[{reads}]}}'


def subscription(prefix: bytes, start_revision: int) -> str:
    """Return an etcdserverpb.WatchRequest for a prefix; ``start_revision`` 0 means from now on."""
    keys = f'"key":{encode(prefix or FIRST_KEY)},"range_end":{encode(range_end(prefix))}'
    return f'{{"create_request":{{{keys},"start_revision":"{start_revision}"}}}}'


def _condition(compare: Compare) -> str:
    if compare.kind == "value":
        assert isinstance(compare.expected, bytes)
        what = f'"target":"VALUE","value":{encode(compare.expected)}'
    elif compare.kind == "mod_revision":
        assert isinstance(compare.expected, int)
        what = f'"target":"MOD","mod_revision":"{compare.expected}"'
    else:
        what = '"target":"CREATE","create_revision":"0"'
    return f'{{"key":{encode(compare.key)},"result":"EQUAL",{what}}}'


def _operation(operation: Put | Delete) -> str:
    if isinstance(operation, Put):
        return (
            f'{{"request_put":{{"key":{encode(operation.key)},"value":{encode(operation.value)},'
            f'"lease":"{operation.session}"}}}}'
        )
    return f'{{"request_delete_range":{{"key":{encode(operation.key)}}}}}'


def failure(status: int, raw: bytes, where: str, *, change: bool) -> Exception:
    """Return the exception for an answer that is not 200; it may be Retry or Stale.

    ``change``: the call was a transaction, so the outcome is ambiguous if the request may have been
    proposed.
    """
    try:
        answer = decode(raw)
        found = answer.get("error", answer)
        if isinstance(found, dict):  # a stream's error is an object of its own
            code, text = int(found.get("grpc_code", 0)), str(found.get("message", ""))
        else:
            code, text = int(answer.get("code", 0)), str(answer.get("message", found))
    except (ValueError, AttributeError):
        return _foreign(status, raw, where, change=change)
    return _classify(code, text.removeprefix("etcdserver: "), where, change=change)


def _classify(code: int, text: str, where: str, *, change: bool) -> Exception:
    if any(part in text for part in _TOKEN_IS_OLD):
        return Stale(text)
    if any(part in text for part in _NOT_DONE):
        return Retry(f"{where}: {text}")
    if "database space exceeded" in text:
        # A member says so before it proposes a change, or after it has applied the change that used
        # up the last space (quotaApplierV3 in etcd's apply.go).
        return EngineFull(f"etcd is out of space: {where}: {text}", hint=MAKE_ROOM)
    if "lease not found" in text:
        return SessionGone("the session has ended")
    if "required revision has been compacted" in text:
        return Compacted("the revision was compacted")
    if code in {_PERMISSION_DENIED, _UNAUTHENTICATED} or "auth" in text or "user name" in text:
        return EngineDenied(
            f"{where} refuses: {text}", hint="check username and password, and the user's roles"
        )
    if code in {_INVALID_ARGUMENT, _NOT_FOUND, _FAILED_PRECONDITION, _OUT_OF_RANGE}:
        return EngineError(f"{where}: {text}")
    # Unavailable, deadline exceeded, stopped, a new leader: the request may have been proposed.
    if change:
        return EngineTimeout(f"{where}: {text}", ambiguous=True)
    return Retry(f"{where}: {text}")


def _foreign(status: int, raw: bytes, where: str, *, change: bool) -> Exception:
    """Return the exception for an answer that is not JSON, and perhaps not etcd's."""
    text = " ".join(raw[:200].decode("utf-8", "replace").split())
    if "CommonName" in text:
        return EngineDenied(
            f"{where} refuses a client certificate with a common name",
            hint="with mutual TLS and passwords, etcd's gateway takes only certificates without CN",
        )
    if "HTTPS" in text:
        return EngineDenied(f"{where} speaks TLS", hint="write https:// in the endpoint")
    if status == 404:
        return EngineUnavailable(
            f"{where} has no JSON gateway",
            hint="etcd 3.4 or later, without --enable-grpc-gateway=false",
        )
    if status in {401, 403}:
        return EngineDenied(f"{where} refuses with status {status}: {text}")
    if change and status >= 500:  # perhaps a proxy that has lost the answer
        return EngineTimeout(f"{where} answers with status {status}: {text}", ambiguous=True)
    return Retry(f"{where} answers with status {status}: {text}")
