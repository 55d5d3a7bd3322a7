"""Make the terminal captures of this directory: real commands on a node that is thrown away.

    python docs/pictures/terminal.py        # from the top of the source tree, as root

It runs in a mount namespace of its own, with empty directories over those in which fastipam and
runtimes keep things. What differs from run to run are times and process numbers.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
FASTIPAM = Path(sys.executable).with_name("fastipam")
FRESH = ("/opt/cni", "/etc/cni", "/var/lib/cni", "/run/fastipam", "/run/netns")
WIDTH = 80
CONFIGURATION = """\
{"cniVersion": "1.0.0", "name": "podnet", "type": "bridge",
 "ipam": {"type": "fastipam", "ranges": [[{"subnet": "10.32.0.0/12"}]]}}
"""
CAPTURES = {
    "terminal-list": ("fastipam list", "fastipam stats"),
    "terminal-who": ("fastipam show 10.32.0.3", "fastipam history 10.32.0.3 --at {now}"),
    "terminal-doctor": ("fastipam doctor",),
}


def plugin(command: str, name: str) -> None:
    """What a runtime does for the pod ``default/NAME``."""
    namespace = Path("/run/netns", name)
    if command == "ADD" and not namespace.exists():
        subprocess.run(["ip", "netns", "add", name], check=True)
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"{name}-7d9c",
        "CNI_NETNS": str(namespace),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}",
    }
    subprocess.run(
        ["/opt/cni/bin/fastipam"],
        env=environment,
        input=CONFIGURATION.encode(),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def node() -> None:
    """Some pods, one that has gone as it should, one that has not, and a lease of host-local."""
    for path in FRESH:
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "fastipam-capture", path], check=True)
    subprocess.run([FASTIPAM, "install"], stdout=subprocess.DEVNULL, check=True)
    Path("/etc/cni/net.d").mkdir()
    Path("/etc/cni/net.d/10-podnet.conf").write_text(CONFIGURATION)
    for name in ("web-0", "web-1", "db-0", "batch-1", "batch-2"):
        plugin("ADD", name)
    plugin("DEL", "batch-1")
    subprocess.run(["ip", "netns", "delete", "batch-2"], check=True)
    subprocess.run(
        [FASTIPAM, "reserve", "10.32.0.64/31", "--reason", "routers"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    old = Path("/var/lib/cni/networks/podnet")
    old.mkdir(parents=True)
    (old / "10.32.0.99").write_text("4f1c\r\neth0")


def on_terminal(line: str) -> str:
    """What a command line shows on a terminal, with its colours."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, WIDTH, 0, 0))
    environment = os.environ | {
        "PATH": f"{FASTIPAM.parent}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "COLUMNS": str(WIDTH),
    }
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        ["sh", "-c", line], env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    ):
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
    os.close(controller)
    return shown.decode().replace("\r\n", "\n")


def capture(name: str, lines: tuple[str, ...]) -> None:
    """Write one picture."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    for line in lines:
        typed = line.format(now=time.strftime("%H:%M"))
        console.print(Text(f"$ {typed}", style="bold"))
        console.print(Text.from_ansi(on_terminal(typed).rstrip()))
    picture = console.export_svg(title="fastipam", unique_id=name)
    # rich names a font on another host: whoever looks at the picture shall ask nobody.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    assert "url(http" not in picture
    (HERE / f"{name}.svg").write_text(picture)


def main() -> None:
    """Go into a mount namespace, make the node, take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    if not parser.parse_args().inside:
        inside = [sys.executable, __file__, "--inside"]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *inside])
    node()
    with subprocess.Popen([FASTIPAM, "agent"]) as agent:
        while not Path("/run/fastipam/agent.sock").exists():
            time.sleep(0.05)
        for name, lines in CAPTURES.items():
            capture(name, lines)
        agent.terminate()


if __name__ == "__main__":
    main()
