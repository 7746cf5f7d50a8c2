"""Anomaly detection on pictures: networks that take ``image`` (and ``bank``) and tell score, map and features."""

from edge_sft.models.anomaly.memory import MemoryDetector, build, load

__all__ = ["MemoryDetector", "build", "load"]
