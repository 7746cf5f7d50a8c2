"""Does anything that was committed get lost? Broker and sender are killed -9 again and again; a ledger tells.

A real Mosquitto with persistence, the real `edge-sft ledger` and a sender that journals and publishes as the agent
does, at 800 predictions a second over two streams. Broker and sender are each killed -9 `--kills` times at seeded
random instants, in turn during commit, publish and reconnect (the sender notes what it is doing in a shared page,
read after its death). Truth is the sender's own list of what its journal confirmed durable.

    python benchmarks/durability.py --out benchmarks/results/durability.txt

`--agent` kills the real agent (a small model with random weights over 64×64 JPEGs) instead of the bare sender.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

PHASES = ("commit", "publish", "reconnect")


# --- the processes under test --------------------------------------------------------------------------------


class Plant:
    """Broker, ledger and sender, each a process that can be killed and started again."""

    def __init__(self, root: Path, args: argparse.Namespace) -> None:
        self.root, self.args = root, args
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (root / "mosquitto").mkdir()
        user = "user root\n" if os.getuid() == 0 else ""
        (root / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {root}/mosquitto/\nautosave_interval 2\nmax_inflight_messages 1000\n"
            f"max_queued_messages 0\nset_tcp_nodelay true\n{user}"
        )
        (root / "phase").write_bytes(bytes(16))
        self.page = mmap.mmap(os.open(root / "phase", os.O_RDWR), 16)
        self.alive_s, self.started_at, self.extra = 0.0, 0.0, 0
        self.broker = self.ledger = self.sender = None
        self.start_broker()
        ledger = "import typer; from edge_sft.cli.ledger import ledger; typer.run(ledger)"
        self.ledger = self._spawn(
            [sys.executable, "-c", ledger, str(root / "ledger.db"), "--port", str(self.port)], "ledger.log"
        )
        self.start_sender()

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.root / log).open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=self.root)

    def start_broker(self) -> None:
        binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.broker = self._spawn([binary, "-c", str(self.root / "mosquitto.conf")], "broker.log")

    def start_sender(self) -> None:
        options = ["--root", str(self.root), "--port", str(self.port), "--per-s", str(self.args.per_s)]
        options += ["--ack", self.args.ack, *(["--agent"] if self.args.agent else [])]
        command = [sys.executable, str(Path(__file__).with_name("durability_sender.py")), *options]
        self.sender = self._spawn(command, "sender.log")
        self.started_at = time.monotonic()

    def kill(self, who: str, wanted: str) -> str:
        """Kill -9; return what the sender was doing at that instant: what was wanted, if that is true."""
        process = self.broker if who == "broker" else self.sender
        flags = self.page[0:3]
        process.send_signal(signal.SIGKILL)
        process.wait()
        if who == "sender":
            flags = self.page[0:3]  # as its death left them
            self.alive_s += time.monotonic() - self.started_at
        doing = [phase for phase, flag in zip(PHASES, flags, strict=True) if flag]
        return wanted if wanted in doing else (doing or ["between"])[-1]

    def revive(self, who: str) -> None:
        self.start_broker() if who == "broker" else self.start_sender()

    def wait_phase(self, phase: str, timeout_s: float = 8.0) -> None:
        deadline = time.monotonic() + timeout_s
        index = PHASES.index(phase)
        while not self.page[index] and time.monotonic() < deadline:
            time.sleep(0.00002)


def schedule(rng: random.Random, kills: int) -> list[tuple[str, str]]:
    """(who, phase) of every kill: each phase evenly often for each of the two, shuffled."""
    plan = [(who, PHASES[i % 3]) for who in ("broker", "sender") for i in range(kills)]
    rng.shuffle(plan)
    return plan


def strike(plant: Plant, rng: random.Random, who: str, phase: str) -> str:
    """Kill one process in the phase wanted and start it again; return the phase it really was in."""
    if phase == "reconnect":
        # A reconnect only happens when something was down: the broker goes first, or the sender begins anew.
        plant.kill("broker", phase)
        plant.extra += 1
        time.sleep(rng.uniform(0.05, 0.4))
        plant.start_broker()
    plant.wait_phase(phase)
    if who == "broker" and phase == "reconnect":
        time.sleep(rng.uniform(0.0, 0.0003))  # an attempt takes some milliseconds
    doing = plant.kill(who, phase)
    time.sleep(rng.uniform(0.02, 0.6))
    plant.revive(who)
    return doing


# --- the verdict ---------------------------------------------------------------------------------------------


def verdict(plant: Plant) -> tuple[list[str], bool]:
    """Compare the sender's list with the ledger."""
    from edge_sft.runtime.ledger import Ledger
    from edge_sft.runtime.ranges import RangeSet, total

    committed: dict[tuple[str, str], RangeSet] = defaultdict(RangeSet)
    with contextlib.suppress(FileNotFoundError), (plant.root / "truth.txt").open() as file:
        for line in file:
            stream, epoch, seq = line.split()
            committed[stream, epoch].add(int(seq), int(seq))
    lines, lost, missing, stored = [], 0, 0, 0
    lines.append("stream  epoch             committed  stored  missing  dropped  duplicates  reordered  contiguous")
    with Ledger(plant.root / "ledger.db", read_only=True) as book:
        for key in sorted(set(committed) | set(book.accounts)):
            account = book.accounts.get(key)
            arrived = {n for a, b in account.arrived for n in range(a, b + 1)} if account else set()
            gone = {n for a, b in committed[key] for n in range(a, b + 1)} - arrived
            lost += len(gone)
            if account is None:
                continue
            missing += total(account.missing)
            stored += len(arrived)
            counts = (total(committed[key]), len(arrived), total(account.missing), total(account.dropped))
            lines.append(
                f"{key[0]:<7} {key[1]}  {counts[0]:>9}  {counts[1]:>6}  {counts[2]:>7}  {counts[3]:>7}"
                f"  {account.duplicates:>10}  {account.reordered:>9}  {'yes' if not account.missing else 'NO'}"
            )
    lines.append("")
    lines.append(f"committed (confirmed durable by the journal) but not in the ledger: {lost}")
    lines.append(f"missing in the ledger (gaps per stream and epoch): {missing}")
    rate = stored / plant.alive_s if plant.alive_s else 0.0
    lines.append(f"stored {stored} in {plant.alive_s:.0f} s of its life: {rate:.0f} predictions/s")
    return lines, lost == 0 and missing == 0 and stored > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of the broker, and as many of the sender")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-s", type=float, default=800.0)
    parser.add_argument("--ack", choices=("ledger", "broker"), default="ledger")
    parser.add_argument("--agent", action="store_true", help="kill the real agent instead of the bare sender")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep the working folder")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    root = Path(tempfile.mkdtemp(prefix="durability-"))
    if args.agent:
        sys.path.insert(0, str(Path(__file__).parent))
        from durability_sender import prepare_agent

        prepare_agent(root)
    plant = Plant(root, args)
    began = time.monotonic()
    seen: Counter[tuple[str, str]] = Counter()
    time.sleep(4.0 if args.agent else 2.0)
    for number, (who, phase) in enumerate(schedule(rng, args.kills), start=1):
        time.sleep(rng.uniform(0.8, 2.2))
        doing = strike(plant, rng, who, phase)
        seen[who, doing] += 1
        print(f"kill {number:>2}: {who:<6} wanted during {phase:<9} was during {doing}", flush=True)
    time.sleep(3.0)
    plant.sender.terminate()
    plant.sender.wait(90)
    plant.alive_s += time.monotonic() - plant.started_at
    plant.ledger.terminate()
    plant.ledger.wait(20)
    plant.broker.kill()
    plant.broker.wait()
    table, passed = verdict(plant)
    what = "agent" if args.agent else "sender"
    asked = f"seed {args.seed}, ack = {args.ack}, {args.per_s:.0f} predictions/s asked"
    head = [
        f"kill -9: broker {args.kills} times, {what} {args.kills} times; {asked}, {time.monotonic() - began:.0f} s",
        *(
            f"  {what if who == 'sender' else who:<6} "
            + ", ".join(f"{phase} {seen[who, phase]}" for phase in (*PHASES, "between"))
            for who in ("broker", "sender")
        ),
        f"  (and the broker {plant.extra} times more, to force the reconnects)",
        "",
    ]
    text = "\n".join([*head, *table, "PASSED" if passed else "FAILED"]) + "\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    if args.keep:
        print(root)
    else:
        shutil.rmtree(root)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
