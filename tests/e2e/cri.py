"""A client for the few calls of the Kubernetes container runtime interface that make pods.

The messages are built with protobuf's descriptor API from the table below, not from a .proto file:
that needs protobuf alone at test time, while a generator would tie the version of protobuf to its
own. Fields that the tests do not use are left out; protobuf skips them when they arrive.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import tools

_PACKAGE = "runtime.v1"

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "StatusRequest": {},
    "RuntimeCondition": {"type": (1, "string"), "status": (2, "bool"), "message": (4, "string")},
    "RuntimeStatus": {"conditions": (1, "repeated RuntimeCondition")},
    "StatusResponse": {"status": (1, "RuntimeStatus")},
    "PodSandboxMetadata": {"name": (1, "string"), "uid": (2, "string"), "namespace": (3, "string")},
    "LinuxPodSandboxConfig": {"cgroup_parent": (1, "string")},
    "PodSandboxConfig": {
        "metadata": (1, "PodSandboxMetadata"),
        "hostname": (2, "string"),
        "linux": (8, "LinuxPodSandboxConfig"),
    },
    "RunPodSandboxRequest": {"config": (1, "PodSandboxConfig")},
    "RunPodSandboxResponse": {"pod_sandbox_id": (1, "string")},
    "StopPodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "StopPodSandboxResponse": {},
    "RemovePodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "RemovePodSandboxResponse": {},
    "PodIP": {"ip": (1, "string")},
    "PodSandboxNetworkStatus": {"ip": (1, "string"), "additional_ips": (2, "repeated PodIP")},
    "PodSandboxStatusRequest": {"pod_sandbox_id": (1, "string")},
    "PodSandboxStatus": {"id": (1, "string"), "network": (5, "PodSandboxNetworkStatus")},
    "PodSandboxStatusResponse": {"status": (1, "PodSandboxStatus")},
    "ListPodSandboxRequest": {},
    "PodSandbox": {"id": (1, "string")},
    "ListPodSandboxResponse": {"items": (1, "repeated PodSandbox")},
    "ImageSpec": {"image": (1, "string")},
    "Image": {"id": (1, "string")},
    "ImageStatusRequest": {"image": (1, "ImageSpec")},
    "ImageStatusResponse": {"image": (1, "Image")},
}
"""Message → field → number and type, as in version 1 of the interface's api.proto."""

_CALL_TIMEOUT_S = 60


class RuntimeClient:
    """One connection to a container runtime's socket, safe to use from several threads."""

    def __init__(self, socket: Path) -> None:
        """Connect at the first call, not before."""
        self._messages = _message_classes()
        self._channel = tools.require_module("grpc").insecure_channel(f"unix://{socket}")

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._channel.close()

    def conditions(self) -> dict[str, bool]:
        """Return what the runtime says about itself, by the name of the condition."""
        status = self._call("RuntimeService", "Status").status
        return {condition.type: condition.status for condition in status.conditions}

    def has_image(self, name: str) -> bool:
        """Return whether the image may be used without fetching it."""
        return bool(self._call("ImageService", "ImageStatus", image={"image": name}).image.id)

    def run_sandbox(self, namespace: str, name: str, uid: str, cgroup_parent: str) -> str:
        """Start a pod sandbox and return its id."""
        metadata = {"namespace": namespace, "name": name, "uid": uid}
        linux = {"cgroup_parent": cgroup_parent}
        config = {"metadata": metadata, "hostname": name, "linux": linux}
        answer = self._call("RuntimeService", "RunPodSandbox", config=config)
        return str(answer.pod_sandbox_id)

    def sandbox_addresses(self, sandbox_id: str) -> list[str]:
        """Return the addresses of a pod sandbox, the first one first."""
        answer = self._call("RuntimeService", "PodSandboxStatus", pod_sandbox_id=sandbox_id)
        network = answer.status.network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    def sandboxes(self) -> list[str]:
        """Return the ids of all pod sandboxes."""
        return [item.id for item in self._call("RuntimeService", "ListPodSandbox").items]

    def stop_sandbox(self, sandbox_id: str) -> None:
        """End the processes of a pod sandbox and detach it from the network."""
        self._call("RuntimeService", "StopPodSandbox", pod_sandbox_id=sandbox_id)

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove a pod sandbox, running or not."""
        self._call("RuntimeService", "RemovePodSandbox", pod_sandbox_id=sandbox_id)

    def _call(self, service: str, method: str, **fields: Any) -> Any:
        request = self._messages[f"{method}Request"](**fields)
        call = self._channel.unary_unary(
            f"/{_PACKAGE}.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self._messages[f"{method}Response"].FromString,
        )
        return call(request, timeout=_CALL_TIMEOUT_S)


def _message_classes() -> dict[str, Any]:
    """Return a class for each message of the table."""
    descriptor_pb2 = tools.require_module("google.protobuf.descriptor_pb2")
    descriptor_pool = tools.require_module("google.protobuf.descriptor_pool")
    message_factory = tools.require_module("google.protobuf.message_factory")

    file = descriptor_pb2.FileDescriptorProto(name="cri.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            message.field.add(name=field, number=number, **_field_type(kind, descriptor_pb2))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _field_type(kind: str, descriptor_pb2: Any) -> dict[str, Any]:
    """Return how a field descriptor spells `string`, `bool`, or `repeated Message`."""
    enum = descriptor_pb2.FieldDescriptorProto
    repeated, _, name = kind.rpartition(" ")
    label = enum.LABEL_REPEATED if repeated else enum.LABEL_OPTIONAL
    if name in _MESSAGES:
        return {"label": label, "type": enum.TYPE_MESSAGE, "type_name": f".{_PACKAGE}.{name}"}
    return {"label": label, "type": {"string": enum.TYPE_STRING, "bool": enum.TYPE_BOOL}[name]}
