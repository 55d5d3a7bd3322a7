"""The chart as it is rendered with its values: deploy/kubernetes/fastipam.yaml.

tests/kubernetes/test_chart.py compares it with what Helm renders; all other tests need no Helm.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[1] / "deploy" / "chart"
MANIFESTS = CHART.with_name("kubernetes")
RENDERING = MANIFESTS / "fastipam.yaml"
UNINSTALL = MANIFESTS / "uninstall.yaml"
KINDS = "CustomResourceDefinition"

Document = dict[str, Any]


def parse(text: str) -> list[Document]:
    """The documents of a file; the values of a YAML anchor are one object."""
    yaml: Any = import_module("yaml")  # it has no types
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [each for each in yaml.load_all(text, Loader=loader) if each]


@lru_cache(maxsize=4)
def _parsed(path: Path) -> list[Document]:
    return parse(path.read_text())


def documents(*kinds: str, path: Path = RENDERING) -> list[Document]:
    """The documents of these kinds, or all, in the order of the file. Do not change them."""
    return [each for each in _parsed(path) if not kinds or each["kind"] in kinds]


def document(kind: str, name: str, path: Path = RENDERING) -> Document:
    """The one document of a kind and a name."""
    (found,) = (one for one in documents(kind, path=path) if one["metadata"]["name"] == name)
    return found
