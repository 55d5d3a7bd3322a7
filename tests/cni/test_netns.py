"""Which file the container's network namespace is: what the launcher says, and what is seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastipam.cni.environment import Variables, identify, read_reported
from fastipam.cni.error_codes import OWN_NETNS
from fastipam.errors import CniError
from fastipam.namespaces import mount_namespace

from .plugin import environment

if TYPE_CHECKING:
    from pathlib import Path

OWN = "/proc/self/ns/net"
NUMBER = st.integers(0, (1 << 64) - 1)
IDENTITY = st.none() | st.tuples(NUMBER, NUMBER)


def _asked(path: str, **variables: str) -> Variables:
    return Variables(environment("ADD", netns=path) | variables)


def _text(identity: tuple[int, int] | None) -> str:
    return "" if identity is None else "{}:{}".format(*identity)


def _said(path: str, own: str = OWN, mount: int = 0) -> str:
    both = [os.stat(one) for one in (path, own)]
    texts = [_text((one.st_dev, one.st_ino)) for one in both]
    return " ".join([*texts, f"4:{mount}" if mount else "", str(both[0].st_mtime_ns)])


@given(IDENTITY, IDENTITY, IDENTITY, NUMBER)
def test_read(
    theirs: tuple[int, int] | None,
    own: tuple[int, int] | None,
    mount: tuple[int, int] | None,
    born_ns: int,
) -> None:
    """What is well formed is read as it was meant; three fields are not enough."""
    said = " ".join(map(_text, (theirs, own, mount)))
    inode = mount[1] if mount else 0
    assert read_reported(f"{said} {born_ns}") == (theirs, own, inode, born_ns)
    assert read_reported(said) is None


@given(st.text("0123456789: -+_.x\0²٣", max_size=80) | st.text())
@example("18446744073709551616:1 4:5 4:6")
@example("4:18446744073709551616 4:5 4:6")
@example("4:-1 4:5 4:6")
@example("4:² 4:5 4:6")
@example("4 4:5 4:6")
@example("4:: 4:5 4:6")
@example("1:2  3:4")
@example("4:1 4:5 4:6 18446744073709551616")
@example("4:1 4:5 4:6 -1")
@example("4:1 4:5 4:6 ")
def test_read_anything(said: str) -> None:
    """Whatever is sent gives three identities of 64 bits or nothing, and never an exception."""
    found = read_reported(said)
    if found is not None:
        theirs, own, mount, born_ns = found
        numbers = [*(theirs or ()), *(own or ()), mount, born_ns]
        assert all(0 <= number < 1 << 64 for number in numbers)
        assert said.count(" ") == 3


@pytest.mark.parametrize(
    "said", ["", "nonsense", "1:2 3:4", "1:2 3:4 5:6", "1:2 3:4 5:x 0", "1:2 3:4 5:6 x"]
)
def test_without_word(said: str, tmp_path: Path) -> None:
    """When the launcher says nothing that can be read, this process looks."""
    file = tmp_path / "netns"
    file.touch()
    status, here = file.stat(), mount_namespace()
    found = identify(_asked(str(file)), OWN, said)
    assert found == (status.st_ino, here, status.st_mtime_ns)
    assert identify(_asked("/no/such/file"), OWN, said) == (0, 0, 0)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert identify(_asked(str(link)), OWN, said) == (status.st_ino, here, 0)
    with pytest.raises(CniError) as caught:
        identify(_asked(OWN), OWN, said)
    assert caught.value.cni_code == OWN_NETNS


def test_its_word_counts() -> None:
    """What the launcher sees goes before what this process sees."""
    asked = _asked("/no/such/file/here")
    here = mount_namespace()
    assert identify(asked, OWN, f"4:7 4:8 4:{here} 9") == (7, here, 9)
    assert identify(asked, OWN, "4:7   0") == (7, 0, 0)
    assert identify(_asked(OWN), OWN, " 4:8 4:9 0") == (0, 0, 0)
    with pytest.raises(CniError) as caught:
        identify(asked, OWN, f"4:7 4:7 4:{here} 0")
    assert caught.value.cni_code == OWN_NETNS
    allowed = _asked("/no/such/file/here", CNI_NETNS_OVERRIDE="1")
    assert identify(allowed, OWN, f"4:7 4:7 4:{here} 0") == (7, here, 0)
    # The same inode number on another device is another file.
    assert identify(asked, OWN, f"5:7 4:7 4:{here} 0") == (7, here, 0)


def test_another_mount_namespace(tmp_path: Path) -> None:
    """A path that means the same here is noted as ours; else it is the launcher's to interpret."""
    file = tmp_path / "netns"
    file.touch()
    inode, born_ns = file.stat().st_ino, file.stat().st_mtime_ns
    said = _said(str(file))  # it does not know its mount namespace
    assert identify(_asked(str(file)), OWN, said) == (inode, mount_namespace(), born_ns)
    assert identify(_asked("/no/such/file"), OWN, said) == (inode, 0, born_ns)
    other = mount_namespace() + 1
    said = _said(str(file), mount=other)
    assert identify(_asked(str(file)), OWN, said) == (inode, mount_namespace(), born_ns)
    assert identify(_asked("/no/such/file"), OWN, said) == (inode, other, born_ns)
    (tmp_path / "netns2").touch()
    assert identify(_asked(str(tmp_path / "netns2")), OWN, said) == (inode, other, born_ns)
