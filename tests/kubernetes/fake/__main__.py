"""``python -m tests.kubernetes.fake DIRECTORY``: serve until the standard input ends.

One line of JSON says where: urls, ca, and the administrator's token. Commands: ``/fake/…``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .server import FakeServer


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes.fake")
    parser.add_argument("directory", type=Path, help="takes the certificates")
    parser.add_argument(
        "--port", type=int, action="append", help="of one server each; without: two free ones"
    )
    options = parser.parse_args()
    with FakeServer(options.directory, ports=tuple(options.port or (0, 0))) as server:
        said = {"urls": server.urls, "ca": str(server.ca), "token": server.admin_token}
        print(json.dumps(said), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
