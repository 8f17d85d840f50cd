"""The files in deploy/ match the program: commands, paths, configuration, broker."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests import REPOSITORY
from tests.runtime.monitoring.test_monitoring import LOCAL, STATUS
from tests.support.event_toys import eventually
from tests.support.servers import free_port, skip_or_fail
from tests.test_architecture import SUBPACKAGES
from twincar_edge.cli.watch import command
from twincar_edge.runtime.configuration.config_file import read_config
from twincar_edge.runtime.listening import parse_address
from twincar_edge.runtime.monitoring.server import Monitoring

DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "twincar-edge.service"
CLUSTER = DEPLOY / "cluster"
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")


def instructions(name: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions and their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == instruction]


def unit(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def unit_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in unit("Environment") for pair in shlex.split(line))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = importlib.import_module("yaml")
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def secrets() -> dict[str, str]:
    lines = (DEPLOY / "secrets.env.example").read_text().split()
    return {line.partition("=")[0]: line.partition("=")[2] or "filled-in" for line in lines}


# --- images ---


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_copies_existing_files_and_all_that_the_package_needs(name: str) -> None:
    copies = [rest.split() for rest in arguments(name, "COPY") if not rest.startswith("--from")]
    sources = {source for copy in copies for source in copy[:-1]}
    assert all((REPOSITORY / source).exists() for source in sources)
    assert {"pyproject.toml", "README.md", "LICENSE", "twincar_edge", "requirements", *SUBPACKAGES} <= sources
    ignored = (DEPLOY / f"{name}.dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {f"!{source}" for source in sources} <= set(ignored)


def test_the_package_installs_from_the_files_of_an_image(tmp_path: Path) -> None:
    for source in (source for rest in arguments("Dockerfile", "COPY") for source in rest.split()[:-1]):
        if (REPOSITORY / source).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / source, tmp_path / source, symlinks=True, ignore=ignore)
        elif not source.startswith(("-", "/")):
            shutil.copy(REPOSITORY / source, tmp_path)
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        "out",
        ".",
    ]
    done = subprocess.run(wheel, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("twincar_edge-*.whl"))) == 1


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_without_root_and_installs_existing_extras(name: str) -> None:
    assert arguments(name, "USER") == ["10001"]
    text = (DEPLOY / name).read_text()
    (default,) = [rest for rest in arguments(name, "ARG") if rest.startswith("EXTRAS=")]
    (offered,) = re.findall(r'^# "([\w,]+)" saves clips too', text, re.MULTILINE)
    assert offered == f"{default.removeprefix('EXTRAS=')},clips"
    for extra in offered.split(","):
        assert re.search(rf"^{extra} = \[", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
        assert (REPOSITORY / "requirements" / f"{extra}.txt").is_file()


def extras_of_images() -> list[tuple[Path, str]]:
    """Return each `EXTRAS=` that these files and the documentation name, with its file."""
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    files += [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    return [(path, found) for path in files for found in re.findall(r"EXTRAS=(\w+(?:,\w+)*)", path.read_text())]


def test_every_extra_that_an_image_may_have_is_locked() -> None:
    named = extras_of_images()
    assert {path.name for path, _ in named} >= {*DOCKERFILES, "README.md", "train-job.yaml", "score-rayjob.yaml"}
    locked = {lock.stem for lock in (REPOSITORY / "requirements").iterdir()}
    assert [(path.name, extras) for path, extras in named if not set(extras.split(",")) <= locked] == []
    (boxes,) = re.findall(r"^BOXES := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert locked == {*boxes.split(), "build", "dev"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_installs_only_hashed_packages_and_takes_its_base_from_an_argument(name: str) -> None:
    (build,) = [rest for rest in arguments(name, "RUN") if "venv" in rest]
    for install in re.findall(r"pip (?:install|wheel)[^&]*", build):
        assert "--require-hashes" in install or "--no-index" in install, install
    (locks,) = re.findall(r"--require-hashes\s+(\$\(printf.*\)\))", build)
    done = subprocess.run(["sh", "-c", f"echo {locks}"], env={"EXTRAS": "cpu,clips"}, capture_output=True, text=True)
    assert done.stdout == "-r requirements/cpu.txt -r requirements/clips.txt\n"
    assert {rest.split()[0] for rest in arguments(name, "FROM")} == {"${PYTHON}"}


def health_command(name: str, url: str) -> list[str]:
    (check,) = arguments(name, "HEALTHCHECK")
    words: list[str] = importlib.import_module("json").loads(check[check.index("[") :])
    assert words[0] == "python"
    return [sys.executable, *(word.replace("http://127.0.0.1:9464/", url) for word in words[1:])]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_health_check_passes_only_for_a_healthy_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # Docker passes on the proxy of its host
    healthy = replace(STATUS, cameras=STATUS.cameras[:1])
    with Monitoring(LOCAL, lambda: healthy) as running:
        assert subprocess.run(health_command(name, running.url), capture_output=True).returncode == 0
        closed = running.url
    with Monitoring(LOCAL, lambda: STATUS) as running:
        assert subprocess.run(health_command(name, running.url), capture_output=True).returncode != 0
    assert subprocess.run(health_command(name, closed), capture_output=True).returncode != 0


# --- commands and configuration ---


@pytest.mark.parametrize("words", [shlex.split(unit("ExecStart")[0])[1:], *(
    importlib.import_module("json").loads(arguments(name, "CMD")[0]) for name in DOCKERFILES
)])  # fmt: skip
def test_the_unit_and_the_images_run_a_valid_watch_command(words: list[str]) -> None:
    assert words[0] == "watch"
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    assert words[words.index("--config") + 1] == "/etc/twincar-edge/cameras.toml"


def test_the_example_configuration_is_valid_in_the_environment_of_the_unit_and_of_compose(
    compose: dict[str, Any],
) -> None:
    container_environment = compose["services"]["twincar-edge"]["environment"]
    for environ in (unit_environment(), container_environment):
        config = read_config(DEPLOY / "cameras.toml", {**secrets(), **environ})
        assert config.keep_trying
        assert config.monitor is not None
        assert parse_address(config.monitor)[1] == 9464
        with pytest.raises(Exception, match=r"GATE_PASSWORD is not set"):
            read_config(DEPLOY / "cameras.toml", environ)
    assert parse_address(unit_environment()["MONITOR_ADDRESS"])[0] == "127.0.0.1"
    assert container_environment["MQTT_HOST"] in compose["services"]


def test_compose_publishes_only_on_loopback_and_mounts_paths_that_exist_or_that_the_readme_creates(
    compose: dict[str, Any],
) -> None:
    readme = (DEPLOY / "README.md").read_text()
    for service in compose["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        for source in (volume.split(":")[0] for volume in service["volumes"]):
            if source.startswith("./"):
                assert (DEPLOY / source).exists() or f"mkdir {source[2:]}" in readme
            else:
                assert source in compose["volumes"]
    build = compose["services"]["twincar-edge"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_systemd_and_containers_have_the_same_memory_limit(compose: dict[str, Any]) -> None:
    assert unit("MemoryMax") == ["2G"]
    assert compose["services"]["twincar-edge"]["mem_limit"] == "2g"
    assert all("mem_limit" in service for service in compose["services"].values())


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?<=^ExecStart=)\S+", sys.executable, UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_has_a_watchdog_and_a_reload_and_always_restarts() -> None:
    assert unit("Type") == ["notify"]
    assert float(unit("WatchdogSec")[0]) > 0
    assert unit("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert unit("Restart") == ["always"]
    assert unit("StartLimitIntervalSec") == ["0"]
    assert unit("StateDirectory") == ["twincar-edge"]


def test_git_ignores_the_secrets_that_the_readme_has_you_create() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    text = (DEPLOY / "README.md").read_text()
    names = re.findall(r"^cp \S+ (?:deploy/)?(\S+)|^mkdir (\S+)|a file `(\S+)` next to", text, re.MULTILINE)
    created = sorted({first or f"{second}/passwords" * bool(second) or third for first, second, third in names})
    assert created == [".env", "passwords/passwords", "secrets.env"]
    asked = subprocess.run(["git", "check-ignore", *created], cwd=DEPLOY, capture_output=True, text=True)
    assert asked.stdout.split() == created


def test_comments_refer_to_pages_and_headings_that_exist() -> None:
    missing, headings = [], 0
    for file in (path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".md"):
        for heading, page in re.findall(r'(?:"([^"\n]+)" in )?\b([\w./-]+\.md)\b', file.read_text()):
            found = REPOSITORY / page
            headings += bool(heading)
            if not found.is_file() or (heading and f"# {heading}\n" not in found.read_text()):
                missing.append((file.name, heading, page))
    assert missing == []
    assert headings >= len(DOCKERFILES)


# --- the broker ---


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A real Mosquitto with the configuration of compose, except for paths and port."""
    program, hasher = shutil.which("mosquitto", path="/usr/sbin:/usr/bin"), shutil.which("mosquitto_passwd")
    if program is None or hasher is None:
        skip_or_fail("Mosquitto is not installed")
    port = free_port()
    (tmp_path / "passwords").mkdir()
    (tmp_path / "data").mkdir()
    subprocess.run([hasher, "-c", "-b", tmp_path / "passwords" / "passwords", "twincar", "right"], check=True)
    subprocess.run([hasher, "-b", tmp_path / "passwords" / "passwords", "reader", "other"], check=True)
    (tmp_path / "config").mkdir()
    shutil.copy(DEPLOY / "mosquitto.acl", tmp_path / "config")
    text = (DEPLOY / "mosquitto.conf").read_text().replace("/mosquitto/", f"{tmp_path}/")
    text = text.replace("listener 1883", f"listener {port} 127.0.0.1")
    (tmp_path / "mosquitto.conf").write_text(text + "user root\n")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    process = subprocess.Popen([program, "-c", tmp_path / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


def connect_reply(port: int, user: str | None, password: str | None) -> str:
    """Return the broker's reply to a connection with these credentials."""
    replies: list[str] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(user, password)
    client.on_connect = lambda _client, _data, _flags, reason, _properties: replies.append(str(reason))
    deadline = time.monotonic() + 20
    while True:
        try:
            client.connect("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    while not replies:
        assert time.monotonic() < deadline
        client.loop(0.1)
    client.disconnect()
    return replies[0]


def test_the_broker_refuses_connections_without_the_password(broker: int) -> None:
    assert connect_reply(broker, "twincar", "right") == "Success"
    assert connect_reply(broker, "twincar", "wrong") == "Not authorized"
    assert connect_reply(broker, None, None) == "Not authorized"


def client(port: int, user: str, password: str) -> mqtt.Client:
    """Return a connected client; its `user_data` collects the topics of received messages."""
    made = mqtt.Client(CallbackAPIVersion.VERSION2, userdata=[])
    made.username_pw_set(user, password)
    made.on_message = lambda _client, received, message: received.append(message.topic)
    made.connect("127.0.0.1", port)
    made.loop_start()
    return made


def test_the_access_list_lets_the_box_only_write_and_readers_only_read_its_topics(broker: int) -> None:
    assert connect_reply(broker, "twincar", "right") == "Success"
    box, reader = client(broker, "twincar", "right"), client(broker, "reader", "other")
    try:
        subscribed = threading.Event()
        reader.on_subscribe = lambda *_: subscribed.set()
        reader.subscribe("#", 1)
        box.subscribe("#", 1)
        assert subscribed.wait(20)
        reader.publish("twincar-edge/gate/events", "forged", 1).wait_for_publish(20)
        box.publish("elsewhere", "x", 1).wait_for_publish(20)
        box.publish("homeassistant/sensor/gate/config", "x", 1).wait_for_publish(20)
        box.publish("twincar-edge/gate/events", "x", 1).wait_for_publish(20)
        received: list[str] = reader.user_data_get()
        eventually(lambda: "twincar-edge/gate/events" in received, "the event arrives", 20)
        assert received == ["homeassistant/sensor/gate/config", "twincar-edge/gate/events"]
        assert box.user_data_get() == []
    finally:
        for one in (box, reader):
            one.loop_stop()


# --- clusters ---


def cluster_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the arguments of each of our commands in the cluster files."""
    yaml = importlib.import_module("yaml")
    (job,) = yaml.safe_load_all((CLUSTER / "score-rayjob.yaml").read_text())
    texts = [shlex.split(job["spec"]["entrypoint"])]
    _, train = yaml.safe_load_all((CLUSTER / "train-job.yaml").read_text())
    texts.append(train["spec"]["template"]["spec"]["containers"][0]["command"])
    for script in sorted(CLUSTER.glob("*.slurm")):
        lines = script.read_text().replace("\\\n", " ").splitlines()
        texts += [shlex.split(line) for line in lines if re.match(r"(srun torchrun .*|twincar-edge )", line)]
    assert len(texts) == 4
    for words in texts:
        start = next(place for place, word in enumerate(words) if word in ("twincar-edge", "twincar_edge"))
        yield words[start + 1], words[start + 2 :]


def test_the_commands_in_the_cluster_files_are_valid() -> None:
    names = []
    for name, arguments in cluster_commands():
        names.append(name)
        command = importlib.import_module(f"twincar_edge.cli.{name}").command
        command.make_context(name, arguments)  # raises for an unknown option or an invalid value
    assert sorted(names) == ["score", "score", "train", "train"]


def test_ray_clusters_demand_a_token() -> None:
    yaml = importlib.import_module("yaml")
    (job,) = yaml.safe_load_all((CLUSTER / "score-rayjob.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"
    # Set by hand, a token would reach the pods but neither the operator nor its submitter.
    assert "RAY_AUTH" not in str(job)
    slurm = (CLUSTER / "score.slurm").read_text()
    steps = ("export RAY_AUTH_MODE=token", "export RAY_AUTH_TOKEN\n", "ray start")
    assert [slurm.index(step) for step in steps] == sorted(slurm.index(step) for step in steps)


def test_the_slurm_scripts_are_valid_bash() -> None:
    for script in CLUSTER.glob("*.slurm"):
        subprocess.run(["bash", "-n", script], check=True)
