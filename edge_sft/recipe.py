"""Recipe: training intent, one TOML file, frozen and strict. Owns the accuracy tolerances.

No live objects, no device, no path of a machine other than the data's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_sft import strict_toml
from edge_sft.federated_section import FederatedSection
from edge_sft.preprocess import IgnoreBox, Preprocess, Tiles
from edge_sft.profile import VariantName
from edge_sft.vision_sections import AnomalySection, DetectionSection, SegmentationSection

HUGGING_FACE = "hf:"  # what a backbone begins with that is a local directory as Hugging Face's libraries save it


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


PictureKind = Literal["classification", "anomaly", "detection", "segmentation"]
Layout = Literal["auto", "folders", "manifest", "mvtec", "visa", "btad", "coco", "yolo", "voc", "masks"]
BACKGROUND = "background"  # the first label of a segmentation's outputs


class TaskSection(_Section):
    """What is to be told apart, or found.

    ``labels`` are those of the pictures; of detection and segmentation those of what is marked in them (a picture
    without any is good). ``ok`` names the labels that mean a good part: empty = all (sorting) in classification, none
    in detection and segmentation; anomaly detection learns from pictures with these labels and no others.
    """

    kind: PictureKind = "classification"
    labels: tuple[str, ...] = Field(min_length=1)
    ok: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> TaskSection:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("task.labels must be distinct")
        unknown = [label for label in self.ok if label not in self.labels]
        if unknown:
            raise ValueError(f"task.ok names {unknown}, which are not among task.labels {list(self.labels)}")
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError("classification tells at least two labels apart")
        if self.kind == "anomaly" and not self.ok:
            raise ValueError('anomaly detection learns from good pictures: name their label, for example ok = ["good"]')
        if self.kind == "segmentation" and BACKGROUND in self.labels:
            raise ValueError(f"'{BACKGROUND}' is what is not marked: name only what is")
        return self


class SplitSection(_Section):
    """How a pool is cut. Existing train/val/test folders or a manifest's ``split`` column go first.

    ``group`` is a regex on the path relative to the data folder; its first group (or whole match) is what must
    not straddle two splits. A manifest's ``group`` column goes first.
    """

    val: float = Field(default=0.15, gt=0, lt=0.5)
    test: float = Field(default=0.15, ge=0, lt=0.5)
    seed: int = Field(default=0, ge=0)
    group: str | None = None
    near_duplicates: bool = Field(default=True, description="keep near-duplicates on one side")
    frozen_test: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="fingerprint to insist on")


class DataSection(_Section):
    """Where the pictures are: a folder of class folders, or a CSV/JSONL manifest (``path``, ``label``, …).

    ``layout`` says how a folder is to be read; ``auto`` takes a manifest where one is given, else looks.
    ``annotations`` is a COCO file or a folder of COCO files, of VOC's XML or of YOLO's text files, where they do not
    lie where their format has them; ``masks`` a folder that mirrors the pictures' with a mask for each with a defect.
    """

    path: str
    manifest: str | None = None
    layout: Layout = "auto"
    annotations: str | None = None
    masks: str | None = None
    split: SplitSection = SplitSection()


class ImageSection(_Section):
    """Geometry of what the model sees. ``tiles`` cuts large pictures, and ``size`` is then a tile's."""

    size: int | tuple[int, int] = 224
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    roi: tuple[float, float, float, float] | None = None
    ignore: tuple[IgnoreBox, ...] = ()
    grey: bool = False
    depth_range: tuple[int, int] | None = None
    tiles: Tiles | None = None
    mm_per_pixel: float | None = Field(default=None, gt=0, description="of the frame as the camera gives it")

    @model_validator(mode="after")
    def _consistent(self) -> ImageSection:
        self.preprocess()  # its rules are ours
        return self

    def preprocess(self) -> Preprocess:
        """Return the geometry as the value that training and device share; size is (height, width)."""
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return Preprocess(
            height=height,
            width=width,
            fit=self.fit,
            roi=self.roi,
            ignore=self.ignore,
            grey=self.grey,
            depth_range=self.depth_range,
            tiles=self.tiles,
            mm_per_pixel=self.mm_per_pixel,
        )


class ModelSection(_Section):
    """Backbone by registry name, ``timm/<name>``, ``torchvision/<name>`` or ``hf:<directory>``.

    ``weights`` is a local file, or ``random``; a directory brings its own.
    """

    backbone: str = "efficientnet_lite0"
    weights: str | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)


class AugmentSection(_Section):
    """What may be done to a training picture without changing its label."""

    flip_horizontal: bool = True
    flip_vertical: bool = False
    rotate_deg: float = Field(default=0.0, ge=0, le=180)
    shift: float = Field(default=0.06, ge=0, le=0.5, description="fraction of the picture's side")
    scale: float = Field(default=0.0, ge=0, lt=0.9, description="1 ± scale")
    brightness: float = Field(default=0.15, ge=0, lt=1)
    contrast: float = Field(default=0.15, ge=0, lt=1)
    noise: float = Field(default=0.0, ge=0, lt=0.5, description="standard deviation as a fraction of full scale")


