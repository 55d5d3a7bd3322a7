"""``fastipam.cni`` for those who write plugins: requests, results of every version, errors."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import cni, errors, testing

from .plugin import VERSIONS, environment

if TYPE_CHECKING:
    from pathlib import Path

RANGES = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
HOST = {"name": "veth1", "mac": "02:00:00:00:00:01", "mtu": 1400}
POD = {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a", "pciID": "0000:00"}
ROUTES: list[dict[str, Any]] = [{"dst": "0.0.0.0/0", "mtu": 1300}, {"dst": "::/0", "gw": "fe80::1"}]
DNS = {"nameservers": ["10.1.0.1"], "domain": "example.org"}


def written(data_dir: Path, **keys: Any) -> dict[str, Any]:
    """A configuration of a main plugin."""
    ipam = {"type": "fastipam", "dataDir": str(data_dir), "ranges": RANGES}
    return {"cniVersion": "1.1.0", "name": "podnet", "type": "mine", "ipam": ipam, **keys}


def parsed(command: str, conf: dict[str, Any], **variables: str) -> cni.Request:
    """The request that a runtime makes."""
    return cni.Request.parse(environment(command, **variables), json.dumps(conf).encode())


def test_what_a_request_has(tmp_path: Path) -> None:
    """Every part of the call, spelled as the runtime spelled it."""
    previous = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}]}
    conf = written(
        tmp_path, prevResult=previous, Bridge="v-net-0", runtimeConfig={"ips": ["10.1.0.9"]}
    )
    request = parsed("CHECK", conf, args="IgnoreUnknown=1;IP=10.1.0.7;K8S_POD_NAME=web")
    assert (request.command, request.container_id, request.ifname) == ("CHECK", "c1", "eth0")
    assert (request.netns, request.name, request.version) == ("/some/where", "podnet", "1.1.0")
    assert request.args == {"IgnoreUnknown": "1", "IP": "10.1.0.7", "K8S_POD_NAME": "web"}
    assert request.config == conf
    assert request.ipam == conf["ipam"]
    assert request.prev_result == previous
    assert request.pod is None
    named = parsed("ADD", conf, args="K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;K8S_POD_UID=7")
    assert named.pod == fastipam.Pod("shop", "web", "7")
    assert request.requested_addresses() == [ip_address("10.1.0.7"), ip_address("10.1.0.9")]
    assert "CHECK c1 eth0" in repr(request)
    listed = parsed(
        "GC", {**conf, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}
    )
    assert listed.valid_attachments() == {fastipam.Owner("a", "eth0")}


def test_the_path_is_a_list_of_directories(tmp_path: Path) -> None:
    """``CNI_PATH`` is divided at its colons; VERSION needs neither it nor a configuration."""
    environ = environment("ADD") | {"CNI_PATH": "/opt/cni/bin:/usr/lib/cni"}
    request = cni.Request.parse(environ, json.dumps(written(tmp_path)).encode())
    assert request.path == ("/opt/cni/bin", "/usr/lib/cni")
    asked = cni.Request.parse({"CNI_COMMAND": "VERSION"}, b"")
    assert (asked.command, asked.config, asked.version) == ("VERSION", {}, "1.1.0")
    assert asked.delegate()["supportedVersions"] == list(VERSIONS)


@pytest.mark.parametrize(
    ("command", "variables", "stdin"),
    [
        ("ADD", {"CNI_IFNAME": ""}, None),
        ("ADD", {"CNI_CONTAINERID": "a b"}, None),
        ("", {}, None),
        ("ADD", {"CNI_ARGS": "broken"}, None),
        ("NONE", {}, None),
        ("ADD", {}, b"{"),
        ("ADD", {}, b"[]"),
        ("ADD", {}, b'{"cniVersion": "1.0.0"}'),
        ("ADD", {}, b'{"cniVersion": "1.0.0", "name": "a/b"}'),
        ("ADD", {}, b'{"cniVersion": "9.0.0", "name": "a"}'),
        ("ADD", {}, b'{"cniVersion": 3, "name": "a"}'),
        ("CHECK", {}, b'{"cniVersion": "0.3.0", "name": "a"}'),
        ("ADD", {}, b'{"cniVersion": "1.0.0", "name": "a", "ipam": 3}'),
        ("ADD", {}, b'{"cniVersion": "1.0.0", "name": "a", "ipam": {}, "prevResult": 3}'),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_as_the_plugin_does(
    command: str, variables: dict[str, str], stdin: bytes | None, tmp_path: Path
) -> None:
    """Code, message and details are those that ``handle`` answers with."""
    environ = environment(command) | {"CNI_PATH": "/none"} | variables
    stdin = json.dumps(written(tmp_path)).encode() if stdin is None else stdin
    with pytest.raises(fastipam.FastipamError) as refused:
        cni.Request.parse(environ, stdin)
    answer = cni.error_object(refused.value)
    if command and b"prevResult" not in stdin:
        expected = json.loads(cni.handle(environ, stdin)[1])
        assert {**answer, "cniVersion": ""} == {**expected, "cniVersion": ""}
    assert answer["code"] in (1, 4, 6, 7)
    assert answer["code"] == refused.value.cni_code


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_a_broken_rest_does_not_keep_del_from_its_work(command: str) -> None:
    """DEL and GC get an empty section in place of a broken one."""
    conf = {"cniVersion": "1.1.0", "name": "a", "ipam": 3, "prevResult": "broken"}
    request = parsed(command, conf, args="broken")
    assert (request.ipam, request.prev_result, request.args) == ({}, {}, {})


def test_delegating(tmp_path: Path) -> None:
    """The IPAM part is served in process, for the request's command or another one."""
    request = parsed("ADD", written(tmp_path))
    result = request.delegate()
    assert [one["address"] for one in result["ips"]] == ["10.1.0.2/24", "fd00:1::2/64"]
    with pytest.raises(fastipam.DuplicateAllocation) as refused:
        request.delegate()
    assert cni.error_object(refused.value, request.version)["code"] == 102
    request.config["ipam"]["repeatAdd"] = "return"
    assert request.delegate() == result
    assert request.delegate("CHECK") == request.delegate("DEL") == {}
    with pytest.raises(fastipam.LeaseMissing):
        request.delegate("CHECK")


