"""agent.toml: what the agent on a device does. Frozen strict models; passwords only by file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_sft import strict_toml

# A topic level and a folder name at once: no MQTT wildcard, no separator, no path trick.
LEVEL = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# Slots are named like their pipeline, so a name is also that of a folder on every system.
PIPELINE = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentSection(_Strict):
    """Who this device is. ``site``, ``line`` and ``device`` become levels of every topic.

    ``root`` is the folder of slots, journal and state; the command line's ``--root`` wins over it.
    """

    site: str = Field(default="site", pattern=LEVEL)
    line: str = Field(default="line", pattern=LEVEL)
    device: str = Field(default="device", pattern=LEVEL)
    root: Path | None = None
    log: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat_s: float = Field(default=5.0, ge=0.2, le=3600)
    metrics_s: float = Field(default=5.0, ge=0.2, le=3600)


class MqttSection(_Strict):
    """The broker. Without ``ca_file`` the connection is not encrypted: keep it on loopback or a separate net."""

    host: str = "127.0.0.1"
    port: int = Field(default=1883, ge=1, le=65535)
    version: Literal["3.1.1", "5"] = "3.1.1"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    topic_prefix: str = Field(default="edge-sft/v1", pattern=r"^[^+#\x00/]+(/[^+#\x00/]+)*$")
    backfill_per_s: float = Field(default=200.0, gt=0, description="envelopes per second after an outage")
    ack: Literal["broker", "ledger"] = "broker"

    @model_validator(mode="after")
    def _consistent(self) -> MqttSection:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: give both or neither")
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("a client certificate needs ca_file, the authority that signed the broker's certificate")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs username")
        return self


class JournalSection(_Strict):
    """Bounds of the outbox; beyond either the oldest go first, named by range."""

    max_mb: float = Field(default=512.0, gt=0)
    max_age_h: float = Field(default=240.0, gt=0, description="ten-day outages do happen")


class FolderSource(_Strict):
    """A watched folder: pictures appear in it, each is taken once it has stopped changing for ``settle_ms``."""

    kind: Literal["folder"]
    path: Path
    pattern: str = Field(default="*", description="shell pattern of the file names to take")
    after: Literal["keep", "move", "delete"] = "keep"
    settle_ms: int = Field(default=200, ge=0, le=60_000)
    poll_ms: int = Field(default=100, ge=5, le=60_000)


class FilesSource(_Strict):
    """A folder, or a list of files, gone through once (or in a ``loop``), at ``rate`` pictures a second."""

    kind: Literal["files"]
    path: Path | None = None
    paths: tuple[Path, ...] = ()
    pattern: str = "*"
    loop: bool = False
    rate: float | None = Field(default=None, gt=0, le=10_000)

    @model_validator(mode="after")
    def _one(self) -> FilesSource:
        if (self.path is None) == (not self.paths):
            raise ValueError("give either path (a folder) or paths (a list of files)")
        return self


class VideoSource(_Strict):
    """A video file, frame by frame; without ``rate`` as fast as frames are wanted."""

    kind: Literal["video"]
    path: Path
    loop: bool = False
    rate: float | None = Field(default=None, gt=0, le=1000)


class CameraSource(_Strict):
    """A USB camera (``device`` is its number) or a network camera (``device`` is its rtsp:// or http:// address).

    A user name and password in the address are read from ``credentials_file`` (one line, ``user:password``).
    """

    kind: Literal["camera"]
    device: int | str
    width: int | None = Field(default=None, ge=16, le=16384)
    height: int | None = Field(default=None, ge=16, le=16384)
    fps: float | None = Field(default=None, gt=0, le=1000)
    credentials_file: Path | None = None
    open_timeout_s: float = Field(default=5.0, gt=0, le=120)
    read_timeout_s: float = Field(default=3.0, gt=0, le=120)
    retry_max_s: float = Field(default=10.0, gt=0, le=3600)

    @field_validator("device")
    @classmethod
    def _no_secret(cls, device: int | str) -> int | str:
        if isinstance(device, str) and re.match(r"^[a-z]+://[^/@]*:[^/@]*@", device):
            raise ValueError("the address holds a password; put user:password into a file and name credentials_file")
        return device


class RowsFromMqtt(_Strict):
    """Sensor rows from MQTT topics: JSON messages, one row, a list of rows, or columns of equal length.

    Attributes:
        topics: Filters to subscribe to, e.g. ``plant/+/sensors``.
        qos: 1 = the broker keeps rows while the agent is away, and each counts once; 0 = cheaper, rows may be lost.
        asset: Whose rows: ``topic:N`` (the topic's N-th level, from 0), or a field of the message.
        fields: Channel → field of the message (``values.temp`` reaches inside); empty = every number by its name.
        channel: For one value a message: ``topic:N``, or the field that names the channel; ``value`` holds it.
        value: Field of that value; empty = the message is the number itself.
        time: Field of the time of measurement; empty = when the message came.
        time_format: ``auto`` tells ISO texts, seconds, milliseconds, micro- and nanoseconds since 1970 apart.
        waiting_max: Messages that may wait to be taken; beyond it the broker is left waiting (``qos`` 1), or the
            oldest goes (``qos`` 0, counted).
    """

    kind: Literal["mqtt"]
    topics: tuple[str, ...] = Field(min_length=1)
    qos: Literal[0, 1] = 1
    asset: str = "topic:1"
    fields: dict[str, str] = {}
    channel: str = ""
    value: str = ""
    time: str = "time"
    time_format: Literal["auto", "seconds", "milliseconds", "iso", "number"] = "auto"
    waiting_max: int = Field(default=20_000, ge=100, le=1_000_000)

    @field_validator("topics")
    @classmethod
    def _filters(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        for topic in topics:
            if not topic or "\x00" in topic or not re.match(r"^([^+#]+|\+)(/([^+#]*|\+))*(/#)?$|^#$", topic):
                raise ValueError(f"{topic!r} is not a topic filter; + stands for one level, # for all that follow")
        return topics


class RowsFromFile(_Strict):
    """A recording played again: CSV or NPZ files, a column a channel, in order of time, at any speed.

    Attributes:
        path: A file, or a folder of them, each an asset of its own unless ``asset`` names a column.
        pattern: Shell pattern of the files in a folder.
        speed: 1 = as it was recorded, 60 = a minute a second, 0 = as fast as decisions are made.
        asset: Column of the machine's name; empty = the file's name.
        fields: Channel → column; empty = by its name.
        time: Column of the time; empty = rows are ``step`` apart.
        step: See ``time``.
        time_format: As for MQTT.
        separator: Between a table's cells; empty = found by itself, as are decimal commas and lines above the header.
        rows: Rows of one asset that are handed on together.
    """

    kind: Literal["replay"]
    path: Path
    pattern: str = "*"
    speed: float = Field(default=1.0, ge=0)
    asset: str = ""
    fields: dict[str, str] = {}
    time: str = ""
    time_format: Literal["auto", "seconds", "milliseconds", "iso", "number"] = "auto"
    step: float = Field(default=1.0, gt=0)
    separator: str = ""
    rows: int = Field(default=64, ge=1, le=100_000)


SourceConfig = Annotated[
    Union[  # noqa: UP007  # read by pydantic on 3.10
        FolderSource, FilesSource, VideoSource, CameraSource, RowsFromMqtt, RowsFromFile
    ],
    Field(discriminator="kind"),
]
ROWS_KINDS = frozenset({"mqtt", "replay"})


class AssetsSection(_Strict):
    """The assets of a pipeline of sensor rows.

    Attributes:
        late_s: Rows may come late or out of order by this, in the time column's unit; decisions wait as long.
        jump_s: Three rows in a row older than that mean that the clock was set back; a single one is left out.
        expected: Assets that are told ``offline`` until they are heard.
        most: Further assets are refused.
        batch: Most windows that the model takes at a time.
        ring_mb: Raw rows kept on disk, to warm a new model with.
        save_every_s: How often the assets' state is saved whole; a restart reads the rows since then again.
        sync_s: How often rows are forced to the disk: a kill loses none, a power cut those since then.
    """

    late_s: float = Field(default=0.0, ge=0)
    jump_s: float = Field(default=60.0, gt=0)
    expected: tuple[str, ...] = ()
    most: int = Field(default=2000, ge=1, le=100_000)
    batch: int = Field(default=64, ge=1, le=4096)
    ring_mb: float = Field(default=64.0, gt=0)
    save_every_s: float = Field(default=30.0, gt=0)
    sync_s: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> AssetsSection:
        if self.jump_s <= self.late_s:
            raise ValueError("jump_s must be above late_s: a row that may be late is no sign of a clock set back")
        return self


class FreeRunning(_Strict):
    """Every frame that the source gives is decided."""

    kind: Literal["free"] = "free"


class MqttTrigger(_Strict):
    """One decision per message ``{"part_id": "…"}``; with a camera on a frame taken after the message came.

    ``topic`` is a full topic, or a name below the pipeline's own topics when it holds no slash.
    """

    kind: Literal["mqtt"]
    topic: str = Field(default="trigger", pattern=r"^[^+#\x00]+$")
    timeout_ms: int = Field(default=1000, ge=1, le=600_000, description="longest wait for a fresh frame")
    waiting_max: int = Field(default=1000, ge=1, le=100_000, description="triggers that may wait their turn")


class FileNameTrigger(_Strict):
    """Each file is a trigger; ``pattern`` is a regular expression whose group ``part_id`` names the part."""

    kind: Literal["filename"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _has_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error})") from error
        if "part_id" not in groups:
            raise ValueError(r"needs a group named part_id, e.g. '(?P<part_id>[A-Z]\d+)_'")
        return pattern


TriggerConfig = Annotated[
    Union[FreeRunning, MqttTrigger, FileNameTrigger],  # noqa: UP007  # read by pydantic on 3.10
    Field(discriminator="kind"),
]


class QueueSection(_Strict):
    """Samples waiting for the model. ``latest`` drops the oldest (counted, told), ``block`` holds the source back.

    Left out, cameras use ``latest``; files, folders and videos use ``block``.
    """

    size: int = Field(default=8, ge=1, le=1024)
    policy: Literal["latest", "block"] | None = None


class SnapshotSection(_Strict):
    """Pictures of decisions, drawn over, on the ``snapshot`` topic; best effort, none is kept.

    Attributes:
        when: Verdicts that get one.
        max_bytes: Of a whole message, as a broker's ``max_packet_size`` counts; pictures get coarser and smaller
            until they fit.
        max_per_minute: Further ones are left out, and counted.
    """

    when: tuple[Literal["ok", "nok", "uncertain", "no_decision"], ...] = Field(
        default=("nok", "uncertain"), min_length=1
    )
    max_bytes: int = Field(default=200_000, ge=10_000, le=10_000_000)
    max_per_minute: int = Field(default=30, ge=1, le=6000)


class PipelineSection(_Strict):
    """One stream: its source, its trigger, its queue, its model slots (named like the pipeline).

    One worker with all ``threads`` has the shortest latency (and is what the device's proof measured); as many
    workers as threads decide the most parts a second (measured on two cores: 227 against 174 a second).
    """

    name: str = Field(default="main", pattern=PIPELINE)
    source: SourceConfig
    trigger: TriggerConfig = FreeRunning()
    queue: QueueSection = QueueSection()
    assets: AssetsSection | None = Field(default=None, description="of a source of sensor rows")
    snapshot: SnapshotSection | None = Field(default=None, description="pictures on MQTT; off without it")
    deadline_ms: float | None = Field(default=None, gt=0, description="capture to decision; later is no_decision")
    threads: int | None = Field(default=None, ge=1, le=64, description="inference threads; default: as proved")
    workers: int = Field(default=1, ge=1, le=64, description="copies of the model that share the threads")
    profile: str | None = Field(default=None, description="the device profile the bundle must be proved for")

    @property
    def queue_policy(self) -> Literal["latest", "block"]:
        """What really holds when the queue is full."""
        return self.queue.policy or ("latest" if self.source.kind == "camera" else "block")

    @property
    def of_rows(self) -> bool:
        """Whether sensor rows come in, not pictures."""
        return self.source.kind in ROWS_KINDS

    @model_validator(mode="after")
    def _consistent(self) -> PipelineSection:
        if self.of_rows and self.trigger.kind != "free":
            raise ValueError(f"source kind '{self.source.kind}' gives rows, which no trigger picks; leave trigger out")
        if self.of_rows and self.workers != 1:
            raise ValueError("rows are decided in order, in batches, by one worker; set threads instead of workers")
        if self.assets is not None and not self.of_rows:
            raise ValueError(f"[pipeline.assets] is for sources of sensor rows, not '{self.source.kind}'")
        if self.snapshot is not None and self.of_rows:
            raise ValueError(f"[pipeline.snapshot] shows pictures; a source of kind '{self.source.kind}' gives rows")
        if self.trigger.kind == "filename" and self.source.kind not in ("folder", "files"):
            raise ValueError(f"trigger kind 'filename' needs a source of files, not '{self.source.kind}'")
        if self.threads is not None and self.workers > self.threads:
            raise ValueError(f"{self.workers} workers need at least as many threads, not {self.threads}")
        return self


class AgentConfig(_Strict):
    """The whole of agent.toml."""

    agent: AgentSection = AgentSection()
    mqtt: MqttSection = MqttSection()
    journal: JournalSection = JournalSection()
    pipeline: tuple[PipelineSection, ...]

    @model_validator(mode="after")
    def _distinct(self) -> AgentConfig:
        if not self.pipeline:
            raise ValueError("there is no [[pipeline]]; add one")
        names = [pipeline.name for pipeline in self.pipeline]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"pipeline names must differ; given twice: {', '.join(twice)}")
        folders = [p.source.path.resolve() for p in self.pipeline if p.source.kind == "folder"]
        if len(set(folders)) != len(folders):
            raise ValueError("two pipelines watch the same folder; give each its own")
        return self


def load(path: Path) -> AgentConfig:
    """Read agent.toml; relative paths in it are relative to its folder.

    Raises:
        UserError: The file is missing or has problems, all of them listed with their lines.
    """
    config = strict_toml.load(path, AgentConfig)
    base = path.resolve().parent
    return AgentConfig.model_validate(_anchored(config.model_dump(), base))


def _anchored(value: object, base: Path) -> object:
    if isinstance(value, dict):
        return {key: _anchored(item, base) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_anchored(item, base) for item in value)
    return base / value.expanduser() if isinstance(value, Path) else value
