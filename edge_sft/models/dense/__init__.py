"""Networks that say where: a backbone, a feature pyramid, and a head that boxes or outlines."""

from edge_sft.models.dense.building import build, load, stride_of, task_of
from edge_sft.models.dense.network import Dense

__all__ = ["Dense", "build", "load", "stride_of", "task_of"]
