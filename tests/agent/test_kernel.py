"""What the loop asks of the kernel: to accept and read in one call, and an alarm."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastipam._ledger import Alarm, accept


@pytest.fixture
def listener(run_dir: Path) -> Iterator[socket.socket]:
    """A listening socket that does not block."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(run_dir / "s"))
        made.listen()
        made.setblocking(False)
        yield made


def _connected(listener: socket.socket) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(listener.getsockname())
    return made


def test_accept_nobody(listener: socket.socket) -> None:
    """Without a connection it does not wait."""
    assert accept(listener.fileno()) is None


@pytest.mark.parametrize(
    ("sent", "data"),
    [(None, None), (b"", b""), (b"FIP1", b"FIP1"), (b"\0x" * 50_000, (b"\0x" * 50_000)[: 1 << 16])],
    ids=["nothing yet", "the end", "a part", "more than it reads"],
)
def test_accept(sent: bytes | None, data: bytes | None, listener: socket.socket) -> None:
    """It says who it is and what has arrived; the descriptor does not block, nor is inherited."""
    with _connected(listener) as client:
        if sent is not None:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        accepted = accept(listener.fileno())
        assert accepted is not None
        descriptor, *rest = accepted
        try:
            assert rest == [os.getpid(), os.geteuid(), data]
            assert not os.get_blocking(descriptor)
            assert not os.get_inheritable(descriptor)
            left = b"" if sent is None else sent[1 << 16 :]
            os.write(descriptor, b"x")
            assert client.recv(2) == b"x"
            if sent is None:
                with pytest.raises(BlockingIOError):
                    os.read(descriptor, 1)
            else:
                assert os.read(descriptor, 1 << 20) == left
        finally:
            os.close(descriptor)


def test_accept_without_descriptors(listener: socket.socket) -> None:
    """It raises what the kernel says, and the connection waits for a descriptor."""
    with _connected(listener) as client:
        client.sendall(b"x")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as raised:
                accept(listener.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert raised.value.errno == errno.EMFILE
        accepted = accept(listener.fileno())
        assert accepted is not None
        os.close(accepted[0])
        assert accepted[3] == b"x"


def _waiter(alarm: Alarm, rung: threading.Event) -> threading.Thread:
    def wait() -> None:
        alarm.wait()
        rung.set()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_alarm() -> None:
    """It rings for who waits and for who comes later; what was set last counts, 0 is never."""
    alarm, rung = Alarm(), threading.Event()
    alarm.set(0.001)
    alarm.set(60.0)
    alarm.set(0.0)
    thread = _waiter(alarm, rung)
    assert not rung.wait(0.2)
    alarm.set(1e-6)
    thread.join(20)
    assert rung.is_set()
    alarm.set(1e-6)
    time.sleep(0.01)
    alarm.wait()


def test_alarm_and_signals() -> None:
    """A handler runs while the main thread waits, and what it raises ends the wait."""
    alarm = Alarm()

    def handle(*_: object) -> None:
        raise InterruptedError("handled")

    before = signal.signal(signal.SIGUSR1, handle)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(InterruptedError, match="handled"):
            alarm.wait()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
