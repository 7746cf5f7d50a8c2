"""Where messages live on the broker: ``<prefix>/<site>/<line>/<device>/<pipeline>/<kind>`` and its parsing."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from edge_sft.errors import UserError

DEFAULT_PREFIX = "edge-sft/v1"
PIPELINE_KINDS = ("prediction", "state", "metrics", "event", "snapshot")
DEVICE_KINDS = ("state", "desired", "reported", "command", "ack")
_FORBIDDEN = "+#/\x00"


@dataclass(frozen=True)
class Topics:
    """The topics of one device.

    Raises:
        UserError: A level is empty, or holds one of ``+ # /``, NUL or another control character.
    """

    site: str
    line: str
    device: str
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        """Refuse names that MQTT could not carry as one level."""
        check_prefix(self.prefix)
        for name in ("site", "line", "device"):
            check_level(name, getattr(self, name))

    @property
    def root(self) -> str:
        """``<prefix>/<site>/<line>/<device>``."""
        return f"{self.prefix}/{self.site}/{self.line}/{self.device}"

    def pipeline(self, pipeline: str, kind: str) -> str:
        """Topic of one pipeline; a name that is no valid level is percent-encoded, never refused at run time."""
        return f"{self.root}/{as_level(pipeline)}/{kind}"

    def prediction(self, pipeline: str) -> str:
        """Topic of the envelopes of one pipeline."""
        return self.pipeline(pipeline, "prediction")

    def state(self, pipeline: str) -> str:
        """Topic of the retained state of one pipeline."""
        return self.pipeline(pipeline, "state")

    def metrics(self, pipeline: str) -> str:
        """Topic of one pipeline's measurements."""
        return self.pipeline(pipeline, "metrics")

    def event(self, pipeline: str) -> str:
        """Topic of what happened to one pipeline, for people."""
        return self.pipeline(pipeline, "event")

    def snapshot(self, pipeline: str) -> str:
        """Topic of one pipeline's pictures."""
        return self.pipeline(pipeline, "snapshot")

    def of_device(self, kind: str) -> str:
        """Topic of the whole device: ``state`` (retained, with the last will), ``desired``, ``command``, ``ack``…"""
        return f"{self.root}/{kind}"

    @property
    def device_state(self) -> str:
        """Retained; the broker publishes ``online: false`` here when the device is lost."""
        return self.of_device("state")

    @property
    def ack(self) -> str:
        """Where a ledger tells this device what it has stored."""
        return self.of_device("ack")


@dataclass(frozen=True)
class Place:
    """What a topic says about a message. ``pipeline`` is None on topics of the whole device."""

    site: str
    line: str
    device: str
    pipeline: str | None
    kind: str
    root: str


def parse(topic: str, prefix: str = DEFAULT_PREFIX) -> Place | None:
    """Read a topic back; None when it is not one of ours."""
    if not topic.startswith(prefix + "/"):
        return None
    levels = topic[len(prefix) + 1 :].split("/")
    root = f"{prefix}/{'/'.join(levels[:3])}"
    if len(levels) == 5 and levels[4] in PIPELINE_KINDS:
        return Place(levels[0], levels[1], levels[2], levels[3], levels[4], root)
    if len(levels) == 4 and levels[3] in DEVICE_KINDS:
        return Place(levels[0], levels[1], levels[2], None, levels[3], root)
    return None


def everything(kind: str, prefix: str = DEFAULT_PREFIX) -> str:
    """Filter for one kind of pipeline topic of all devices, e.g. ``edge-sft/v1/+/+/+/+/prediction``."""
    return f"{prefix}/+/+/+/+/{kind}"


def every_device(kind: str, prefix: str = DEFAULT_PREFIX) -> str:
    """Filter for one kind of device topic of all devices, e.g. ``edge-sft/v1/+/+/+/state``."""
    return f"{prefix}/+/+/+/{kind}"


def as_level(name: str) -> str:
    """Return the name if it is a valid topic level, else its percent-encoding."""
    return name if _valid(name) else quote(name, safe=" ") or "%"


def check_level(what: str, name: str) -> None:
    """Raise UserError unless the name can be one level of a topic."""
    if not _valid(name):
        raise UserError(
            f"{what} {name!r}", "cannot be a level of an MQTT topic", "Use a name without + # / and control characters."
        )


def check_prefix(prefix: str) -> None:
    """Raise UserError unless the prefix is one or more valid levels, e.g. ``edge-sft/v1``."""
    for level in prefix.split("/"):
        check_level("topic_prefix", level)
    if prefix.startswith("$"):
        raise UserError(f"topic_prefix {prefix!r}", "starts with $, which brokers keep for themselves", "Leave $ out.")


def _valid(name: str) -> bool:
    usable = bool(name) and len(name.encode(errors="replace")) <= 256
    return usable and all(character not in _FORBIDDEN and character.isprintable() for character in name)
