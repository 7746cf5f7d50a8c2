"""The agent: N pipelines, one journal, one publisher, one MQTT link, one process that must not stop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from edge_sft import __version__
from edge_sft.errors import UserError
from edge_sft.runtime.config import AgentConfig, AssetsSection, PipelineSection, RowsFromMqtt
from edge_sft.runtime.continuing import Continuity
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.meter import Meter
from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.pipeline import Pipeline
from edge_sft.runtime.publisher import Publisher
from edge_sft.runtime.sensor_pipeline import SensorPipeline
from edge_sft.runtime.service import Notify
from edge_sft.runtime.snapshots import Snapshots
from edge_sft.runtime.sources import rows_mqtt, rows_replay
from edge_sft.runtime.sources.protocol import Source, open_source
from edge_sft.runtime.sources.reopening import ReopeningSource
from edge_sft.runtime.state import StateBeat, last_will
from edge_sft.runtime.swap import Loader, SlotLoader
from edge_sft.runtime.topics import Topics
from edge_sft.runtime.views import JournalView
from edge_sft.runtime.voice import Voice
from edge_sft.slots.memory import resident_mb

log = logging.getLogger(__name__)

_TURN_S = 0.1


class Agent:
    """Runs what agent.toml says until told to stop.

    Args:
        config: The whole configuration.
        root: Folder of slots, journal and state; wins over ``config.agent.root``.
        sources: Sources by pipeline name, instead of the configured ones (embedding, tests).
        loaders: Model loaders by pipeline name, instead of the slots' (embedding, tests).
        notify: Told ``READY=1``, ``WATCHDOG=1``, ``STATUS=…``, ``STOPPING=1``; see `edge_sft.runtime.service`.

    Raises:
        UserError: No root, or a name that MQTT cannot carry.
        DeviceError: Another agent uses the same journal.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        root: Path | None = None,
        sources: Mapping[str, Source] | None = None,
        loaders: Mapping[str, Loader] | None = None,
        notify: Notify = lambda fact: None,
    ) -> None:
        folder = root or config.agent.root
        if folder is None:
            raise UserError("agent.root", "is not set", "Give it in agent.toml, or --root.")
        self.config = config
        self.root = folder
        self._notify = notify
        self.topics = Topics(config.agent.site, config.agent.line, config.agent.device, config.mqtt.topic_prefix)
        self.link = self._make_link()
        self.pictures_link = self._make_pictures_link()
        self.beat = StateBeat(
            self.link,
            self.topics,
            lambda: self.voice.states(self.pipelines),
            versions={"edge-sft": __version__},
            every_s=config.agent.heartbeat_s,
        )
        self.voice = Voice(
            self.link,
            self.topics,
            journal=self._look_at_journal,
            publish_states=self.beat.publish,
            metrics_s=config.agent.metrics_s,
            memory_mb=resident_mb,
        )
        self.journal = Journal(
            folder / "journal.sqlite",
            max_bytes=int(config.journal.max_mb * 2**20),
            max_age_s=config.journal.max_age_h * 3600,
            on_event=partial(self.voice.event, None),
        )
        self.publisher = Publisher(
            self.journal, self.link, self.topics, ack=config.mqtt.ack, backfill_per_s=config.mqtt.backfill_per_s
        )
        self.pipelines = [self._make_pipeline(one, sources or {}, loaders or {}) for one in config.pipeline]

    def _make_link(self) -> MqttLink:
        mqtt, who = self.config.mqtt, self.config.agent
        settings = MqttSettings(
            host=mqtt.host,
            port=mqtt.port,
            version=mqtt.version,
            username=mqtt.username,
            password_file=mqtt.password_file,
            ca_file=mqtt.ca_file,
            cert_file=mqtt.cert_file,
            key_file=mqtt.key_file,
        )
        return MqttLink(
            settings,
            client_id=f"edge-sft-{who.site}-{who.line}-{who.device}",
            will=last_will(self.topics),
            on_event=lambda kind, detail: self.voice.event(None, kind, detail),
        )

    def _make_pictures_link(self) -> MqttLink | None:
        """Return a connection for snapshots alone: a picture is as long as a thousand decisions."""
        if not any(one.snapshot is not None for one in self.config.pipeline):
            return None
        return MqttLink(self.link.settings, client_id=f"{self.link.client_id}-snapshots")

    def _look_at_journal(self) -> JournalView:
        return JournalView(self.journal.waiting, self.journal.size_bytes, self.journal.on_disk)

    def _make_pipeline(
        self, section: PipelineSection, sources: Mapping[str, Source], loaders: Mapping[str, Loader]
    ) -> Pipeline | SensorPipeline:
        if section.of_rows:
            return self._make_sensor_pipeline(section, sources.get(section.name), loaders.get(section.name))
        tell = self.voice.teller(section.name)
        memory = self.root / "pipelines" / section.name / "source"
        opener = partial(open_source, section.source, stream=section.name, state=memory)
        source = sources.get(section.name) or ReopeningSource(opener, live=section.source.kind == "camera")
        pipeline = Pipeline(
            section,
            source=source,
            loader=loaders.get(section.name) or SlotLoader(self.root, section, tell),
            sink=self.journal.append,
            flush=self.journal.flush,
            tell=tell,
            snapshots=self._snapshots_of(section, tell),
        )
        if pipeline.snapshots is not None:
            self.journal.follow(pipeline.snapshots.numbered)
        if section.trigger.kind == "mqtt" and pipeline.inbox is not None:
            name = section.trigger.topic
            topic = name if "/" in name else self.topics.pipeline(section.name, name)
            inbox = pipeline.inbox
            self.link.subscribe(topic, lambda _topic, payload: inbox.offer(payload))
        return pipeline

    def _snapshots_of(
        self, section: PipelineSection, tell: Callable[[str, str], None]
    ) -> Callable[[Meter], Snapshots] | None:
        wanted, link = section.snapshot, self.pictures_link
        if wanted is None or link is None:
            return None
        topic = self.topics.snapshot(section.name)
        return lambda meter: Snapshots(wanted, link, topic, meter=meter, tell=tell)

    def _make_sensor_pipeline(
        self, section: PipelineSection, source: Source | None, loader: Loader | None
    ) -> SensorPipeline:
        tell = self.voice.teller(section.name)
        home = self.root / "pipelines" / section.name
        awaited = isinstance(section.source, RowsFromMqtt)
        memory = Continuity(home / "rows", section.assets or AssetsSection(), tell, redelivers=awaited)
        release = _nothing
        if source is None and isinstance(section.source, RowsFromMqtt):
            client_id = f"{self.link.client_id}-{section.name}-rows"
            rows = rows_mqtt.open_source(
                section.source, settings=self.link.settings, client_id=client_id, stream=section.name
            )
            source, release = rows, rows.release
        if source is None:
            rows_replay.remember(home / "source", memory.cursor)
            opener = partial(open_source, section.source, stream=section.name, state=home / "source")
            source = ReopeningSource(opener, live=False)
        return SensorPipeline(
            section,
            source=source,
            loader=loader or SlotLoader(self.root, section, tell),
            sink=self.journal.append,
            flush=self.journal.flush,
            tell=tell,
            announce=self.voice.announcer(section.name),
            memory=memory,
            release=release,
        )

    def run(self, stop: threading.Event, *, until_done: bool = False) -> bool:
        """Run until ``stop`` is set; with ``until_done`` also until every source has ended.

        Returns:
            True when everything taken was decided and is in the journal on disk; what is wrong otherwise is logged.

        On the way out everything taken is decided, journalled and, while the broker answers, delivered; the state
        becomes ``offline``. Trouble with sources, models, disk and broker is told and outlived, never raised.
        """
        _one_thread_a_picture()
        self.link.start()
        if self.pictures_link is not None:
            self.pictures_link.start()
        self.publisher.start()
        for pipeline in self.pipelines:
            pipeline.start()
        self.beat.start()
        self._notify("READY=1")
        try:
            while not stop.wait(_TURN_S):
                self._turn()
                if until_done and all(pipeline.finished for pipeline in self.pipelines):
                    break
        finally:
            self._notify("STOPPING=1")
            clean = self._shut_down()
        return clean

    def _turn(self) -> None:
        try:
            self.voice.tick(self.pipelines)
        except Exception:
            log.exception("telling the state failed")
        if not any(pipeline.stuck for pipeline in self.pipelines):
            self._notify("WATCHDOG=1")

    def _shut_down(self) -> bool:
        deadline = time.monotonic() + 10.0
        clean = True
        for pipeline in self.pipelines:
            if not pipeline.stop(max(deadline - time.monotonic(), 1.0)):
                log.warning("%s: a thread hangs and is left behind", pipeline.section.name)
                clean = False
        if not self.journal.flush(5.0):
            log.warning("the last decisions are not on disk: it refused them")
            clean = False
        self.publisher.stop(drain_s=5.0)
        self.voice.send_events()
        self.beat.stop()
        self.link.stop()
        if self.pictures_link is not None:
            self.pictures_link.stop()
        self.journal.close()
        return clean


def _nothing() -> None:
    """Release what needs no releasing."""


def _one_thread_a_picture() -> None:
    """Keep OpenCV from waking its thread pool for every frame: pipelines and copies of the model fill the cores."""
    with contextlib.suppress(ImportError):  # a device of sensors alone has no OpenCV
        import cv2

        cv2.setNumThreads(1)
