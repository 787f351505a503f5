"""deploy/'s files for containers: their files exist, their options, ports, paths and names agree
with each other and with the server, and a real server answers their checks.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions
from process import PLAIN, Command
from programs import BUILD
from support import wait_until

from thestral import Config
from thestral.admin.routes import PATHS
from thestral.config.address import read_address
from thestral.metrics.prometheus import FAMILIES
from thestral.process.server import longest_stop

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALL = "0.0.0.0"


class Instruction(NamedTuple):
    """A line of a Dockerfile."""

    name: str
    rest: str

    def words(self) -> list[str]:
        return shlex.split(self.rest)


def stages() -> list[list[Instruction]]:
    """The stages of the Dockerfile, each from its FROM on."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, rest.strip()))
    return found


BUILT, SERVED = stages()


def only(name: str) -> Instruction:
    """The only instruction of this name in the image."""
    (found,) = [instruction for instruction in SERVED if instruction.name == name]
    return found


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


@pytest.fixture
def folder(tmp_path):
    """A directory with an application of the example's name."""
    (tmp_path / "application.py").write_text(PLAIN)
    return tmp_path


def check(arguments: list[str], folder: Path) -> None:
    """Have `thestral check` read a command."""
    assert arguments[0] == "thestral"
    with Command("check", *arguments[1:], cwd=folder) as command:
        assert command.wait() == 0, command.stderr


def test_image_has_no_compiler_and_no_root():
    image = BUILT[0].words()[0]
    assert [stage[0].rest for stage in (BUILT, SERVED)] == [f"{image} AS build", image]
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert not any("apt-get" in instruction.rest for instruction in SERVED)
    names = [instruction.name for instruction in SERVED]
    assert names.index("USER") < names.index("CMD")
    user, _, group = only("USER").rest.partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_files_that_the_image_copies_exist():
    for instruction in (*BUILT, *SERVED):
        if instruction.name == "COPY":
            *sources, _ = instruction.words()
            for source in sources:
                assert (ROOT / source).exists(), source


def test_packages_that_the_image_installs():
    (update,) = [one.rest for one in BUILT if "apt-get install" in one.rest]
    packages = update.partition("--no-install-recommends")[2].split()
    ours = {package for package, _ in BUILD.values()}
    assert set(packages) == ours - {"python3-dev", "python3-venv"}  # the image has them
    extras = [
        set(names.split(","))
        for one in (*BUILT, *SERVED)
        for names in re.findall(r"pip .*\[([\w,]+)\]", one.rest)
    ]
    assert len(extras) == 2
    assert extras[0] == extras[1]
    assert extras[0] <= set(PROJECT["optional-dependencies"])


def test_command_of_the_image_is_one_that_the_server_takes(folder):
    arguments = json.loads(only("CMD").rest)
    check(arguments, folder)
    ports = [value(arguments, "--port"), str(read_address(value(arguments, "--admin")).port)]
    assert only("EXPOSE").words() == ports
    assert value(arguments, "--host") == read_address(value(arguments, "--admin")).host == ALL
    assert only("STOPSIGNAL").rest == "SIGTERM"
    (copied,) = [one.words()[0] for one in SERVED if one.name == "COPY"]
    assert copied == f"examples/{arguments[1].partition(':')[0]}.py"


