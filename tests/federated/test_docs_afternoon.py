"""docs/three-plants-in-an-afternoon.md, typed as it stands: a coordinator, three plants, pictures, decisions.

Not as it stands are only: the coordinator's address, the folder of a device's state, another plant's name where a block
is for each plant; and the recipe that `edge-sft init` wrote trains for a moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.federated.settings import LIFE_ROUNDS, section_of

from . import page

PAGE = "three-plants-in-an-afternoon.md"
ROOT = Path(__file__).parents[2]
# A command that stays, and what it says once it is there.
READY = {
    "federate up": "is up",
    "site run": "waiting: the coordinator does not admit",
    "broker": "password in",
    "ledger": "",
    "run": "Running main",
}
AGAIN = ("--status", "site list", "federate status", "site status")  # may be asked again until the page's words come
SHORT = {
    'steps = "auto"': "steps = 6",
    "calibration_pictures = 128": "calibration_pictures = 16",
    "size = 96 ": "size = 64 ",
    'variants = ["fp32", "fp16", "int8-trt", "int8-cpu"]': 'variants = ["fp32", "int8-cpu"]',
}


def loaded(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"edge_sft_tests_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lacking() -> str:
    """Say what is missing, or nothing."""
    missing = [name for name in ("flwr", "torch", "onnx", "onnxruntime", "cv2") if find_spec(name) is None]
    where = f"{os.environ['PATH']}:/usr/sbin"
    missing += [name for name in ("nginx", "mosquitto") if shutil.which(name, path=where) is None]
    return f"{', '.join(missing)} is not installed: the page was not run" if missing else ""


@dataclass
class Afternoon:
    """The places, what is running at them, and what was said there so far."""

    coordinator: Any
    plants: dict[str, Any]
    running: contextlib.ExitStack
    eventually: Any
    said: list[str] = field(default_factory=list)
    started: dict[tuple[str, str], Any] = field(default_factory=dict)
    last: tuple[Any, str] | None = None

    def at(self, place: str) -> list[Any]:
        if place == "each plant":
            return list(self.plants.values())
        return [self.coordinator if place == "coordinator" else self.plants[place]]

    def type(self, block: page.Block) -> None:
        for place in self.at(block.place):
            for line in block.lines:
                self.one(place, here(line, place, everywhere=block.place == "each plant"), stays=page.STAYS in line)
        self.hand_over()

    def one(self, place: Any, line: str, *, stays: bool) -> None:
        words = line.removeprefix("edge-sft ")
        if words == line:
            subprocess.run(place.enter(["sh", "-c", line]), cwd=place.folder, env=place.environment(), check=True)
            return
        if stays:
            self.start(place, words)
            return
        if words.startswith("site leave"):
            self.started[(place.name, "site run")].stop()  # its Ctrl-C
        self.said.append(place.edge_sft(words))
        self.last = (place, words)
        if words.startswith("init "):
            shorten(place.folder / "recipe.toml")

    def start(self, place: Any, words: str) -> None:
        verb = next(verb for verb in READY if words.startswith(verb))
        begun = place.start(words)
        self.running.callback(begun.stop)
        self.started[(place.name, verb)] = begun
        begun.until(READY[verb])

    def hand_over(self) -> None:
        """What people mail: invites, answers, the recipe. Nothing else goes from place to place."""
        for name, plant in self.plants.items():
            for suffix, source, target in (("invite", self.coordinator, plant), ("join", plant, self.coordinator)):
                path = source.folder / f"{name}.{suffix}"
                if path.exists():
                    shutil.copy(path, target.folder)
        written = self.plants["lyon"].folder / "recipe.toml"
        if written.exists():
            for place in (self.coordinator, self.plants["turin"], self.plants["graz"]):
                shutil.copy(written, place.folder)

    def must_have_said(self, line: str) -> None:
        wanted = page.shape(here(line, self.coordinator))

        def found() -> bool:
            if self.last is not None and any(word in self.last[1] for word in AGAIN):
                self.said.append(self.last[0].edge_sft(self.last[1], quiet=True))
            logs = [begun.log.read_text(errors="replace") for begun in self.started.values()]
            return wanted.search("\n".join([*self.said, *logs])) is not None

        if not found():
            self.eventually(found, f"the page's line {line!r}", 90.0)

    def into_agent_toml(self, lines: tuple[str, ...]) -> None:
        for plant in self.plants.values():
            path = plant.folder / "agent.toml"
            added = "\n".join(here(line, plant) for line in lines)
            path.write_text(path.read_text().replace("[mqtt]\n", f"[mqtt]\n{added}\n"))


def here(line: str, place: Any, *, everywhere: bool = False) -> str:
    """Return a line as it is typed at a place."""
    line = page.command(line) if everywhere or page.STAYS in line else line
    line = line.replace("coordinator.example:8443", f"{place.address}:{place.port}")
    line = line.replace("~/.local/share/edge-sft", str(place.folder / "device"))
    if place.mqtt_port != 1883:  # all plants share this machine's loopback
        line = line.replace("edge-sft broker", f"edge-sft broker --port {place.mqtt_port}")
        line = line.replace("agent init", f"agent init --broker 127.0.0.1:{place.mqtt_port}")
        line = line.replace("--username", f"--port {place.mqtt_port} --username")
    return line.replace("lyon", place.name) if everywhere else line


def decided(plant: Any) -> int:
    """Return how many decisions came over MQTT."""
    with contextlib.closing(sqlite3.connect(plant.folder / "decisions.sqlite")) as database:
        (count,) = database.execute("SELECT count(*) FROM entries").fetchone()
    return int(count)


def shorten(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    for long, short in SHORT.items():
        assert long in text, f"the drafted recipe no longer says {long}"
        text = text.replace(long, short)
    recipe.write_text(f"{text}\n[federated]\nrounds = 2\n", encoding="utf-8")


@pytest.fixture
def afternoon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Afternoon]:
    if why := lacking():
        pytest.skip(why)
    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = loaded(ROOT / "examples" / "turbofan_plants" / "run.py")
    factory = loaded(ROOT / "tests" / "road" / "conftest.py")
    places = script.places(tmp_path / "work", ("lyon", "turin", "graz"), loopback=False)
    with places as (coordinator, plants), contextlib.ExitStack() as running:
        for number, plant in enumerate(plants.values()):
            factory.pictures(plant.folder / "caps", 30, seed=number)
        yield Afternoon(coordinator, plants, running, script.eventually)


@pytest.mark.lab
@pytest.mark.timeout(1500)
def test_the_page_as_it_is_typed(afternoon: Afternoon) -> None:
    began = time.monotonic()
    for block in page.blocks(PAGE):
        if block.kind == "console":
            afternoon.type(block)
        elif block.kind == "text":
            for line in block.lines:
                afternoon.must_have_said(line)
        elif any("password_file" in line for line in block.lines):
            afternoon.into_agent_toml(block.lines)
        sys.stdout.write(f"[{time.monotonic() - began:.0f} s]\n")
    for plant in afternoon.plants.values():
        afternoon.eventually(lambda plant=plant: decided(plant) == 30, f"30 decisions at {plant.name}", 60.0)
    at_the_coordinator = {path.suffix for path in afternoon.coordinator.folder.rglob("*") if path.is_file()}
    assert ".png" not in at_the_coordinator
    assert ".edge" not in at_the_coordinator


def test_the_table_of_the_recipe_is_the_defaults() -> None:
    shown = next(block for block in page.blocks(PAGE) if block.kind == "toml" and "[federated]" in block.lines[0])
    bare = 'name = "caps"\n[task]\nlabels = ["good", "scratch"]\n[data]\npath = "caps"\n'
    written = section_of("\n".join([bare, *shown.lines]))
    assert written.model_dump() == section_of(bare).model_dump()
    assert len(written.model_fields_set) == len(shown.lines) - 1
    assert f"for remaining life {LIFE_ROUNDS}" in shown.lines[1]
