"""Print what dependency groups of pyproject.toml ask for and this environment does not have.

``python scripts/missing.py GROUP...`` prints one requirement a line.
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def requirements(groups: dict[str, list[str | dict[str, str]]], name: str) -> list[str]:
    """Return the requirements of a group and of the groups that it includes."""
    found = []
    for entry in groups[name]:
        if isinstance(entry, str):
            found.append(entry)
        else:
            found += requirements(groups, entry["include-group"])
    return found


def is_missing(text: str) -> bool:
    """Return whether a requirement is for this interpreter and not met here."""
    wanted = Requirement(text)
    if wanted.marker and not wanted.marker.evaluate():
        return False
    try:
        return not wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return True


def main() -> None:
    """Print them."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    groups = tomllib.loads(text)["dependency-groups"]
    wanted = {one for name in sys.argv[1:] for one in requirements(groups, name)}
    print("".join(f"{one}\n" for one in sorted(wanted) if is_missing(one)), end="")


if __name__ == "__main__":
    main()
