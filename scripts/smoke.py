"""Serve one container by an installed launcher without an agent: ``smoke.py LAUNCHER STORE``."""

from __future__ import annotations

import json
import subprocess
import sys

import fastipam

launcher, store = sys.argv[1:]
CONFIG = {
    "cniVersion": "1.1.0",
    "name": "smoke",
    "type": "bridge",
    "ipam": {
        "type": "fastipam",
        "dataDir": store,
        "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]],
    },
}


def call(command: str) -> str:
    """Return what a call prints. It has no agent to ask."""
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_NETNS_OVERRIDE": "1",  # a namespace of its own would need root
        "CNI_PATH": "/opt/cni/bin",
        "FASTIPAM_SOCKET": f"{store}/no-agent",
    }
    done = subprocess.run(
        [launcher],
        input=json.dumps(CONFIG),
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def assigned() -> list[str]:
    """Return the addresses of the container, by the library."""
    with fastipam.open(store) as ipam:
        lease = ipam.network("smoke").get("c1", "eth0")
        return [str(each) for each in lease.addresses] if lease else []


answered = [each["address"] for each in json.loads(call("ADD"))["ips"]]
if not answered or answered != assigned():
    raise SystemExit(f"ADD answered {answered}, the store has {assigned()}")
call("DEL")
if assigned():
    raise SystemExit(f"after DEL the store has {assigned()}")
print(f"the launcher of fastipam {fastipam.__version__} has assigned and freed {answered}")
