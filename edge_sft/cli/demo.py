"""`edge-sft demo`: the whole road in one command, on real pictures or one's own, and what to type next."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_sft.cli import demo_pictures
from edge_sft.cli.console import console
from edge_sft.errors import BugError, NetworkError

if TYPE_CHECKING:
    from edge_sft.cli.build import Built
    from edge_sft.data.dataset import Item
    from edge_sft.prediction import Envelope

_STREAMED = 60
_RATE = 10.0
_WAIT_S = 60.0


def demo(
    data: Annotated[Path | None, typer.Option(help="your own folder of labelled pictures")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="where everything the demo makes goes")] = Path("demo"),
) -> None:
    """See the whole road in one command: pictures → model → signed bundle → agent → decisions on MQTT."""
    started = time.monotonic()
    directory = directory.resolve()
    work = directory / (_folder_for(data) if data else "elpv")
    _announce(data, directory)
    pictures = data.resolve() if data else _fetch(directory / "pictures")
    recipe = _recipe(pictures, work, own=data is not None)
    keys = _keys(directory / "keys")
    from edge_sft.bundle.keys import private_path
    from edge_sft.cli.build import build_bundle

    _step("Check, fine-tune, export, quantize, prove, sign")
    built = build_bundle(recipe, work / "build", private_path(keys))
    _step("Deploy to this machine")
    _deploy(built.bundle, work / "device", keys)
    _step("Stream decisions over MQTT")
    heard = _stream(recipe, work)
    _closing(built, heard, work, time.monotonic() - started)


def _folder_for(data: Path) -> str:
    """Name the work folder after the pictures' place, so that other pictures never meet an older recipe."""
    place = data.resolve()
    return f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:6]}"


@dataclass
class _Heard:
    """What came in over MQTT while the agent ran."""

    envelopes: list[Envelope] = field(default_factory=list)
    truths: dict[str, str] = field(default_factory=dict)
    broker: str = ""
    sent: int = 0


def _announce(data: Path | None, directory: Path) -> None:
    console.print("[bold]edge-sft demo[/]: from labelled pictures to decisions on MQTT, all on this machine.\n")
    if data is None and not (directory / "pictures" / demo_pictures.MANIFEST).is_file():
        console.print(
            f"It downloads one thing: pip package {demo_pictures.PACKAGE}, {demo_pictures.SIZE_MB} MB,\n"
            f"2,624 real pictures of solar cells ({demo_pictures.CREDIT}).\n"
            f"Licence of the pictures: {demo_pictures.LICENCE}.\n"
        )
    console.print(f"Everything it makes goes to {directory}. On two cores expect under ten minutes.")


def _step(title: str) -> None:
    console.print(f"\n[bold cyan]▸ {title}[/]")


def _fetch(folder: Path) -> Path:
    _step("Pictures")
    demo_pictures.fetch(folder)
    console.print(f"{folder}   ({demo_pictures.LICENCE})")
    return folder


def _recipe(pictures: Path, work: Path, *, own: bool) -> Path:
    from edge_sft import durable
    from edge_sft.data.recognise import draft_recipe

    path = work / "recipe.toml"
    if not path.is_file():
        durable.write_text(path, draft_recipe(pictures) if own else _for_cells(draft_recipe(pictures)))
    _step("Recipe")
    console.print(f"{path}   (written by `edge-sft init {pictures}`; edit it and run again)" if own else str(path))
    return path


def _for_cells(draft: str) -> str:
    """Say what the demo assumes of the solar cells' line; a third of its pictures are defects, a line has fewer."""
    named = re.sub(r"^name = \"[^\"]*\"", 'name = "solar-cells"', draft, count=1, flags=re.MULTILINE)
    return named.replace("# prevalence = 0.01", "prevalence = 0.05")


def _keys(directory: Path) -> Path:
    """Make the demo's own signing key; returns its folder."""
    from edge_sft.bundle.keys import generate, private_path

    if not private_path(directory).is_file():
        generate(directory)
    return directory


def _deploy(bundle: Path, root: Path, keys: Path) -> None:
    from edge_sft.cli.deploy import deploy

    deploy(bundle, root=root, key=[keys / "default.pub.pem"])


def _stream(recipe_path: Path, work: Path) -> _Heard:
    from edge_sft import recipe as recipes
    from edge_sft.data.reader import open_dataset
    from edge_sft.runtime import broker

    dataset = open_dataset(recipes.load(recipe_path))
    unseen = dataset.split("test") or dataset.split("val")
    line = _line_folder(work / "line", unseen)
    heard = _Heard(truths={name: item.label for name, item in line.items()}, sent=len(line))
    running = broker.start(work / "broker")
    try:
        heard.broker = f"{running.host}:{running.port} ({running.engine})"
        config = _agent_toml(work, running)
        _listen(heard, running, config, work)
    finally:
        running.stop()
    return heard


def _line_folder(folder: Path, unseen: tuple[Item, ...]) -> dict[str, Item]:
    """Lay out pictures the model has never seen as if they came off the line; returns them by file name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    step = max(1, len(unseen) // _STREAMED)
    chosen: dict[str, Item] = {}
    for number, item in enumerate(unseen[::step][:_STREAMED], start=1):
        name = f"part{number:04d}{item.path.suffix.lower()}"
        shutil.copyfile(item.path, folder / name)
        chosen[name] = item
    return chosen


def _agent_toml(work: Path, running: Any) -> Path:
    from edge_sft import durable

    password = Path(running.password_file).as_posix()
    text = f"""# What the demo's agent does; `edge-sft agent init` writes one for your own line.