def test_serving(tmp_path: Path) -> None:
    """A plugin's functions get the request; what they raise is answered in its version."""

    class Mine(cni.Request):
        def greeting(self) -> str:
            return f"hello {self.container_id}"

    def add(request: Mine) -> dict[str, Any]:
        return {"said": request.greeting(), **request.delegate()}

    def check(request: Mine) -> None:
        raise fastipam.CniError(request.greeting(), 120)

    def serve(command: str, conf: Any) -> tuple[int, Any]:
        stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
        commands = {"ADD": add, "CHECK": check}
        status, output = Mine.serve(environment(command), stdin, commands)
        return status, json.loads(output) if output else None

    conf = written(tmp_path, cniVersion="0.4.0")
    status, result = serve("ADD", conf)
    assert (status, result["said"], len(result["ips"])) == (0, "hello c1", 2)
    said = {"cniVersion": "0.4.0", "code": 120, "msg": "hello c1"}
    assert serve("CHECK", conf) == (1, said)
    assert serve("DEL", conf) == (0, None)
    assert serve("VERSION", b"")[1]["supportedVersions"] == list(VERSIONS)
    status, refused = serve("GC", conf)
    assert (status, refused["code"], refused["cniVersion"]) == (1, 1, "0.4.0")
    assert serve("ADD", b"{")[1]["cniVersion"] == "1.1.0"
    stdin = json.dumps(conf).encode()
    status, output = Mine.serve(environment("ADD"), stdin, {"Add": add})
    assert (status, json.loads(output)["msg"]) == (1, "commands: 'Add' is not a valid command")


