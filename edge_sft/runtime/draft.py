"""The agent.toml that `edge-sft agent init` writes: working, commented, in the plant engineer's words."""

from __future__ import annotations

import json
import re

from edge_sft import strict_toml
from edge_sft.errors import UserError
from edge_sft.runtime.config import ROWS_KINDS, AgentConfig

_TEXT = """\
# What the agent on this device does. Start it with: edge-sft run --config agent.toml
# Every key that is left out has the value shown behind its '#'.

[agent]                    # these three become levels of every MQTT topic
site = "plant1"
line = "line1"
device = {device}
# root = "/var/lib/edge-sft"   # folder of models, journal and state; default: the user's data folder
# log = "info"                 # debug, info, warning, error
# heartbeat_s = 5.0            # how often the retained state is renewed
# metrics_s = 5.0

[mqtt]
host = {host}
port = {port}
# version = "3.1.1"            # or "5"
# username = "line1"
# password_file = "mqtt-password"     # a file with the password in one line; never the password itself
# ca_file = "ca.pem"           # turns TLS on
# cert_file = "device.pem"     # client certificate, with key_file
# key_file = "device.key"
# topic_prefix = "edge-sft/v1"
# backfill_per_s = 200.0       # after an outage: stored decisions a second beside the live ones
# ack = "broker"               # "ledger": a decision is kept until `edge-sft ledger` has stored it

[journal]                  # decisions wait here, on disk, while the broker is away
# max_mb = 512.0
# max_age_h = 240.0

[[pipeline]]               # one per camera, or per group of machines; models are deployed to it by name
name = {pipeline}
{source}
"""

_OF_PICTURES = """\
# Which pictures are decided. Without a trigger: every one.
# trigger = {{ kind = "filename", pattern = '(?P<part_id>[A-Za-z0-9]+)' }}   # the file's name holds the part
# trigger = {{ kind = "mqtt", topic = "trigger", timeout_ms = 1000 }}        # one decision per {{"part_id": "A17"}}
#     sent to edge-sft/v1/plant1/line1/<device>/{name}/trigger (with a slash in it, topic is the full topic)

# queue = {{ size = 8, policy = "block" }}   # "latest" drops the oldest; default: latest for cameras, else block
# deadline_ms = 500.0        # a decision that comes later is no_decision
# threads = 1                # inference threads; default: what the device's proof was measured with
# workers = 1                # copies of the model that share them: more parts a second, each a little later
"""

_OF_ROWS = """\
[pipeline.assets]          # the machines whose rows come; each has a state of its own that survives a restart
# expected = ["pump-1"]        # told as offline until they are heard
# late_s = 0.0                 # rows may come late or out of order by this; decisions wait as long
# jump_s = 60.0                # three rows in a row older than this: the clock was set back
# most = 2000                  # further names are refused
# ring_mb = 64.0               # raw rows kept on disk, to warm a new model with
# save_every_s = 30.0
# sync_s = 1.0                 # a kill loses no row; a power cut those of the last sync_s
"""

_SOURCES = {
    "folder": 'source = {{ kind = "folder", path = {what}, after = "keep" }}   # or "move" (to done/), "delete"',
    "files": 'source = {{ kind = "files", path = {what}, loop = false }}   # rate = 10.0: pictures a second',
    "video": 'source = {{ kind = "video", path = {what}, loop = false }}   # rate = 25.0: frames a second',
    "camera": 'source = {{ kind = "camera", device = {what} }}   # a number, or rtsp://…; credentials_file = "…"',
    "mqtt": """\
# deadline_ms = 5000.0       # from a window's last row; a decision that comes later is no_decision
# threads = 1                # inference threads; default: what the device's proof was measured with

# Rows as JSON: {{"time": …, "temp": 20.1, "rpm": 1480}}, a list of those, or columns of equal length.
[pipeline.source]
kind = "mqtt"
topics = [{what}]
# asset = "topic:1"            # the topic's level (from 0) that names the machine, or a field of the message
# fields = {{ temp = "values.t1" }}   # the model's channel = the message's field; default: every number by its name
# channel = ""                 # one value a message: "topic:2" or the field that names it; then also value = "v"
# time = "time"                # "" = when the message came
# qos = 1                      # the broker keeps rows while the agent is away (max_inflight_messages 1000 there)
""",
    "replay": """\
# deadline_ms = 5000.0       # from a window's last row; a decision that comes later is no_decision
# threads = 1                # inference threads; default: what the device's proof was measured with

[pipeline.source]
kind = "replay"                # a recording, as if it came now
path = {what}
# speed = 1.0                  # 60 = a minute a second, 0 = as fast as decisions are made
# time = "timestamp"           # default: rows are `step` apart
# asset = ""                   # column that names the machine; default: the file's name
# fields = {{ temp = "T1 [C]" }} # the model's channel = the file's column
""",
}


def draft_config(*, broker: str, source: str, pipeline: str, device: str) -> str:
    """Return the text of an agent.toml.

    Args:
        broker: ``host`` or ``host:port``.
        source: ``kind:what``, e.g. ``folder:pictures``, ``camera:0`` or ``mqtt:plant/+/sensors``.
        pipeline: The pipeline's name.
        device: This machine's name; what MQTT cannot carry is replaced.

    Raises:
        UserError: One of them cannot be used.
    """
    host, port = _broker(broker)
    kind, _, what = source.partition(":")
    if kind not in _SOURCES or not what:
        raise UserError(
            f"--source {source}",
            "is not understood",
            "Give folder:DIR, files:DIR, video:FILE or camera:0; for sensors mqtt:TOPICS or replay:PATH.",
        )
    value = what if kind == "camera" and what.isdigit() else _quoted(what)
    text = (_TEXT + (_OF_ROWS if kind in ROWS_KINDS else _OF_PICTURES)).format(
        device=_quoted(re.sub(r"[^A-Za-z0-9_.-]", "-", device).strip("-._") or "device"),
        host=_quoted(host),
        port=port,
        pipeline=_quoted(pipeline),
        name=pipeline,
        source=_SOURCES[kind].format(what=value),
    )
    strict_toml.loads(text, AgentConfig, source="agent.toml")
    return text


def _broker(broker: str) -> tuple[str, int]:
    host, colon, port = broker.rpartition(":")
    if not colon or broker.endswith("]"):
        return broker.strip("[]"), 1883
    if not port.isdigit() or not 0 < int(port) < 65536 or not host:
        raise UserError(f"--broker {broker}", "is not understood", "Give host:port, e.g. 192.168.0.10:1883.")
    return host.strip("[]"), int(port)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML basic string
