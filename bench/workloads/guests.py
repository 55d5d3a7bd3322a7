"""The IPAM binaries that a user names: their options, ``ipam`` sections, and checks."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import Missing
from bench.workloads.contenders import NOT_STATED
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.host_local import DEFAULT_TREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIVE = tuple(dict.fromkeys(map(Path, (DEFAULT_DATA_DIR, DEFAULT_TREE))))
_DATA, _SUBNET, _SUBNET6 = "{data}", "{subnet}", "{subnet6}"


@dataclass(frozen=True)
class Guest:
    """A binary of the user. ``template`` is the text of its ``ipam`` section, or None."""

    name: str
    binary: Path
    template: str | None = None
    durability: str = NOT_STATED

    @property
    def fills(self) -> bool:
        """Whether its pool is the workload's, so that the pool can be filled up."""
        return self.template is None or _SUBNET in self.template

    def section(self, pools: Sequence[str], data: Path) -> dict[str, Any]:
        """Return the ``ipam`` section for these pools. Raises Missing for a live node's store."""
        if self.template is None:
            ranges = [[{"subnet": pool}] for pool in pools]
            return {"type": self.binary.name, "ranges": ranges, "dataDir": str(data)}
        text = self.template.replace(_DATA, str(data)).replace(_SUBNET, pools[0])
        made: dict[str, Any] = json.loads(text.replace(_SUBNET6, pools[-1]))
        for path in _paths(made):
            refuse_live(path, f"--config {self.name}")
        return {"type": self.binary.name} | made


def named(words: Sequence[str], option: str) -> dict[str, str]:
    """Return the values of an option NAME=VALUE, by name. Raises Missing."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise Missing(f"{option} {word!r} is not NAME=VALUE")
        if name in found:
            raise Missing(f"{option} {name} is given twice")
        found[name] = value
    return found


def guests(
    plugins: Sequence[str],
    configs: Sequence[str],
    durabilities: Sequence[str],
    taken: Sequence[str],
    elsewhere: Sequence[str] = (),
) -> list[Guest]:
    """Return the binaries that the options name. Raises Missing if one of them cannot be used."""
    paths = named(plugins, "--plugin")
    templates, durable = named(configs, "--config"), named(durabilities, "--durability")
    options: dict[str, Mapping[str, str] | Sequence[str]] = {
        "--config": templates, "--durability": durable, "--elsewhere": elsewhere,
    }  # fmt: skip
    for option, given in options.items():
        for name in given:
            if name not in paths:
                raise Missing(f"{option} {name}: there is no --plugin {name}=PATH")
    made = []
    for name, path in paths.items():
        if name in taken:
            raise Missing(f"--plugin {name}: this name is taken; give it another one")
        if not (os.access(path, os.X_OK) and Path(path).is_file()):
            raise Missing(f"--plugin {name}={path}: {path} cannot be executed")
        template = None
        if name in templates:
            template = _template(name, Path(templates[name]), elsewhere=name in elsewhere)
        binary = Path(path).resolve()
        made.append(Guest(name, binary, template, durable.get(name, NOT_STATED)))
    return made


def _template(name: str, path: Path, *, elsewhere: bool) -> str:
    try:
        section = json.loads(path.read_text())["ipam"]
        text = json.dumps(section | {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Missing(f"--config {name}={path} has no `ipam` section: {error!r}") from error
    for one in _paths(section):
        refuse_live(one, f"--config {name}")
    if _DATA not in text and not elsewhere:
        raise Missing(
            f"--config {name}={path} names no directory of its own, and the plugin's default may "
            f"be a live node's: put {_DATA} where the directory is to stand, or add --elsewhere "
            f"{name} if it keeps nothing on this machine"
        )
    return text


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str) and value.startswith("/"):
        yield Path(value)


def refuse_live(path: Path, option: str) -> None:
    """Raise Missing when a path is the store of a live node, or is below one."""
    real = path.resolve()
    for live in LIVE:
        if real == live.resolve() or live.resolve() in real.parents:
            raise Missing(
                f"{option}: {path} belongs to this node's own leases ({live}); "
                "name another directory"
            )
    holder = _holder(real)
    if holder:
        raise Missing(f"{option}: process {holder} has the store in {path} open; name another one")


def _holder(directory: Path) -> str:
    """Return the id of a process that has the store in this directory open, or ""."""
    store = {str(directory / name) for name in ("data.mdb", "lock.mdb")}
    if not any(map(os.path.exists, store)):
        return ""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in store:
                return link.parts[2]
        except OSError:
            continue  # the process has ended, or belongs to another user
    return ""
