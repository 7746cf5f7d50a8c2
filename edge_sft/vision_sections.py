"""The recipe's sections that say where: tiles, anomaly detection, detection, segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnomalySection(_Section):
    """How good parts are learnt: ``memory`` compares with remembered good pictures and is fitted in minutes."""

    method: Literal["memory"] = "memory"
    examples: int = Field(default=1024, ge=16, le=16384, description="remembered places, at most")
    clean: bool = Field(default=True, description="find pictures among the good that are not, and leave them out")


class DetectionSection(_Section):
    """What is boxed."""

    small: bool = Field(default=False, description="defects of a few pixels: four times the places, slower")
    most: int = Field(default=100, ge=1, le=300, description="boxes a picture or tile, at most")


class SegmentationSection(_Section):
    """What is outlined."""

    fine: bool = Field(default=False, description="a map of half the picture's size instead of a quarter, slower")
