"""The control plane: etcd, API server, controller manager and scheduler in a node's network."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ...e2e.tools import lacking
from ..rest import Rest
from ..server import until
from . import network
from .node import built
from .processes import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...e2e.netns import NetNS

PORT = 6443
_ADMIN = "admin-token"
_CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
# How long a pod stays on a node that is not ready. Usually 300 s: an eviction would not be seen.
_TOLERATION_S = 10


class _Connection(http.client.HTTPSConnection):
    """A connection from a network namespace."""

    def __init__(self, path: str, address: str, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(address, PORT, timeout=timeout, context=context)
        self._path, self._tls, self._seconds = path, context, timeout

    def connect(self) -> None:
        raw = network.connect(self._path, (self.host, self.port), self._seconds)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)


class _Rest(Rest):
    """The API as it is reached from a node's network."""

    def __init__(self, netns: NetNS, address: str, ca: Path, token: str) -> None:
        super().__init__(PORT, ca, token)
        self._netns, self._address = netns, address

    def connection(self) -> http.client.HTTPSConnection:
        return _Connection(self._netns.path, self._address, 60.0, self.context)


class ControlPlane:
    """The four processes; ``start`` to ``stop``."""

    def __init__(self, netns: NetNS, addresses: Sequence[str], directory: Path) -> None:
        self.netns = netns
        self.address = addresses[0]
        self.directory = directory
        self.ca = directory / "pki" / "apiserver.crt"
        self._key = directory / "service-accounts.pem"
        self._tokens: dict[str, str] = {}
        self._processes: dict[str, Process] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://{self.address}:{PORT}"

    # Life -----------------------------------------------------------------------------------

    def start(self, nodes: Sequence[str]) -> None:
        """Start all and wait until the API serves. Nodes with these names may join."""
        self.directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        self._key.write_bytes(key)
        lines = [f"{_ADMIN},admin,admin,system:masters"]
        lines += [f"token-{name},system:node:{name},{name},system:nodes" for name in nodes]
        (self.directory / "tokens.csv").write_text("".join(f"{line}\n" for line in lines))
        self._start_etcd()
        self.start_server()

    def _start_etcd(self) -> None:
        etcd = shutil.which("etcd", path="/usr/bin:/usr/local/bin")
        if etcd is None:
            lacking("etcd is not installed")
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        self._begin(
            "etcd",
            *(etcd, "--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--log-level", "warn"),
        )

    def start_server(self) -> None:
        """Start the API server and wait until it serves; then start the controllers.

        Those that have waited for it would wait on for up to half a minute, so they begin anew.
        """
        self._begin(
            "kube-apiserver",
            *(str(built("kube-apiserver")), "--etcd-servers=http://127.0.0.1:2379"),
            *(f"--bind-address={self.address}", f"--advertise-address={self.address}"),
            *(f"--secure-port={PORT}", f"--cert-dir={self.ca.parent}"),
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self._key}",
            f"--service-account-key-file={self._key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--default-not-ready-toleration-seconds={_TOLERATION_S}",
            f"--default-unreachable-toleration-seconds={_TOLERATION_S}",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        )
        until(self._is_ready, "the API server serves")
        for name in _CONTROLLERS:
            if name in self._processes:
                self._processes.pop(name).kill()
            self._start_controller(name)

    def _is_ready(self) -> bool:
        process = self._processes["kube-apiserver"]
        assert process.runs(), f"the API server has ended:\n{process.tail()}"
        try:
            return self.ca.exists() and self.rest().get("/readyz").status == 200
        except OSError:
            return False

    def _start_controller(self, name: str) -> None:
        more = []
        if name == "kube-controller-manager":
            more = [
                f"--service-account-private-key-file={self._key}",
                f"--root-ca-file={self.ca}",
                *("--kube-api-qps=200", "--kube-api-burst=400"),
            ]
        self._begin(
            name,
            *(str(built(name)), f"--kubeconfig={self.kubeconfig()}", "--leader-elect=false"),
            *("--bind-address=127.0.0.1", *more),
        )

    def kill_server(self) -> None:
        """SIGKILL; all else goes on."""
        self._processes.pop("kube-apiserver").kill()

    def stop(self) -> None:
        """Kill all. (Without its etcd a graceful end of the server takes minutes.)"""
        for each in reversed(self._processes.values()):
            each.kill()
        self._processes.clear()

    def _begin(self, name: str, *argv: str) -> None:
        environment = [f"{key}=" for key in os.environ if key.startswith("ETCD_")]
        command = self.netns.command("env", *environment, *argv)
        log = self.directory / f"{name}.log"
        self._processes[name] = Process(command, log, forks=False)

    # Use ------------------------------------------------------------------------------------

    def rest(self, token: str = _ADMIN) -> Rest:
        """The API as the token's owner may use it."""
        return _Rest(self.netns, self.address, self.ca, token)

    def kubeconfig(self, node: str = "") -> Path:
        """A kubeconfig of the administrator, or of a node's kubelet."""
        path = self.directory / f"{node or 'admin'}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        user = {"token": f"token-{node}" if node else _ADMIN}
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        path.write_text(json.dumps(document))
        return path

    def log(self, name: str) -> str:
        """The end of a log."""
        return self._processes[name].tail()