[agent]
site = "demo"
line = "line1"
device = "pc1"
root = "{(work / "device").as_posix()}"

[mqtt]
host = "{running.host}"
port = {running.port}
version = "3.1.1"
username = "{running.username}"
password_file = "{password}"

[[pipeline]]
name = "main"
source = {{ kind = "files", path = "{(work / "line").as_posix()}", rate = {_RATE} }}
trigger = {{ kind = "filename", pattern = '(?P<part_id>part\\d+)' }}
"""
    path = work / "agent.toml"
    durable.write_text(path, text)
    return path


def _listen(heard: _Heard, running: Any, config: Path, work: Path) -> None:
    """Subscribe with a plain MQTT client, start the real agent as a process of its own, draw what arrives."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    from edge_sft.prediction import Envelope

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="edge-sft-demo")
    client.username_pw_set(running.username, Path(running.password_file).read_text(encoding="utf-8").strip())
    client.on_message = lambda _c, _u, message: heard.envelopes.append(Envelope.from_json(bytes(message.payload)))
    client.connect(running.host, running.port)
    client.subscribe("edge-sft/v1/demo/line1/pc1/main/prediction", qos=1)
    client.loop_start()
    log = work / "agent.log"
    with log.open("wb") as out:
        agent = subprocess.Popen(
            [sys.executable, "-m", "edge_sft.cli.main", "run", "--config", str(config)], stdout=out, stderr=out
        )
        try:
            _draw(heard, agent, log)
        finally:
            agent.terminate()
            try:
                agent.wait(timeout=15)
            except subprocess.TimeoutExpired:
                agent.kill()
            client.disconnect()
            client.loop_stop()


def _draw(heard: _Heard, agent: subprocess.Popen[bytes], log: Path) -> None:
    shown = 0
    deadline = time.monotonic() + _WAIT_S
    while len(heard.envelopes) < heard.sent:
        if agent.poll() not in (None, 0):
            raise BugError("the agent", f"ended with status {agent.returncode}", f"Its words are in {log}")
        if time.monotonic() > deadline:
            raise NetworkError(
                "the agent", f"sent {len(heard.envelopes)} of {heard.sent} decisions in {_WAIT_S:.0f} s", f"See {log}"
            )
        time.sleep(0.05)
        for envelope in heard.envelopes[shown:]:
            shown += 1
            if shown <= 12:
                _print_decision(heard, envelope)
    console.print(f"  … {heard.sent} parts, {len(heard.envelopes)} decisions over MQTT")


def _print_decision(heard: _Heard, envelope: Envelope) -> None:
    said = envelope.prediction
    if said is None:
        return
    colour = {"ok": "green", "nok": "red"}.get(said.verdict, "yellow")
    truth = heard.truths.get(said.name or "", "?")
    score = "" if said.score is None else f"defect {said.score:5.1%}"
    console.print(
        f"  {said.part_id or said.name}  [{colour}]{said.verdict:<9}[/] {score:<14} {said.latency_ms:5.1f} ms   "
        f"(truth: {truth})"
    )


def _closing(built: Built, heard: _Heard, work: Path, seconds: float) -> None:
    sequence = sorted(envelope.seq for envelope in heard.envelopes)
    whole = sequence == list(range(sequence[0], sequence[0] + len(sequence))) if sequence else False
    test = built.meta.metrics.get("test", {})
    console.rule(f"[bold]done in {seconds / 60:.1f} minutes")
    console.print("What happened")
    if "balanced_accuracy" in test:
        console.print(
            f"  The model is right on {test['balanced_accuracy']:.1%} of unseen pictures (mean of the classes)."
        )
    for gate in built.export.gates:
        mark = "[green]kept[/]   " if gate.passed else "[yellow]left out[/]"
        console.print(
            f"  {gate.variant:<9} {mark} {gate.right_to_wrong} right→wrong, {gate.wrong_to_right} wrong→right "
            f"of {gate.pictures}"
        )
    state = "none missing" if whole and len(sequence) == heard.sent else "[red]numbers missing[/]"
    console.print(f"  {heard.sent} parts went by, {len(sequence)} decisions came over MQTT at {heard.broker}: {state}.")
    console.print("\nLook at")
    console.print(f"  {built.report}      how good it is, in plant terms, with its worst mistakes")
    console.print(f"  {built.check_page}       what is in the pictures")
    console.print(f"  {built.bundle}     the one signed file that goes to a machine")
    console.print("\nYour own pictures: one folder a class inside one folder, then")
    console.print("  make demo DATA=path/to/folder      (or: edge-sft demo --data path/to/folder)")
    console.print("and step by step")
    console.print("  edge-sft init path/to/folder && edge-sft keys init && edge-sft build recipe.toml")
    console.print(
        f"  edge-sft deploy NAME.edge --to local && edge-sft agent init && edge-sft run    (see {work / 'agent.toml'})"
    )
