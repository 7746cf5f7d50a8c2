"""Memory, the service, the broker."""

from __future__ import annotations

import re

from edge_sft.machine.facts import memory_mb
from edge_sft.machine.finding import Finding


def memory(meminfo: str, vmstat: str) -> list[Finding]:
    """Judge /proc/meminfo and, of /proc/vmstat, how often the kernel had to end a program."""
    total, free = memory_mb(meminfo), memory_mb(meminfo, "MemAvailable")
    if not total:
        return []
    swap, left = memory_mb(meminfo, "SwapTotal"), memory_mb(meminfo, "SwapFree")
    fact = f"{free:,} of {total:,} MB free" + (f", swap {swap - left:,} of {swap:,} MB used" if swap else ", no swap")
    found = []
    if free < 300:
        found.append(Finding("bad", "memory", fact, "End what else runs here, or the kernel will end something."))
    elif free < 1000 or (swap and left < swap // 2):
        found.append(Finding("note", "memory", fact, "It is tight: see what else runs here (a desktop is 1 GB)."))
    else:
        found.append(Finding("good", "memory", fact))
    killed = re.search(r"(?m)^oom_kill (\d+)", vmstat)
    if killed and int(killed[1]):
        times = "once" if killed[1] == "1" else f"{killed[1]} times"
        remedy = "Which: journalctl -k | grep -i 'out of memory'"
        found.append(Finding("note", "memory", f"ran out {times} since the start; a program was ended", remedy))
    return found


def service(shown: str) -> Finding | None:
    """Judge ``systemctl show edge-sft.service``; None where it is not installed."""
    told = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if told.get("LoadState") != "loaded":
        return None
    state, sub = told.get("ActiveState", ""), told.get("SubState", "")
    restarts = int(told.get("NRestarts") or 0) if (told.get("NRestarts") or "0").isdigit() else 0
    again = f", started again {restarts} times" if restarts else ""
    if state == "failed" or sub == "auto-restart":
        fact = f"{state} ({told.get('Result', '')}){again}"
        return Finding(
            "bad", "service", fact, "Why: journalctl -u edge-sft -n 50. Then: sudo systemctl restart edge-sft"
        )
    if state != "active":
        return Finding(
            "note", "service", f"is installed, but {state or 'not running'}", "sudo systemctl start edge-sft"
        )
    if told.get("UnitFileState") == "disabled":
        return Finding("note", "service", "runs, but not after a restart", "sudo systemctl enable edge-sft")
    if restarts:
        return Finding("note", "service", f"runs{again}", "Why: journalctl -u edge-sft | grep -i error")
    return Finding("good", "service", "runs")


def broker(address: str, problem: str, *, encrypted: bool = False) -> Finding:
    """Judge what came of a connection; ``problem`` empty = it stood."""
    if not problem:
        how = "accepts encrypted connections, certificates agree" if encrypted else "accepts connections"
        return Finding("good", "broker", f"{address} {how}")
    if problem == "address":
        return Finding("bad", "broker", f"'{address}' is not HOST:PORT", "For example: --broker 192.168.0.10:1883")
    if problem == "name":
        host = address.rpartition(":")[0] or address
        return Finding("bad", "broker", f"the name '{host}' is not known", "Check the name or give the address.")
    if encrypted:
        remedy = next((words for sign, words in _TLS.items() if sign in problem), "Look at the broker's own log.")
        return Finding("bad", "broker", f"{address} answers, but {problem}", remedy)
    fact = f"{address} cannot be reached ({problem})"
    return Finding("bad", "broker", fact, "Is it running, and is the port open?")


_TLS = {
    "expired": "Renew the broker's certificate; if it is right, set this machine's clock.",
    "not yet valid": "Set this machine's clock.",
    "mismatch": "Give host in agent.toml as the broker's certificate names it.",
    "not valid for": "Give host in agent.toml as the broker's certificate names it.",
    "unable to get": "ca_file is not the authority that signed the broker's certificate.",
    "self-signed": "ca_file is not the authority that signed the broker's certificate.",
    "wrong version": "This port is not encrypted: take 8883, or leave ca_file out.",
    "record layer": "This port is not encrypted: take 8883, or leave ca_file out.",
    "certificate required": "The broker wants a client certificate: give cert_file and key_file.",
    "unknown ca": "The broker does not trust the authority of cert_file.",
    "reset": "Is this port an encrypted one? Usually 8883 is and 1883 is not.",
    "ends the connection": "Often it wants a client certificate (cert_file, key_file), or does not trust this one.",
}
