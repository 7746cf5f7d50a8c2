"""What each model family does at a site when plants learn together; imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_sft.federated.learner import Learner
    from edge_sft.progress import Progress


def make_learner(recipe_text: str, data: Path, work: Path, progress: Progress) -> Learner:
    """Return the learner of a recipe over a site's own data.

    Args:
        recipe_text: The recipe as the coordinator sent it; its ``data.path`` is replaced.
        data: The site's folder (or file); a manifest and a failure log are looked for in it by their names.
        work: Folder for caches.
        progress: Told how far reading is.

    Raises:
        UserError: A recipe that is none, or that this cannot be done with.
        DataError: Data that do not fit the recipe.
    """
    from edge_sft.federated.learners.opening import open_learner

    return open_learner(recipe_text, data, work, progress)