class TrainSection(_Section):
    """How it is fine-tuned. ``steps = "auto"`` chooses by the number of training pictures."""

    steps: int | Literal["auto"] = "auto"
    batch_size: int = Field(default=32, ge=2, le=1024)
    learning_rate: float = Field(default=3e-4, gt=0, lt=1)
    layer_decay: float = Field(default=0.75, gt=0, le=1, description="rate of a stage against the one above it")
    frozen_stages: int = Field(default=3, ge=0, description="stages next to the picture left as pre-trained")
    weight_decay: float = Field(default=0.02, ge=0, lt=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=0.5)
    class_balance: float = Field(default=1.0, ge=0, le=1, description="0 = as found, 1 = every class equally often")
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    patience: int = Field(default=10, ge=1, description="validations without improvement before stopping")
    seed: int = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("steps")
    @classmethod
    def _steps(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 0 <= value <= 1_000_000:
            raise ValueError('steps must be "auto" or between 0 (frozen features only) and 1,000,000')
        return value


class PolicySection(_Section):
    """What mistakes cost, so that the threshold of least cost can be found."""

    escape_cost: float = Field(default=10.0, ge=0, description="cost of a defect that slips through")
    overkill_cost: float = Field(default=1.0, ge=0, description="cost of a good part scrapped")
    prevalence: float | None = Field(default=None, gt=0, lt=1, description="share of defects on the line")
    max_escape_rate: float | None = Field(default=None, gt=0, lt=1)
    false_reject_rate: float | None = Field(
        default=None, gt=0, lt=1, description="share of good parts that may be rejected; goes before the costs"
    )
    min_area_mm2: float | None = Field(default=None, gt=0, description="smaller marks are no defect")
    min_length_mm: float | None = Field(default=None, gt=0, description="shorter marks are no defect")
    deadline_ms: float | None = Field(default=None, gt=0)


class ExportSection(_Section):
    """Which variants are made and how much accuracy each may lose against the checkpoint."""

    variants: tuple[VariantName, ...] = ("fp32", "fp16", "int8-trt", "int8-cpu")
    tolerance_points: float = Field(default=0.5, ge=0, le=100, description="net loss in percentage points")
    calibration_pictures: int = Field(default=128, ge=8, le=4096)

    @field_validator("variants")
    @classmethod
    def _has_fp32(cls, value: tuple[VariantName, ...]) -> tuple[VariantName, ...]:
        if "fp32" not in value:
            raise ValueError("fp32 is the reference every other variant is held against: keep it in the list")
        if len(set(value)) != len(value):
            raise ValueError("each variant once")
        return value


class Recipe(_Section):
    """The whole of a model's making, minus the pictures."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    version: str = Field(default="0.1.0", pattern=r"^\d+\.\d+\.\d+([-+.][A-Za-z0-9.-]+)?$")
    task: TaskSection
    data: DataSection
    image: ImageSection = ImageSection()
    model: ModelSection = ModelSection()
    augment: AugmentSection = AugmentSection()
    train: TrainSection = TrainSection()
    policy: PolicySection = PolicySection()
    export: ExportSection = ExportSection()
    anomaly: AnomalySection = AnomalySection()
    detection: DetectionSection = DetectionSection()
    segmentation: SegmentationSection = SegmentationSection()
    federated: FederatedSection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        labels, kind = self.task.labels, self.task.kind
        self._only_for_its_kind()
        if kind != "classification":
            if self.federated is not None:
                raise ValueError(f"[federated] trains classification of pictures, not {kind}: take the section out")
            if self.policy.max_escape_rate is not None:
                raise ValueError(f"policy.max_escape_rate is for classification, the task is {kind}")
        sized = self.policy.min_area_mm2, self.policy.min_length_mm
        if sized != (None, None) and self.image.mm_per_pixel is None:
            raise ValueError("policy.min_area_mm2 and min_length_mm need image.mm_per_pixel")
        if self.policy.max_escape_rate is not None and (not self.task.ok or len(self.task.ok) == len(labels)):
            raise ValueError("policy.max_escape_rate needs at least one good and one defect label: set task.ok")
        return self

    def _only_for_its_kind(self) -> None:
        """Refuse what would be ignored: a section of another kind, tiles where one tile must tell all."""
        kind = self.task.kind
        for name in ("anomaly", "detection", "segmentation"):
            if name in self.model_fields_set and name != kind:
                raise ValueError(f"[{name}] has no effect: the task's kind is {kind}. Take it out")
        if kind == "classification":
            meant = {
                "image.tiles": self.image.tiles,
                "image.mm_per_pixel": self.image.mm_per_pixel,
                "policy.false_reject_rate": self.policy.false_reject_rate,
            }
            found = [name for name, value in meant.items() if value is not None]
            if found:
                raise ValueError(f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} not for classification")

    @property
    def ok_labels(self) -> tuple[str, ...]:
        """Labels that mean a good part; all of them where the task is sorting."""
        return self.task.ok or self.task.labels


def load(path: Path) -> Recipe:
    """Read a recipe; its relative paths (data, manifest, weights, ``hf:`` directory) are taken from its folder.

    Raises:
        UserError: Every problem at once, each with its line and remedy.
    """
    recipe = strict_toml.load(path, Recipe)
    here = path.resolve().parent
    data = recipe.data.model_copy(
        update={
            "path": str(here / recipe.data.path),
            **{
                name: None if value is None else str(here / value)
                for name, value in (
                    ("manifest", recipe.data.manifest),
                    ("annotations", recipe.data.annotations),
                    ("masks", recipe.data.masks),
                )
            },
        }
    )
    model = recipe.model
    if model.weights is not None:
        model = model.model_copy(update={"weights": str(here / model.weights)})
    if model.backbone.startswith(HUGGING_FACE):
        folder = here / model.backbone.removeprefix(HUGGING_FACE)
        model = model.model_copy(update={"backbone": f"{HUGGING_FACE}{folder}"})
    return recipe.model_copy(update={"data": data, "model": model})
