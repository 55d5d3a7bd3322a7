"""HTTP/1.1 on one connection: requests are read, answers are written whole, in part or never."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from .authority import user_of

if TYPE_CHECKING:
    from .access import User
    from .api import Answer

MAX_BODY = 3 << 20
MAX_WAITING = 16 << 20  # a watcher that is so many bytes behind is cut off


class Cut(Exception):
    """The connection is to be cut."""


class Connection:
    """One client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.certificate: User | None = user_of(writer.get_extra_info("peercert"))

    def cut(self) -> None:
        """Break it off without a word of TLS."""
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client closes the connection. Raises Cut."""
        await self.reader.read(1)
        raise Cut

    async def read(self) -> tuple[str, str, dict[str, str], bytes]:
        """Return method, target, headers (names in lower case) and body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _protocol = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if length > MAX_BODY or "transfer-encoding" in headers:
            raise Cut
        body = await self.reader.readexactly(length) if length else b""
        return method, target, headers, body

    @staticmethod
    def head(code: int, headers: dict[str, str]) -> bytes:
        """Return a status line and headers."""
        lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def whole(self, answer: Answer) -> bytes:
        """Return an answer's bytes."""
        headers = {"Content-Type": "application/json", **answer.headers}
        if "Transfer-Encoding" in headers:
            chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body)
            return self.head(answer.code, headers) + chunk
        headers["Content-Length"] = str(len(answer.body))
        return self.head(answer.code, headers) + answer.body

    async def send(self, data: bytes) -> None:
        """Write, and wait while much is unsent."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_half(self, answer: Answer) -> None:
        """Write the head and half of the body, and cut."""
        data = self.whole(answer)
        await self.send(data[: len(data) - (len(answer.body) + 1) // 2])
        raise Cut

    async def send_slowly(self, answer: Answer, seconds: float) -> None:
        """Write the head, then the body in ten pieces over so many seconds."""
        data = self.whole(answer)
        head = len(data) - len(answer.body)
        await self.send(data[:head])
        size = max(1, len(answer.body) // 10)
        for at in range(head, len(data), size):
            await asyncio.sleep(seconds / 10)
            await self.send(data[at : at + size])

    def send_line(self, line: bytes) -> None:
        """Write one chunk of a watch; a client that does not read is cut off."""
        if self.writer.transport.get_write_buffer_size() > MAX_WAITING:
            self.cut()
        elif not self.writer.is_closing():
            self.writer.write(b"%x\r\n%s\r\n" % (len(line), line))
