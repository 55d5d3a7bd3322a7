"""A real Kubernetes API server on an etcd of its own: started, killed, put back by a test.

No kubelet runs and nothing is scheduled. A node is a Node object and a Pod that is bound to it: its
agent's token is bound to that Pod, so that the API server knows the node (admission policies).
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from .. import rendering
from ..cluster.etcd import Etcd
from ..ports import free_ports
from . import bodies
from .rest import BLOCKS, LEASES, NODES, POOLS, REQUESTS, SYSTEM, Rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

READY_S = 120.0  # on a loaded machine; usually five seconds
_ADMIN = "admin-token"
_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": f"/api/v1/namespaces/{SYSTEM}/serviceaccounts",
    "ConfigMap": f"/api/v1/namespaces/{SYSTEM}/configmaps",
    "DaemonSet": f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets",
    "Deployment": f"/apis/apps/v1/namespaces/{SYSTEM}/deployments",
    "PodDisruptionBudget": f"/apis/policy/v1/namespaces/{SYSTEM}/poddisruptionbudgets",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SYSTEM}/roles",
    "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SYSTEM}/rolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ValidatingAdmissionPolicy": (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    ),
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    ),
}


def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is the case; fail when it takes too long."""
    end = time.monotonic() + READY_S
    while not true():
        assert time.monotonic() < end, f"not within {READY_S:g} s: {what}"
        time.sleep(0.05)


def _until_allowed(who: Rest, path: str) -> None:
    until(lambda: who.get(path).status != 403, f"the right to read {path}")


