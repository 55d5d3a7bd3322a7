"""The variables of a call: which are needed, what they may be, and what is looked at first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastipam import cni

from ..e2e.tools import cni_plugins_dir, require_cni_plugins
from .plugin import COMMANDS, VERSIONS, Answer, Call, Held, Make, Plugin, environment

if TYPE_CHECKING:
    from pathlib import Path

FOUR = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
NEEDED = {
    "ADD": FOUR,
    "CHECK": FOUR,
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
    "GC": ["CNI_PATH"],
    "STATUS": ["CNI_PATH"],
}


def _handle(environ: dict[str, str], config: Any = None) -> Answer:
    stdin = json.dumps(config).encode() if config is not None else b""
    lines: list[str] = []
    status, stdout = cni.handle(environ, stdin, log=lines.append)
    return Answer(status, json.loads(stdout) if stdout else None, "\n".join(lines))


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_variables(command: str) -> None:
    """A call without its variables is refused with code 4 and the names of all that it needs."""
    answer = _handle({"CNI_COMMAND": command})
    assert answer.code == 4
    assert answer.message.endswith(": " + ", ".join(NEEDED[command]))


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in COMMANDS for name in NEEDED[command]]
)
@pytest.mark.parametrize("value", [None, ""])
def test_one_missing_variable(command: str, name: str, value: str | None, config: Make) -> None:
    """Each needed variable is needed by itself, and an empty one is a missing one."""
    environ = environment(command)
    del environ[name]
    if value is not None:
        environ[name] = value
    answer = _handle(environ, config())
    assert answer.code == 4
    assert answer.message.endswith(f": {name}")


@pytest.mark.parametrize("command", ["GC", "STATUS", "DEL"])
def test_variables_not_needed(command: str, config: Make) -> None:
    """GC and STATUS look at no container, and DEL needs no network namespace."""
    environ = environment(command, netns="")
    if command != "DEL":
        environ |= {"CNI_CONTAINERID": "///", "CNI_IFNAME": "a/b"}
    ranges = {"subnet": "10.1.2.0/24"}
    answer = _handle(environ, config(ipam=ranges) | {"cni.dev/valid-attachments": []})
    assert answer == Answer(0, None, "")


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize(
    "value", ["_a", ".a", "-a", "a b", "a/b", "a:b", "ä", "a\n", " a", "a\udcff"]
)
def test_container_id_characters(command: str, value: str) -> None:
    """A container id begins with a letter or digit; letters, digits, '_', '.' and '-' follow."""
    answer = _handle({"CNI_COMMAND": command, "CNI_CONTAINERID": value})
    assert answer.code == 4
    assert "CNI_CONTAINERID" in answer.message
    assert "is not a valid container id" in answer.message


@pytest.mark.parametrize("value", ["a", "0", "A_.-9", "c" * 300])
def test_container_id_accepted(value: str, call: Call, config: Make, held: Held) -> None:
    """Every container id of the permitted characters gets an address, however long it is."""
    assert call("ADD", config(ipam={"subnet": "10.1.2.0/24"}), value).status == 0
    assert held() == {"10.1.2.2": (value, "eth0")}


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a234567890123456", "too long"),
        ("ääääääää", "too long"),
        (".", "named"),
        ("..", "named"),
        ("a/b", "white space"),
        ("a:b", "white space"),
        ("a b", "white space"),
        ("a\tb", "white space"),
        ("eth0\n", "white space"),
        ("\ud800", "not valid UTF-8"),
    ],
)
def test_interface_name(command: str, value: str, why: str) -> None:
    """An interface name has at most 15 bytes, is not . or .., and has no '/', ':' or blank."""
    environ = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": value}
    answer = _handle(environ)
    assert answer.code == 4
    assert "CNI_IFNAME" in answer.message
    assert why in answer.message


@pytest.mark.parametrize("value", ["a23456789012345", "ääääääa", "e", "...", "eth0.100"])
def test_interface_name_accepted(value: str, call: Call, config: Make, held: Held) -> None:
    """15 bytes of anything else are an interface name."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    assert call("ADD", made, ifname=value).status == 0
    assert held() == {"10.1.2.2": ("c1", value)}


def test_container_id_before_missing() -> None:
    """A wrong container id or interface name is reported before the variables that are missing."""
    wrong_id = _handle({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "///"})
    assert "CNI_CONTAINERID" in wrong_id.message
    assert "missing" not in wrong_id.message
    wrong_ifname = _handle({"CNI_COMMAND": "ADD", "CNI_IFNAME": "a/b"})
    assert "CNI_IFNAME" in wrong_ifname.message
    assert "missing" not in wrong_ifname.message


