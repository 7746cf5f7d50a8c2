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


SourceConfig = Annotated[
    Union[FolderSource, FilesSource, VideoSource, CameraSource],  # noqa: UP007  # read by pydantic on 3.10
    Field(discriminator="kind"),
]


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


class PipelineSection(_Strict):
    """One stream: its source, its trigger, its queue, its model slots (named like the pipeline).

    One worker with all ``threads`` has the shortest latency (and is what the device's proof measured); as many
    workers as threads decide the most parts a second (measured on two cores: 227 against 174 a second).
    """

    name: str = Field(default="main", pattern=PIPELINE)
    source: SourceConfig
    trigger: TriggerConfig = FreeRunning()
    queue: QueueSection = QueueSection()
    deadline_ms: float | None = Field(default=None, gt=0, description="capture to decision; later is no_decision")
    threads: int | None = Field(default=None, ge=1, le=64, description="inference threads; default: as proved")
    workers: int = Field(default=1, ge=1, le=64, description="copies of the model that share the threads")
    profile: str | None = Field(default=None, description="the device profile the bundle must be proved for")

    @property
    def queue_policy(self) -> Literal["latest", "block"]:
        """What really holds when the queue is full."""
        return self.queue.policy or ("latest" if self.source.kind == "camera" else "block")

    @model_validator(mode="after")
    def _consistent(self) -> PipelineSection:
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
