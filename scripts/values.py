"""Print a document with the table of a chart's values, by values.schema.json and values.yaml.

The table stands between two comments of the document: ``values.py CHART DOCUMENT``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


def leaves(schema: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each value that a user may set: ``a.b``, or ``a[].b`` in a list, with its schema."""
    if "description" in schema and "properties" not in schema:
        yield name, schema
    for key, each in schema.get("properties", {}).items():
        yield from leaves(each, f"{name}.{key}".lstrip("."))
    if "properties" in schema.get("items", {}):
        yield from leaves(schema["items"], f"{name}[]")


def default_of(values: Any, name: str) -> Any:
    """Return the default of a value, None when it has none."""
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return None
        values = values[key]
    return values


def table(chart: Path) -> str:
    """Return the rows, in the order of the schema."""
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for name, each in leaves(schema):
        default = default_of(values, name)
        is_list = "properties" in each.get("items", {})
        shown = "" if default is None or is_list else f"`{json.dumps(default)}`"
        shown = "one pool" if is_list and default else shown
        rows.append(f"| `{name}` | {shown} | {each['description']} |")
    return "\n".join(rows)


def main(chart: str, document: str) -> None:
    """Print the document with a new table."""
    text = Path(document).read_text()
    before, _, rest = text.partition(f"{BEGIN}\n")
    _, _, after = rest.partition(END)
    sys.stdout.write(f"{before}{BEGIN}\n\n{table(Path(chart))}\n\n{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