class ApiServer:
    """The server; a context manager that starts it and ends it with its etcd.

    ``flags`` are further arguments of kube-apiserver, such as ``--max-requests-inflight=4``. All
    that it writes is below ``directory``.
    """

    def __init__(
        self, program: Path, etcd: str, directory: Path, flags: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.ca = directory / "pki" / "apiserver.crt"
        self.service_account_key = directory / "service-accounts.pem"
        (self.port,) = free_ports(1)
        self.etcd = Etcd(etcd, directory, size=1)
        self._process: subprocess.Popen[bytes] | None = None
        address = "127.0.0.1"
        self._command = [
            str(program),
            *(f"--etcd-servers={','.join(self.etcd.endpoints)}", f"--secure-port={self.port}"),
            *(f"--bind-address={address}", f"--advertise-address={address}"),
            f"--cert-dir={self.ca.parent}",  # it makes itself a certificate there
            f"--token-auth-file={directory / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self.service_account_key}",
            f"--service-account-key-file={self.service_account_key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            # Nobody makes the service account "default" that it would demand for each pod.
            "--disable-admission-plugins=ServiceAccount",
            *flags,
        ]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process of the API server."""
        assert self._process is not None
        return self._process.pid

    # Life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start etcd and the server, and wait until it serves."""
        self.etcd.start()
        if not self.service_account_key.exists():
            key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
            )
            self.service_account_key.write_bytes(key)
            tokens = f"{_ADMIN},admin,admin,system:masters\n"
            (self.directory / "tokens.csv").write_text(tokens)
        self.start_server()

    def start_server(self) -> None:
        """Start the server alone, where it was before, and wait until it serves."""
        assert self._process is None, "it runs already"
        with (self.directory / "apiserver.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(self._is_ready, "the API server serves")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the API server has ended:\n{self.log()}"
        try:
            return self.ca.exists() and self.admin.get("/readyz").status == 200
        except OSError:
            return False

    def kill_server(self) -> None:
        """SIGKILL: connections break. (Without its etcd a graceful end takes minutes.)"""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Kill the server and start it again, etcd stays."""
        self.kill_server()
        self.start_server()

    def stop(self) -> None:
        """End both."""
        self.kill_server()
        self.etcd.stop()

    def copy(self, to: Path) -> None:
        """Copy the stored objects. The server does not serve meanwhile."""
        self.kill_server()
        self.etcd.copy(to)
        self.start()

    def put_back(self, copy: Path) -> None:
        """Replace the stored objects by the copy, as who restores a backup: versions go back."""
        self.kill_server()
        self.etcd.put_back(copy)
        self.start()

    def log(self) -> str:
        """The end of what it has written."""
        return (self.directory / "apiserver.log").read_text(errors="replace")[-2000:]

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

    # Use ------------------------------------------------------------------------------------

    def rest(self, token: str) -> Rest:
        """The API as the token's owner may use it."""
        return Rest(self.port, self.ca, token)

    @property
    def admin(self) -> Rest:
        """The API as a cluster's administrator may use it."""
        return self.rest(_ADMIN)

    def kubeconfig(self, token: str = _ADMIN) -> Path:
        """A kubeconfig file for the token's owner."""
        path = self.directory / "kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        path.write_text(json.dumps(document))
        return path

    def apply(self, documents: Iterable[dict[str, Any]]) -> None:
        """Apply manifests, in their order."""
        for each in documents:
            path = f"{_PATHS[each['kind']]}/{each['metadata']['name']}"
            self.admin.apply(path, each).done()

    def install(self) -> None:
        """Apply the whole rendering of the chart, and wait until it is in force.

        Rights and policies reach the server's own watches some time after they are stored.
        """
        documents = rendering.documents()
        self.apply(sorted(documents, key=lambda each: each["kind"] != "Namespace"))
        admin, nobody = self.admin, self.rest(self.token("fastipam-agent"))
        controller = self.rest(self.token("fastipam-controller"))
        probe = bodies.node("probe")
        until(lambda: admin.get(NODES).status == 200, "the kinds are served")
        until(
            lambda: "names no node" in nobody.create(NODES, probe, dryRun="All").message,
            "the agents' policy is in force",
        )
        until(
            lambda: admin.create(NODES, probe, dryRun="All").warnings,
            "the policy that warns is in force",
        )
        for path, who in ((NODES, controller), (LEASES, controller), (f"{LEASES}/any", nobody)):
            _until_allowed(who, path)

    def clear(self) -> None:
        """Delete what tests make: the objects of our kinds, leases, nodes and pods."""
        pods = f"/api/v1/namespaces/{SYSTEM}/pods"
        for path in (POOLS, BLOCKS, NODES, REQUESTS, LEASES, "/api/v1/nodes", pods):
            query = {"gracePeriodSeconds": "0"}
            self.admin.request("DELETE", path, query=query).done()
        for held in self.admin.get(POOLS).done()["items"]:  # by the controller's finalizer
            name = held["metadata"]["name"]
            self.admin.merge(f"{POOLS}/{name}", {"metadata": {"finalizers": None}}).done()

    def token(self, account: str, bound_to: dict[str, Any] | None = None) -> str:
        """A token of a service account of fastipam's, bound to a pod if one is given."""
        spec: dict[str, Any] = {"expirationSeconds": 3600}
        if bound_to is not None:
            metadata = bound_to["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
        path = f"{_PATHS['ServiceAccount']}/{account}/token"
        document = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.admin.create(path, document).done()["status"]["token"])

    def node(self, name: str, boot_id: str = "boot-1") -> Rest:
        """Make a Node and its agent's Pod; return the API as that agent may use it.

        A Node that was deleted is made again by a second call.
        """
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        self.admin.create("/api/v1/nodes", node).done()
        status = {"status": {"nodeInfo": {"bootID": boot_id}}}
        self.admin.merge(f"/api/v1/nodes/{name}/status", status).done()
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": f"agent-{name}-"},
            "spec": {
                "nodeName": name,
                "serviceAccountName": "fastipam-agent",
                "containers": [{"name": "agent", "image": "example.com/fastipam"}],
            },
        }
        made = self.admin.create(f"/api/v1/namespaces/{SYSTEM}/pods", pod).done()
        return self.rest(self.token("fastipam-agent", made))
