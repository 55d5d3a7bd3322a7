"""The reference of the library is the code's: current, complete, and closed under its types."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import fastipam
from fastipam import cni, errors, testing
from tests.docs.documents import ROOT

# It is a plugin of another test, and would be imported here before that can rewrite it.
pytest.register_assert_rewrite("fastipam.testing.fixtures")
API = ROOT / "docs" / "api"
MAKE = runpy.run_path(str(API / "make.py"))
ENTRIES: list[Any] = [each for entries in MAKE["surface"]().values() for each in entries]


def _all() -> Iterator[Any]:
    """Every entry, and the members of classes."""
    for each in ENTRIES:
        yield each
        yield from each.members


def test_pages_are_current() -> None:
    """The files in docs/api are what scripts/reference writes, and there are no others."""
    written = MAKE["render"]()
    assert {path.name for path in API.glob("*.md")} == set(written)
    for name, text in written.items():
        assert (API / name).read_text() == text, f"{name}: run scripts/reference"


def test_every_name_is_there() -> None:
    """Each public name has an entry, and its line on the page that has all of them."""
    public = {*fastipam.__all__, *errors.__all__, *cni.__all__, *testing.__all__}
    assert public - {"__version__", "cni"} <= {each.name for each in ENTRIES}
    index = (API / "index.md").read_text()
    for each in _all():
        assert each.signature.partition("\n")[0] in index


@pytest.mark.parametrize("each", ENTRIES, ids=lambda each: each.name)
def test_everything_has_a_text(each: Any) -> None:
    """Functions, classes, methods and properties have a docstring; attributes have a type."""
    for one in (each, *each.members):
        is_attribute = "(" not in one.signature and not one.signature.startswith("class ")
        is_constructor = one is not each and one.name == each.name
        assert one.text or is_attribute or is_constructor, one.name
        assert one.types or one.signature.startswith("class "), one.name


@pytest.mark.parametrize("each", ENTRIES, ids=lambda each: each.name)
def test_every_type_is_documented(each: Any) -> None:
    """A class in a public signature has an entry itself, or is Python's or numpy's."""
    documented = {other.kind for other in ENTRIES}
    unknown = {
        f"{one.name}: {kind.__module__}.{kind.__qualname__}"
        for one in (each, *each.members)
        for kind in MAKE["classes"](one.types)
        if inspect.isclass(kind)
        and kind not in documented
        and kind.__module__.partition(".")[0] not in {*sys.stdlib_module_names, "numpy"}
    }
    assert not unknown, "docs/api/make.py lists what is public"


@pytest.mark.parametrize("each", ENTRIES, ids=lambda each: each.name)
def test_no_parameter_takes_anything(each: Any) -> None:
    """A name that a call does not know, and a value of a type that it cannot use, are refused."""
    for one in (each, *each.members):
        signature = " ".join(one.signature.split())
        assert not re.search(r"\*\*\w+: (?!Unpack\[)", signature)
        assert re.findall(r"(\w+): (?:Any|object)\b", signature) in ([], ["value"])  # ConfigError


def test_keywords_of_a_network() -> None:
    """The network of a test is made with the keywords of every other."""
    known = inspect.signature(fastipam.Ipam.network).parameters.values()
    keywords = {one.name for one in known if one.kind is one.KEYWORD_ONLY}
    assert keywords == set(testing.stores.NetworkOptions.__annotations__)