def healthy(port: int) -> int:
    """The status of the image's HEALTHCHECK, for an admin port."""
    options, _, command = only("HEALTHCHECK").rest.partition("CMD ")
    assert set(re.findall(r"--(\w[\w-]*)=", options)) == {
        *("interval", "timeout", "start-period", "retries"),
    }
    assert (
        f"127.0.0.1:{read_address(value(json.loads(only('CMD').rest), '--admin')).port}" in command
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    asked = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", command)
    return subprocess.run(
        ["sh", "-c", asked], env={**os.environ, "PATH": path}, capture_output=True
    ).returncode


def test_health_check_knows_whether_the_server_is_ready(folder):
    arguments = json.loads(only("CMD").rest)[1:]
    replaced = {"--port": "0", "--admin": "127.0.0.1:0", "--workers": "1", "--shutdown-delay": "60"}
    for option, new in replaced.items():
        arguments[arguments.index(option) + 1] = new
    with Command(*arguments, cwd=folder) as command:
        port = int(
            wait_until(lambda: re.search(r"Admin port on http://.*?:(\d+)", command.stderr))[1]
        )
        command.saw("Thestral running on")
        assert healthy(port) == 0
        command.signal(signal.SIGTERM)
        command.saw("Shutting down")
        assert healthy(port) == 1
        command.signal(signal.SIGQUIT)
        assert command.wait() == 0
    assert healthy(port) == 1


MANIFESTS = [
    manifest
    for file in sorted((DEPLOY / "kubernetes").iterdir())
    for manifest in yaml.safe_load_all(file.read_text())
]
OWN_SCHEMA = [manifest for manifest in MANIFESTS if manifest["kind"] != "ServiceMonitor"]
MINUTE = 60  # seconds


def manifest(kind: str, name: str = "app") -> dict[str, Any]:
    (found,) = [one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def container() -> dict[str, Any]:
    (found,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def options() -> dict[str, str]:
    """The options of the Deployment's command."""
    return dict(argument.split("=", 1) for argument in container()["args"])


@pytest.mark.parametrize("given", OWN_SCHEMA, ids=lambda one: one["kind"])
@pytest.mark.parametrize("version", [all_versions()[0], all_versions()[-1]])
def test_manifest_follows_the_schema_of_kubernetes(version, given):
    kubernetes_validate.validate(given, version, strict=True)


def test_schema_finds_what_is_wrong():
    wrong = {**manifest("Deployment"), "spec": {**manifest("Deployment")["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, all_versions()[-1], strict=True)


def test_pod_runs_a_command_that_the_server_takes(folder):
    command = container()["command"]
    assert command == json.loads(only("CMD").rest)[: len(command)]
    check([*command, *container()["args"]], folder)
    admin = read_address(options()["--admin"])
    assert admin.host == options()["--host"] == ALL
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": int(options()["--port"]), "admin": admin.port}


def test_container_has_the_time_that_a_shutdown_takes():
    delay = float(value(json.loads(only("CMD").rest), "--shutdown-delay"))
    needed = longest_stop(Config("main:app", shutdown_delay=delay))
    assert f" --stop-timeout {needed:.0f} " in (DEPLOY / "Dockerfile").read_text()


def test_pod_has_the_time_that_a_shutdown_takes():
    delay, grace = (
        float(options()[name]) for name in ("--shutdown-delay", "--timeout-graceful-shutdown")
    )
    assert delay > 0
    config = Config("main:app", shutdown_delay=delay, timeout_graceful_shutdown=grace)
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= longest_stop(config)
    assert "lifecycle" not in container()


def test_probes_ask_the_admin_port():
    asked = {
        name: container()[name]["httpGet"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert {one["port"] for one in asked.values()} == {"admin"}
    assert [one["path"] for one in asked.values()] == ["/readyz", "/readyz", "/livez"]
    assert {one["path"] for one in asked.values()} <= PATHS.keys()
    liveness = container()["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= MINUTE


def test_services_lead_to_the_pods():
    pod = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in container()["ports"]}
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"].items() <= pod.items()
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == pod
    for name, port in (("app", "http"), ("app-admin", "admin")):
        service = manifest("Service", name)["spec"]
        assert service["selector"].items() <= pod.items()
        # The admin port is not one of the application's Service.
        assert [one["targetPort"] for one in service["ports"]] == [port]
        assert port in ports


def test_prometheus_finds_the_admin_ports():
    monitor = manifest("ServiceMonitor")["spec"]
    services = [one for one in MANIFESTS if one["kind"] == "Service"]
    wanted = monitor["selector"]["matchLabels"].items()
    (service,) = [one for one in services if wanted <= one["metadata"]["labels"].items()]
    assert service["metadata"]["name"] == "app-admin"
    assert monitor["jobLabel"] in service["metadata"]["labels"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] in PATHS


def test_pods_are_scaled_by_a_metric_that_exists():
    scaler = manifest("HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    deployment = manifest(target["kind"], target["name"])
    assert target["apiVersion"] == deployment["apiVersion"]
    assert "replicas" not in deployment["spec"]  # they would be set back at each `kubectl apply`
    (metric,) = scaler["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert FAMILIES[name].kind == "gauge"
    adapter = yaml.safe_load((DEPLOY / "prometheus-adapter.yml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert re.match(r"\w+", rule["seriesQuery"])[0] == name
