"""Serve requests in this process, without a socket: from the bytes of a frame to its answer's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.agent.clients import requests
from bench.agent.yardstick import TOGETHER
from bench.errors import Failed
from fastipam.agent import protocol
from fastipam.agent.batch import Executor
from fastipam.agent.client import Client
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from pathlib import Path

    from fastipam.agent.requests import Request


class Alone:
    """The work of an agent on batches of 64 requests, without the wait for them.

    A run makes ``batches`` batches of ADDs, each followed by the batch of their DELs, as
    :class:`bench.agent.yardstick.Yardstick` does.
    """

    def __init__(self, data: Path, batches: int) -> None:
        pairs = [requests(data, f"c{place:063x}", 0) for place in range(TOGETHER)]
        self._frames = list(zip(*pairs, strict=True))
        self._batches = batches
        self.requests = 2 * TOGETHER * batches
        self._client = Client(-1, os.getpid())
        self._execute = Executor()

    def close(self) -> None:
        """Close the stores of this process."""
        open_stores.close_all()

    def run(self) -> None:
        """Answer the requests. Raises Failed when one fails."""
        for _ in range(self._batches):
            self.answer(0)
            self.answer(1)

    def answer(self, command: int) -> None:
        """Answer one batch: the ADDs (0) or the DELs (1). Raises Failed when one fails."""
        for answer in self._execute([self._decode(frame) for frame in self._frames[command]]):
            protocol.pack_answer(*answer[:3])
            if answer.status:
                raise Failed(f"a request failed: {answer.output!r}")

    def _decode(self, frame: bytes) -> Request:
        self._client.incoming += frame
        request = self._client.take_request()
        assert request is not None
        return request
