"""SensorRecipe: training intent for sensor models, one TOML file with ``modality = "window"``; frozen and strict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_sft import strict_toml
from edge_sft.federated_section import FederatedSection
from edge_sft.policy import AlarmRule, CommissioningRule
from edge_sft.preprocess import Channel, OrderTracking, Windowing
from edge_sft.profile import VariantName


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FaultTask(_Section):
    """Which fault it is. ``ok`` names the healthy labels; empty = none of the labels is a fault."""

    kind: Literal["classification"]
    labels: tuple[str, ...] = Field(min_length=2)
    ok: tuple[str, ...] = ()


class AnomalyTask(_Section):
    """Whether a machine behaves as in its healthy run. Labels, where there are any, only score it."""

    kind: Literal["anomaly"]


class RulTask(_Section):
    """How long until failure, in the time column's unit. Beyond ``cap`` it counts as ``cap``: it cannot be seen yet."""

    kind: Literal["regression"]
    cap: float = Field(default=125.0, gt=0)
    unit: str = "cycles"
    quantiles: tuple[float, ...] = (0.05, 0.95)

    @model_validator(mode="after")
    def _rising(self) -> RulTask:
        if (
            not self.quantiles
            or any(not 0 < q < 1 for q in self.quantiles)
            or list(self.quantiles) != sorted(set(self.quantiles))
        ):
            raise ValueError("quantiles must rise and lie between 0 and 1")
        return self


SensorTask = Annotated[FaultTask | AnomalyTask | RulTask, Field(discriminator="kind")]


class ChannelSection(_Section):
    """One channel: ``column`` in the files (default: its name), unit, plausible limits.

    ``scale`` and ``offset`` bring another unit into this one, in training and on the line: value × scale + offset.
    """

    name: str
    column: str | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    stuck_s: float | None = Field(default=None, gt=0)
    scale: float = Field(default=1.0, allow_inf_nan=False)
    offset: float = Field(default=0.0, allow_inf_nan=False)


class EventsSection(_Section):
    """A failure log: a table of events (maintenance system's export), from which labels are derived.

    A run ends at an event of its group; ``horizon`` time units before a failure count as pre-failure. With ``until``,
    a column of ends, events are stretches of time: their rows are labelled and the run goes on. An empty ``group``
    means that all events are of every machine (there is only one); columns without a header are ``1``, ``2``, …
    """

    path: str
    time: str = "time"
    until: str | None = None
    group: str = "group"
    kind: str | None = None
    failures: tuple[str, ...] = ()
    horizon: float | None = Field(default=None, gt=0)


class SensorSplit(_Section):
    """Splits by group only; windows of one machine, run or bearing never lie on two sides.

    ``val_groups`` and ``test_groups`` name groups; otherwise shares are drawn by seed.
    """

    val: float = Field(default=0.2, gt=0, lt=0.6)
    test: float = Field(default=0.2, ge=0, lt=0.6)
    seed: int = Field(default=0, ge=0)
    val_groups: tuple[str, ...] = ()
    test_groups: tuple[str, ...] = ()


class SensorData(_Section):
    """Where the rows are and what their columns mean.

    Attributes:
        path: A file, or a folder of files that match ``pattern``.
        layout: ``wide`` (a column a channel) or ``long`` (columns channel and value).
        time: Time column; empty = rows are one ``window.period_s`` apart.
        time_format: ``auto``, ``seconds``, ``milliseconds``, ``iso``, ``index`` or ``excel``.
        run: Column that tells runs apart; empty = one run a file. ``file:REGEX`` on the file names makes one run of
            the files whose match is equal: one after the other (a file a day), or side by side (a file a sensor).
        group: Column, or regex on the file name (``file:REGEX``), of what must stay on one side; empty = the run.
            For anomaly detection on a single machine ``time:7d`` cuts its time into blocks; the last are the test.
        asset: Column, or ``file:REGEX``, of the machine's name on the line; empty = the group.
        label: Column of labels (a fault's name, 0/1 for anomalies), or ``file:REGEX``.
        rul: Column of remaining life; empty = counted down to each run's end (runs to failure) or from ``events``.
        conditions: Channels that say how the machine is being run (speed, load), not how it is.
        separator: Of CSV files; empty = found out.
    """

    path: str
    pattern: str = "*"
    layout: Literal["wide", "long"] = "wide"
    time: str = ""
    time_format: Literal["auto", "seconds", "milliseconds", "iso", "index", "excel"] = "auto"
    run: str = ""
    group: str = ""
    asset: str = ""
    label: str = ""
    rul: str = ""
    channel_column: str = "channel"
    value_column: str = "value"
    separator: str = ""
    channels: tuple[ChannelSection, ...] = Field(min_length=1)
    conditions: tuple[str, ...] = ()
    events: EventsSection | None = None
    split: SensorSplit = SensorSplit()

    @model_validator(mode="after")
    def _consistent(self) -> SensorData:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError("channel names must be distinct")
        unknown = [name for name in self.conditions if name not in names]
        if unknown:
            raise ValueError(f"conditions names {unknown}, which are not among the channels")
        return self


class WindowSection(_Section):
    """How rows become windows; see `edge_sft.preprocess.Windowing`."""

    period_s: float = Field(default=1.0, gt=0)
    length: int = Field(default=64, ge=1, le=65536)
    hop: int = Field(default=1, ge=1)
    aggregate: Literal["last", "mean"] = "last"
    hold_s: float = Field(default=0.0, ge=0)
    gap_s: float | None = Field(default=None, gt=0)
    age: bool = False
    age_unit: float = Field(default=1.0, gt=0)
    min_valid: float = Field(default=0.5, ge=0, le=1)
    order: OrderTracking | None = None


