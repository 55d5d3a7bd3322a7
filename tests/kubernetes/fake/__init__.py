"""A fake Kubernetes API server for tests: one process, TLS, faults on command.

``FakeServer`` runs it in a thread, ``python -m tests.kubernetes.fake`` as a process. What it
answers is held against a real server by ``tests/kubernetes/test_api_conformance.py``.
"""

from .faults import Fault
from .server import AGENT, CONTROLLER, NAMESPACE, FakeServer
from .statuses import ApiError

__all__ = ["AGENT", "CONTROLLER", "NAMESPACE", "ApiError", "FakeServer", "Fault"]
