"""A deploy over a real sshd into a network namespace without internet, its link cut in every phase, in three ways.

    python benchmarks/ssh_deploy.py [--chroot DIR] [--quick] [--out results/ssh_deploy.md]

The device is an empty home and a bare Python 3; with ``--chroot`` a Debian root of its own, which is made by
debootstrap when it is not there yet. Cuts: kill -9 of the ssh client, kill -9 of sshd's side, and silence (every
packet lost). Needs root, openssh-server, iproute2 and Mosquitto.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from agent_broker import machine

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,openssh-server,libgcc-s1,libstdc++6"
LISTEN = """
import json, sys, time
import paho.mqtt.client as mqtt
def heard(client, data, message):
    told = json.loads(message.payload)
    model = (told.get("prediction") or {}).get("model") or {}
    print(json.dumps([time.time(), told["epoch"], told["seq"], model.get("version"), told["backfill"]]), flush=True)
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = lambda client, *_: client.subscribe("edge-sft/v1/+/+/+/+/prediction", qos=1)
client.on_message = heard
client.connect("127.0.0.1", 1883)
client.loop_forever()
"""
AGENT = """
[agent]
site = "plant1"
line = "line1"
device = "lab"
[mqtt]
host = "127.0.0.1"
[[pipeline]]
name = "main"
source = {{ kind = "files", path = "{pictures}", loop = true, rate = 5.0 }}
"""


def shared(name: str) -> ModuleType:
    spec = spec_from_file_location(f"ssh_deploy_{name}", HERE.parent / "tests" / "contracts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Stream:
    """A Mosquitto, an agent on the device and a subscriber, all in the namespace."""

    def __init__(self, lab: Any, small: ModuleType, folder: Path) -> None:
        import cv2

        config = folder / "mosquitto.conf"
        config.write_text("user root\nlistener 1883 127.0.0.1\nallow_anonymous true\n")
        lab.also(["/usr/sbin/mosquitto", "-c", str(config)])
        pictures = lab.home / "pictures"
        pictures.mkdir()
        for index, picture in enumerate(small.pictures(6, 64)):
            cv2.imwrite(str(pictures / f"{index}.png"), picture)
        (lab.home / "agent.toml").write_text(AGENT.format(pictures=lab.inside(pictures)))
        for path in (pictures, *pictures.iterdir(), lab.home / "agent.toml"):
            os.chown(path, lab.uid, lab.uid)
        time.sleep(1.0)
        self._heard: list[tuple[float, str, int, str | None, bool]] = []
        self._listener = subprocess.Popen([*lab.enter, sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()
        root = lab.inside(lab.root)
        lab.on_device(
            f"cd; setsid nohup '{root}/software/current/bin/edge-sft' run --config agent.toml --root '{root}' "
            ">agent.log 2>&1 </dev/null &"
        )

    def _listen(self) -> None:
        assert self._listener.stdout is not None
        for line in self._listener.stdout:
            self._heard.append(tuple(json.loads(line)))

    def waits_for(self, version: str, timeout_s: float = 60.0) -> bool:
        """Wait until decisions of a version come."""
        deadline = time.monotonic() + timeout_s
        seen = len(self._heard)
        while time.monotonic() < deadline:
            if any(one[3] == version for one in self._heard[seen:]):
                return True
            time.sleep(0.1)
        return False

    def facts(self) -> dict[str, Any]:
        numbers = {(one[1], one[2]) for one in self._heard}
        lost = 0
        for epoch in {one[1] for one in self._heard}:
            seqs = [seq for e, seq in numbers if e == epoch]
            lost += max(seqs) - min(seqs) + 1 - len(seqs)
        order = [one[3] for one in self._heard]
        changes = [a for a, b in zip(order, [*order[1:], None], strict=True) if a != b]
        return {"decisions": len(numbers), "lost": lost, "epochs": len({e for e, _ in numbers}), "models": changes}

    def close(self) -> None:
        self._listener.kill()
        self._listener.wait()


class Course:
    """The whole course; prints each line as it is known."""

    def __init__(self, lab: Any, cuts: ModuleType, small: ModuleType, folder: Path, kinds: tuple[str, ...]) -> None:
        from edge_sft.deploy.remote.sending import Parcel

        self.lab, self.cuts, self.small, self.folder, self.kinds = lab, cuts, small, folder, kinds
        self.rows: list[str] = []
        self.bad = 0
        self.signer = small.Signer.make(folder / "keys")
        weight = {"weight.bin": os.urandom(48 << 20)}  # so that its transfer lasts long enough to be cut
        self.bundles = [small.plan(seed, extra=weight).write(folder, self.signer) for seed in range(2)]
        self.sums = [Parcel.of(path).sha256 for path in self.bundles]
        self.stream: Stream | None = None

    def wheelhouses(self) -> tuple[Path, Path]:
        first = self.folder / "wheelhouse"
        done = subprocess.run(
            [sys.executable, "-m", "edge_sft.cli.main", "wheelhouse", "--out", str(first), "--python", "3.11",
             "--glibc", "2.36"], check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        return first, self.cuts.second_wheelhouse(first, self.folder / "wheelhouse2")

    def command(self, bundle: int, house: Path) -> list[Any]:
        given = ["--to", self.lab.to, "--wheelhouse", house, "--trust", self.signer.public_path]
        return ["deploy", self.bundles[bundle], *given]

    def cut(self, phase: str, bundle: int, house: Path, serves: tuple[str, ...]) -> None:
        """Cut a phase in each way; after each, what serves must be one of ``serves``."""
        for number, kind in enumerate(self.kinds):
            for _ in range(4):  # a phase may be over before it could be cut: then again
                self.before(phase)
                cut = self.cuts.run_and_cut(
                    self.lab, self.command(bundle, house), self.sums[bundle], phase, kind, number
                )
                if cut.happened:
                    break
            now = self.cuts.serving(self.lab)
            spoken = "cut during" in cut.said or "cannot be reached" in cut.said
            good = cut.happened and now in serves and spoken
            if self.stream is not None:
                good = good and self.stream.waits_for(now.split()[-1])
            self.row(phase, kind, now or "nothing yet", cut.said.splitlines()[-1] if cut.said else "", good)
            self.settle(phase, bundle, house)

    def before(self, phase: str) -> None:
        """Bring the device back to where a phase comes again."""
        if self.stream is None:
            return
        if phase in ("proof", "switch"):
            while not self.cuts.job_is_over(self.lab):
                time.sleep(0.2)
            if self.cuts.serving(self.lab).endswith("1.0.1"):
                self.lab.cli("rollback", "--to", self.lab.to)

    def settle(self, phase: str, bundle: int, house: Path) -> None:
        """After a cut in the proof or at the switch, the same command must find out how it ended."""
        if phase not in ("proof", "switch"):
            return
        done = self.lab.cli(*self.command(bundle, house))
        good = done.returncode == 0 and self.cuts.serving(self.lab).endswith(f"1.0.{bundle}")
        outcome = "already serving" if "already serving" in done.stdout else "serving"
        self.row(phase, "same command", self.cuts.serving(self.lab), outcome if good else done.stderr, good)

    def finish(self, title: str, words: list[Any], serves: str) -> None:
        """Run a command to its end."""
        began = time.monotonic()
        done = self.lab.cli(*words)
        now = self.cuts.serving(self.lab)
        good = done.returncode == 0 and now == serves
        if self.stream is not None:
            good = good and self.stream.waits_for(serves.rsplit(maxsplit=1)[-1])
        said = done.stdout.strip().splitlines() if done.returncode == 0 else [done.stderr.strip()]
        outcome = next((line for line in said if "serving" in line), said[-1] if said else "")
        self.row(title, f"whole, {time.monotonic() - began:.0f} s", now, outcome.split(";")[0], good)

    def row(self, phase: str, kind: str, serves: str, said: str, good: bool) -> None:
        self.bad += not good
        short = said.replace("|", "/").split("; what served")[0].removeprefix("error: ")
        line = f"| {phase} | {kind} | {serves} | {short} | {'yes' if good else '**NO**'} |"
        print(line, flush=True)
        self.rows.append(line)

    def go(self) -> None:
        first, second = self.wheelhouses()
        met = self.lab.cli("slots", "--to", self.lab.to, "--accept-host-key", self.lab.fingerprint)
        self.row("host key", "confirmed", "nothing yet", met.stderr.strip(), "holds no edge-sft yet" in met.stderr)
        for phase in ("contact", "wheelhouse", "install"):
            self.cut(phase, 0, first, ("",))
        self.finish("first deploy", self.command(0, first), "small 1.0.0")
        self.stream = Stream(self.lab, self.small, self.folder)
        self.row("agent", "streams", "small 1.0.0", "decisions over MQTT", self.stream.waits_for("1.0.0"))
        for path in (self.lab.root / "incoming").iterdir():
            path.unlink()  # so that the second wheelhouse travels whole
        for phase in ("contact", "wheelhouse", "install", "bundle"):
            self.cut(phase, 1, second, ("small 1.0.0",))
        for phase in ("proof", "switch"):
            self.cut(phase, 1, second, ("small 1.0.0", "small 1.0.1"))
        self.finish("the same again", self.command(1, second), "small 1.0.1")
        self.finish("rollback", ["rollback", "--to", self.lab.to], "small 1.0.0")


def debian(root: Path) -> None:
    """Make a Debian root, if it is not there."""
    if (root / "usr/bin/python3").exists():
        return
    print(f"making a Debian root in {root}", flush=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chroot", type=Path, help="a Debian root as the device; made when it is not there")
    parser.add_argument("--quick", action="store_true", help="one way of cutting instead of three")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    labs, cuts, small = shared("ssh_lab"), shared("ssh_cuts"), shared("small_bundle")
    if why := labs.lacking():
        sys.exit(why)
    if given.chroot:
        debian(given.chroot)
    kinds = cuts.KINDS[:1] if given.quick else cuts.KINDS
    began, facts = time.monotonic(), machine()
    with labs.lab(given.chroot) as lab, tempfile.TemporaryDirectory() as folder:
        course = Course(lab, cuts, small, Path(folder), kinds)
        links = subprocess.run([*lab.enter, "ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        course.go()
        stream = course.stream.facts() if course.stream else {}
        if course.stream:
            course.stream.close()
    device = f"a Debian {SUITE} root (debootstrap)" if given.chroot else "this machine's system, an own empty user"
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    said = (
        "Device: {device}; interfaces in its namespace: {links} (lo). Cuts: `client` = kill -9 of the ssh client, "
        "`server` = kill -9 of sshd's side, `silence` = every packet lost until both sides gave up. `same command` = "
        "the command given again after that cut; in the phases before the proof the next row's command is that one."
    )
    counted = (
        f"Decisions received over MQTT meanwhile: {stream.get('decisions')}, lost: {stream.get('lost')}, agent runs: "
        f"{stream.get('epochs')}, models in turn: {' → '.join(map(str, stream.get('models', [])))}."
    )
    lines = [
        "# A deploy over ssh, its link cut in every phase",
        "",
        f"`{' '.join(['python', *sys.argv])}`, {now}, {time.monotonic() - began:.0f} s; {facts}.",
        said.format(device=device, links=len(links.splitlines())),
        "",
        "| phase | cut, or command | device then serves | said | as it must be |",
        "|---|---|---|---|---|",
        *course.rows,
        "",
        counted,
    ]
    print("\n".join(lines[-1:]))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")
    sys.exit(1 if course.bad else 0)


if __name__ == "__main__":
    main()
