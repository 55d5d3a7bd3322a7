"""The thread that keeps the routes of an agent's networks."""

from __future__ import annotations

import logging
import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from fastipam.cluster.routing.blocks import Blocks
from fastipam.cluster.routing.events import Events, Heard
from fastipam.cluster.routing.kernel import Kernel
from fastipam.cluster.routing.setting import Setting
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.routing.setting import Condition, Status

log = logging.getLogger("fastipam.routes")

_LOOK_S = 5.0  # the longest sleep: changed pools are noticed after this time without a wake
_END_S = 2.0  # how long a stop waits for the step that is under way


class Router:
    """The keeper of the routes to some networks' blocks.

    ``nodes`` has this node's name in each network. Without ``gateways`` only the unreachable routes
    are set, for addresses that no pod has.

    Raises ConfigError when the kernel does not let this process change routes.
    """

    def __init__(self, nodes: Sequence[str], *, gateways: bool = True) -> None:
        self.blocks = [Blocks(node, self.wake) for node in nodes]
        self._is_over = self._is_woken = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._kernel = Kernel()
            self._kernel.require_rights("host-gw" if gateways else "own")
            self._events = Events()
        except OSError as error:
            raise ConfigError(
                f"the kernel's routes cannot be used: {error.strerror or error}",
                field="--routes",
                value="host-gw" if gateways else "own",
            ) from error
        self._setting = Setting(self._kernel, self.blocks, gateways=gateways)
        self._thread = threading.Thread(target=self._run, name="routes", daemon=True)

    @property
    def condition(self) -> Condition:
        """Whether all routes are set, and if not, why."""
        return self._setting.condition

    @property
    def status(self) -> Status:
        """The state of the routes, for metrics."""
        return self._setting.status

    def wake(self) -> None:
        """Check soon whether blocks or pools have changed. For any thread; never waits."""
        if self._is_woken:
            return
        self._is_woken = True
        with suppress(OSError):  # the pipe is full and the thread wakes anyway, or it has ended
            os.write(self._wake_write, b"b")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. The routes stay, because the pods need them.

        The next agent compares them with the routes that should exist.
        """
        self._is_over = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(_END_S)
        if not self._thread.is_alive():
            self._events.close()
            self._kernel.close()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while not self._is_over:
            left_s = self._setting.step()
            poll.poll(1000 * min(left_s, _LOOK_S) + 1)
            if self._is_woken:
                self._is_woken = False  # before the blocks are read: a later change wakes again
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._setting.changed()
            self._setting.hear(self._heard())

    def _heard(self) -> Heard:
        """Return the kernel's notifications; an error means that the routes may have changed."""
        try:
            return self._events.read(self._setting.interfaces, self._kernel.port)
        except OSError as error:
            log.error("the kernel's notifications of routes cannot be read: %s", error)
            heard = Heard()
            heard.compare = True
            return heard