def test_notes(tmp_path: Path) -> None:
    """What the IPAM plugin writes to standard error, a main plugin's process writes there too."""
    conf = written(tmp_path)
    conf["ipam"] |= {"ranges": [[{"subnet": "10.1.0.0/30"}]], "colour": "red"}
    notes: list[str] = []
    status, _ = cni.Request.serve(
        environment("ADD"),
        json.dumps(conf).encode(),
        {"ADD": lambda call: cni.result(call.allocate(), call.version)},
        log=notes.append,
    )
    assert (status, notes) == (0, ["ipam.colour: unknown key, ignored"])
    done = subprocess.run(
        [sys.executable, "-c", "from fastipam import cni; cni.Request.main({})"],
        env=environment("STATUS"),
        input=json.dumps(conf),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert "fastipam: ipam.colour: unknown key, ignored\n" in done.stderr
    assert "no address is free" in done.stderr


def test_wrong_arguments_of_a_plugin(tmp_path: Path) -> None:
    """What is no request and what are no functions is the answer, with its field and value."""
    variables, stdin = environment("STATUS"), json.dumps(written(tmp_path)).encode()
    wrong: Any
    for wrong in (None, 5, stdin.decode(), ["{}"]):
        status, output = cni.Request.serve(variables, wrong, {})
        assert (status, json.loads(output)["code"]) == (1, 7)
        assert "stdin" in json.loads(output)["msg"]
    for wrong in (None, 5, "CNI_COMMAND=ADD", ["CNI_COMMAND"]):
        with pytest.raises(fastipam.ConfigError) as caught:
            cni.Request.parse(wrong, stdin)
        assert (caught.value.field, caught.value.value) == ("environ", wrong)
    for wrong, field in (
        (None, "commands"),
        (["ADD"], "commands"),
        ({"STATUS": None}, "commands.STATUS"),
        ({"ADD": "add"}, "commands.ADD"),
        ({"add": len}, "commands"),
    ):
        status, output = cni.Request.serve(variables, stdin, wrong)
        assert (status, json.loads(output)["code"]) == (1, 7)
        assert json.loads(output)["msg"].startswith(f"{field}: ")


def test_wrong_words_for_the_ipam_part(tmp_path: Path) -> None:
    """What stands for ``repeatAdd`` or for the command is one of their words."""
    call = parsed("ADD", written(tmp_path))
    wrong: Any
    for wrong in ("retrun", "", b"return", ["return"], 5, True):
        with pytest.raises(fastipam.ConfigError) as caught:
            call.allocate(wrong)
        assert (caught.value.field, caught.value.value) == ("existing", wrong)
    for wrong in ("del", b"DEL", ["DEL"], 5, None):
        with pytest.raises(fastipam.ConfigError) as caught:
            call.delegate(wrong)
        assert (caught.value.field, caught.value.value) == ("command", wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_result_of_each_version(version: str, tmp_path: Path) -> None:
    """Without interfaces it is what the plugin answers; with them it has their indexes."""
    ipam = {"type": "fastipam", "dataDir": str(tmp_path), "ranges": RANGES, "routes": ROUTES}
    plugins = parsed("ADD", written(tmp_path, cniVersion=version, ipam=ipam)).delegate()
    with fastipam.open(tmp_path) as ipam_:
        lease = ipam_.network("podnet", RANGES).allocate("c1", existing="return")
    assert cni.result(lease, version, routes=ROUTES) == plugins
    assert cni.result(lease.siblings, version, routes=ROUTES) == plugins
    whole = cni.result(lease, version, interfaces=[HOST, POD], routes=ROUTES, dns=DNS)
    assert whole["dns"] == DNS
    number = tuple(map(int, version.split(".")))
    if number < (0, 3, 0):
        assert whole == {**plugins, "dns": DNS}
        return
    assert list(whole)[:2] == ["cniVersion", "interfaces"]
    assert whole["ips"] == [{**one, "interface": 1} for one in plugins["ips"]]
    if number < (1, 1, 0):
        older = {key: value for key, value in POD.items() if key != "pciID"}
        assert whole["interfaces"] == [{"name": "veth1", "mac": HOST["mac"]}, older]
    else:
        assert whole["interfaces"] == [HOST, POD]


def test_addresses_of_two_interfaces() -> None:
    """Each address belongs to the interface of its lease."""
    with testing.temporary_network("10.1.0.0/24") as network:
        leases = [network.allocate("c1", "eth0"), network.allocate("c1", "net1")]
        pods = [{**POD, "name": "net1"}, POD, {"name": "eth0"}]
        made = cni.result(
            leases, "1.0.0", interfaces=pods, routes=[{"dst": ip_network("10.0.0.0/8")}]
        )
    assert [one["interface"] for one in made["ips"]] == [1, 0]
    assert made["routes"] == [{"dst": "10.0.0.0/8"}]


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"interfaces": [{"name": "veth1"}]}, "interfaces"),
        ({"interfaces": [{"mac": "02:00:00:00:00:01"}]}, "interfaces[0].name"),
        ({"interfaces": [{**POD, "Mac": ""}]}, "interfaces[0].Mac"),
        ({"routes": [{"dst": "10.0.0.0/33"}]}, "routes[0].dst"),
        ({"routes": [*ROUTES, {"dst": "::/0", "via": "fe80::1"}]}, "routes[2].via"),
        ({"dns": {"nameserver": "10.1.0.1"}}, "dns.nameserver"),
        ({"dns": {"nameservers": "10.1.0.1"}}, "dns.nameservers"),
        ({"dns": {"domain": ["example.org"]}}, "dns.domain"),
        ({"dns": ["10.1.0.1"]}, "dns"),
        ({"version": "0.2.0"}, "version"),
        ({"interfaces": POD}, "interfaces"),
        ({"interfaces": ["eth0"]}, "interfaces[0]"),
        ({"routes": "0.0.0.0/0"}, "routes"),
        ({"routes": ["0.0.0.0/0"]}, "routes[0]"),
    ],
)  # fmt: skip
def test_a_wrong_result_is_refused(keywords: dict[str, Any], field: str) -> None:
    """What a result cannot have is an error that names it."""
    with testing.temporary_network("10.1.0.0/24") as network:
        leases = [network.allocate("c1"), network.allocate("c2")]
    with pytest.raises(fastipam.ConfigError) as refused:
        cni.result(leases, **{"version": "1.0.0", **keywords})
    assert refused.value.field == field
    for wrong, said in (([leases[0].address], "leases[0]"), (leases[0].address, "leases")):
        with pytest.raises(fastipam.ConfigError) as refused:
            cni.result(wrong, "1.0.0")  # type: ignore[arg-type]
        assert refused.value.field == said
    with pytest.raises(fastipam.CniError, match=r"0\.9\.0"):
        cni.result(leases, "0.9.0")