class NormaliseSection(_Section):
    """Normalisation in the graph: ``global``, or by ``condition`` (the nearest of ``clusters`` operating points)."""

    by: Literal["global", "condition"] = "global"
    clusters: int = Field(default=6, ge=1, le=64)


class SensorModel(_Section):
    """``auto`` is the task's default: ``mlp+tcn`` (RUL), ``spectral`` (vibration faults), ``bank`` (anomalies).

    ``encoder`` is a bank of what a small net, learnt on the training machines' healthy rows, sees in each channel as
    ``embedding`` numbers. ``base`` is a checkpoint of the same family to fine-tune from. ``orders`` are the rates, in
    turns of the shaft, at which faults would show (cage, ball, outer and inner race from the bearing's data sheet; mesh
    of a gear).
    """

    architecture: Literal["auto", "mlp", "tcn", "mlp+tcn", "spectral", "bank", "t2q", "encoder"] = "auto"
    width: int = Field(default=64, ge=4, le=1024)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    bank_size: int = Field(default=512, ge=8, le=65536)
    neighbours: int = Field(default=5, ge=1, le=64)
    embedding: int = Field(default=8, ge=2, le=64)
    base: str | None = None
    orders: tuple[Annotated[float, Field(gt=0, lt=1000)], ...] = ()


class SensorTrain(_Section):
    """How it is trained; ``members`` nets of different seeds are averaged inside the graph; ``auto`` is the task's."""

    steps: int | Literal["auto"] = "auto"
    batch_size: int = Field(default=256, ge=2, le=8192)
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    members: int = Field(default=1, ge=1, le=16)
    channel_drop: float = Field(
        default=0.05, ge=0, lt=0.9, description="share of windows trained with a channel missing"
    )
    folds: int = Field(default=5, ge=2, le=20, description="group cross-validation that chooses")
    seed: int = Field(default=0, ge=0)
    replay: float = Field(default=0.5, ge=0, lt=1, description="share of a fine-tuning batch from the base's data")


class SensorPolicySection(_Section):
    """What mistakes cost, when an alarm opens, and how an anomaly's threshold is made on the machine."""

    act_below: float = 0.0
    warn_below: float | None = None
    judge: Literal["low", "value"] = "low"
    escape_cost: float = Field(default=10.0, ge=0)
    overkill_cost: float = Field(default=1.0, ge=0)
    alarm: AlarmRule = AlarmRule()
    commissioning: CommissioningRule = CommissioningRule()
    deadline_ms: float | None = Field(default=None, gt=0)


class SensorExport(_Section):
    """Which variants are made and how much each may lose (points, or per cent of the error for RUL)."""

    variants: tuple[VariantName, ...] = ("fp32", "fp16", "int8-trt", "int8-cpu")
    tolerance_points: float = Field(default=0.5, ge=0, le=100)


class SensorRecipe(_Section):
    """The whole of a sensor model's making, minus the rows."""

    schema_version: Literal[1] = 1
    modality: Literal["window"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    version: str = Field(default="0.1.0", pattern=r"^\d+\.\d+\.\d+([-+.][A-Za-z0-9.-]+)?$")
    task: SensorTask
    data: SensorData
    window: WindowSection = WindowSection()
    normalise: NormaliseSection = NormaliseSection()
    model: SensorModel = SensorModel()
    train: SensorTrain = SensorTrain()
    policy: SensorPolicySection = SensorPolicySection()
    export: SensorExport = SensorExport()
    federated: FederatedSection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SensorRecipe:
        if self.normalise.by == "condition" and not self.data.conditions:
            raise ValueError('normalise.by = "condition" needs data.conditions: the channels that tell the condition')
        if isinstance(self.task, FaultTask):
            unknown = [label for label in self.task.ok if label not in self.task.labels]
            if unknown:
                raise ValueError(f"task.ok names {unknown}, which are not among task.labels {list(self.task.labels)}")
        self.windowing()  # its rules are ours
        return self

    def windowing(self) -> Windowing:
        """Return how rows become windows, as the value that training and device share."""
        channels = tuple(
            Channel(**{name: getattr(c, name) for name in Channel.model_fields}) for c in self.data.channels
        )
        return Windowing(channels=channels, **{name: getattr(self.window, name) for name in WindowSection.model_fields})


def load(path: Path) -> SensorRecipe:
    """Read a sensor recipe; relative ``data.path``, ``events.path`` and ``model.base`` are taken from its folder.

    Raises:
        UserError: Every problem at once, each with its line and remedy.
    """
    recipe = strict_toml.load(path, SensorRecipe)
    here = path.resolve().parent
    data = recipe.data.model_copy(update={"path": str(here / recipe.data.path)})
    if data.events is not None:
        events = data.events.model_copy(update={"path": str(here / data.events.path)})
        data = data.model_copy(update={"events": events})
    model = recipe.model
    if model.base is not None:
        model = model.model_copy(update={"base": str(here / model.base)})
    return recipe.model_copy(update={"data": data, "model": model})


def is_sensor_recipe(path: Path) -> bool:
    """Tell by its ``modality`` line whether a recipe is for sensors; a file that cannot be read is not."""
    try:
        return strict_toml.peek(path).get("modality") == "window"
    except (OSError, ValueError):
        return False