@pytest.mark.parametrize("environ", [{}, {"CNI_COMMAND": ""}])
def test_no_command(environ: dict[str, str]) -> None:
    """Without a command: status 0, nothing on standard output, the versions on the log."""
    answer = _handle(environ | {"CNI_CONTAINERID": "///"})
    assert answer.status == 0
    assert answer.document is None
    assert f"CNI protocol versions supported: {', '.join(VERSIONS)}" in answer.stderr


def test_no_command_as_a_process(plugin: Plugin) -> None:
    """The process does not wait for standard input when it has no command."""
    answer = plugin.raw({"CNI_COMMAND": ""}, b"not JSON")
    assert (answer.status, answer.document) == (0, None)
    assert f"CNI protocol versions supported: {', '.join(VERSIONS)}" in answer.stderr
    assert answer.stderr.startswith("fastipam: an IPAM plugin of CNI")


def test_version() -> None:
    """VERSION needs no other variable, and answers one compact line."""
    listed = ",".join(f'"{one}"' for one in VERSIONS)
    expected = f'{{"cniVersion":"1.1.0","supportedVersions":[{listed}]}}\n'
    assert cni.handle({"CNI_COMMAND": "VERSION"}, b"not JSON") == (0, expected.encode())


@pytest.mark.parametrize("command", ["FOO", "add", "VERSION ", "\udcff", "A" * 5000])
def test_unknown_command(command: str, config: Make) -> None:
    """An unknown command is refused with code 4, its variables missing or not."""
    assert _handle({"CNI_COMMAND": command}, config()).code == 4


def test_unknown_command_comes_last() -> None:
    """The document and the network name are looked at before the command is found unknown."""
    assert _handle({"CNI_COMMAND": "FOO"}, []).code == 6
    assert _handle({"CNI_COMMAND": "FOO"}, {}).code == 7
    assert _handle({"CNI_COMMAND": "FOO"}, {"name": "a/b"}).code == 7
    assert _handle({"CNI_COMMAND": "FOO"}, {"name": "a", "cniVersion": "9.0.0"}).code == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_order_of_checks(command: str) -> None:
    """Variables (4), document (6), name (7), version (1): what comes first is what is reported."""
    good = environment(command)
    lacking = {key: value for key, value in good.items() if key != "CNI_PATH"}
    assert _handle(lacking, []).code == 4
    assert _handle(good, []).code == 6
    assert _handle(good, {"cniVersion": "9.0.0"}).code == 7
    assert _handle(good, {"cniVersion": "9.0.0", "name": "a"}).code == 1


@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize(
    "version",
    ["1.2.0", "0.5.0", "1.1", "1", "v1.0.0", "1.1.0 ", "\u0660.1.0", "1.1.00", "9" * 5000],
)
def test_unsupported_version(command: str, version: str, call: Call, config: Make) -> None:
    """ADD and DEL take exactly the versions that VERSION lists, else code 1."""
    answer = call(command, config(version=version, ipam={"subnet": "10.1.2.0/24"}))
    assert answer.code == 1
    assert answer.document["cniVersion"] == "1.1.0"
    assert "cniVersion" in answer.message