def test_every_error_has_its_code() -> None:
    """Each class has a code; of a full pool whose addresses cool down it is 11; all are pickled."""
    for name in errors.__all__:
        error = getattr(errors, name)("text")
        assert isinstance(error.cni_code, int)
        assert cni.error_object(error)["code"] == error.cni_code
    assert fastipam.PoolExhausted("full").cni_code == 100
    cooling = fastipam.PoolExhausted("full", retry_after_s=3)
    own = fastipam.CniError("eth0 lacks its address", 120, hint="delete the container")
    for error in (cooling, own):
        again = pickle.loads(pickle.dumps(error))
        assert cni.error_object(again) == cni.error_object(error)
    assert cooling.cni_code == 11
    assert cni.error_object(own, "0.4.0") == {
        "cniVersion": "0.4.0",
        "code": 120,
        "msg": "eth0 lacks its address",
        "details": "delete the container",
    }


def test_the_error_object_of_anything() -> None:
    """Exceptions of a plugin's own are 999 and nobody else's defect; a passing limit is 11."""
    assert cni.error_object(ValueError("a\ud800"), "nonsense") == {
        "cniVersion": "1.1.0",
        "code": 999,
        "msg": "ValueError: a\\ud800",
    }
    assert cni.error_object(ImportError("no pyroute2"))["code"] == 999
    assert cni.error_object(MemoryError())["code"] == 11
    assert cni.error_object(OSError(24, "too many"))["code"] == 11
    field = fastipam.ConfigError("it is a number", field="bridge")
    assert cni.error_object(field)["msg"] == "bridge: it is a number"


def test_names() -> None:
    """The package has what it says, and nothing that it has not."""
    assert {"Request", "error_object", "handle", "result"} <= set(dir(cni))
    assert callable(cni.result)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cni.nothing  # type: ignore[attr-defined]  # noqa: B018