@pytest.mark.parametrize(
    ("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_commands_by_version(
    command: str, since: str, version: str, call: Call, config: Make
) -> None:
    """CHECK is allowed from 0.4.0 on, GC and STATUS from 1.1.0 on; before that code 1."""
    made = config(version=version, ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made)
    answer = call(command, made | {"cni.dev/valid-attachments": []})
    assert answer.code == (None if version >= since else 1)
    if answer.code:
        assert answer.document["cniVersion"] == version


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
@pytest.mark.parametrize(("version", "code"), [("1.2.0", 1), ("2.0.0", 1), ("0.4", 6), ("x", 6)])
def test_too_new_or_no_version(
    command: str, version: str, code: int, call: Call, config: Make
) -> None:
    """CHECK, GC and STATUS of a newer version are code 1, and of an invalid version code 6."""
    assert call(command, config(version=version)).code == code


@pytest.mark.parametrize("version", ["", None])
def test_missing_version(version: str | None, call: Call, config: Make) -> None:
    """A configuration without a version is one of 0.1.0."""
    made = config(ipam={"subnet": "10.1.2.0/24"}) | {"cniVersion": version}
    answer = call("ADD", made)
    assert answer.document["cniVersion"] == "0.1.0"
    assert answer.document["ip4"]["ip"] == "10.1.2.2/24"
    assert call("CHECK", made).code == 1


def test_error_object(call: Call, config: Make) -> None:
    """An error object has the configuration's version, code, msg and, if there is more, details."""
    answer = call("ADD", config(version="0.4.0", ipam={"subnet": "10.1.2.1/24"}))
    assert list(answer.document) == ["cniVersion", "code", "msg", "details"]
    assert answer.document["cniVersion"] == "0.4.0"


def test_form_of_answers(config: Make) -> None:
    """Documents are indented by 4, with no line break at the end; the others print nothing."""
    made = json.dumps(config(ipam={"subnet": "10.1.2.0/24"})).encode()
    status, stdout = cni.handle(environment("ADD"), made)
    assert status == 0
    assert stdout.decode() == json.dumps(json.loads(stdout), indent=4)
    status, stdout = cni.handle(environment("ADD"), made)
    assert status == 1
    assert stdout.decode() == json.dumps(json.loads(stdout), indent=4)
    for command in ("CHECK", "DEL"):
        assert cni.handle(environment(command), made) == (0, b"")


@pytest.mark.parametrize("override", ["", "0", "yes", "false"])
def test_own_network_namespace(override: str, call: Call, config: Make, held: Held) -> None:
    """ADD into the plugin's own network namespace is code 8, one document, and assigns nothing."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    environ = environment("ADD", netns="/proc/self/ns/net") | {"CNI_NETNS_OVERRIDE": override}
    assert _handle(environ, made).code == 8
    assert held() == {}
    assert call("ADD", made).addresses == ["10.1.2.2/24"]


@pytest.mark.parametrize("override", ["1", "true", "TRUE"])
def test_own_network_namespace_allowed(override: str, config: Make, held: Held) -> None:
    """CNI_NETNS_OVERRIDE allows the plugin's own network namespace."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    for command in ("ADD", "DEL"):
        environ = environment(command, netns="/proc/self/ns/net") | {"CNI_NETNS_OVERRIDE": override}
        assert _handle(environ, made).status == 0
    assert held() == {}


def test_own_network_namespace_in_del(call: Call, config: Make, held: Held) -> None:
    """DEL with the plugin's own network namespace is code 8, but the address is free."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made)
    assert call("DEL", made, netns="/proc/self/ns/net").code == 8
    assert held() == {}


def test_own_network_namespace_elsewhere(call: Call, config: Make) -> None:
    """The other commands do not care which network namespace is named."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made)
    for command in ("CHECK", "STATUS"):
        assert call(command, made, netns="/proc/self/ns/net").status == 0


def test_another_network_namespace(call: Call, config: Make, tmp_path: Path) -> None:
    """A path that is another file, or no file at all, is the container's own affair."""
    file = tmp_path / "netns"
    file.touch()
    made = config(ipam={"subnet": "10.1.2.0/24"})
    assert call("ADD", made, netns=str(file)).status == 0
    assert call("ADD", made, "c2", netns="/no/such/file").status == 0
    assert call("ADD", made, "c3", netns="/" + "x" * 9000).status == 0


def test_own_network_namespace_as_a_process(plugin: Plugin, config: Make, held: Held) -> None:
    """The process knows its own network namespace."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    assert plugin("ADD", made, netns="/proc/self/ns/net").code == 8
    assert held() == {}


@pytest.mark.parametrize(
    "args",
    [
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=x;K8S_POD_UID=1",
        "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=x;IgnoreUnknown=true",
        "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=x",
        "K8S_POD_UID=1",
        "IgnoreUnknown=0;K8S_POD_NAME=x",
        "IgnoreUnknown=True;FOO=1",
        "IgnoreUnknown=t;FOO=1",
        "IgnoreUnknown=;FOO=1",
        "IgnoreUnknown=1;IgnoreUnknown=0;FOO=1",
        "ignoreunknown=1",
        "FOO=1",
        "ip=10.1.2.9",
        "IP=",
        "IP=10.1.2.9",
        "IP",
        "IP=10.1.2.9;",
        "IgnoreUnknown=1;A=b=c",
        "IgnoreUnknown=1;=x",
    ],
)
def test_args_as_host_local_takes_them(
    args: str, plugin: Plugin, config: Make, tmp_path: Path
) -> None:
    """What host-local makes of CNI_ARGS, its binary says: fastipam accepts and refuses the same."""
    require_cni_plugins("host-local")
    theirs = Plugin(cni_plugins_dir() / "host-local")
    keys = {"subnet": "10.1.2.0/24", "ignoreHostLocal": True}
    made = config(version="1.0.0", ipam=keys)
    answer = plugin("ADD", made, args=args)
    made["ipam"]["dataDir"] = str(tmp_path / "host-local")
    expected = theirs("ADD", made, args=args)
    assert answer.status == expected.status, (answer, expected)
    if answer.status:
        assert answer.code == 4
    else:
        assert answer.document["ips"] == expected.document["ips"]
