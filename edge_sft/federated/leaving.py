"""Leaving a federation: the key goes first, then what the site held of the federation's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from edge_sft import durable
from edge_sft.federated import outward, site_files

# The private key goes first: from then on nobody is this site, even if the power fails half way.
_FILES: Final = (
    site_files.KEY,
    site_files.PUBLIC,
    site_files.CA,
    site_files.STATE,
    site_files.RECIPE,
    site_files.SITE,
    outward.ERRORS,
    outward.ERRORS_BEFORE,
)
_FOLDERS: Final = (site_files.FLOWER, site_files.RUNS)


def leave(directory: Path, *, keep_runs: bool = False) -> tuple[str, ...]:
    """Remove a site's key, state and Flower's folder. The ledger stays: it is the site's own record of what left.

    Args:
        directory: The site's folder.
        keep_runs: Keep the weights and personal checkpoints.

    Returns:
        The names that were removed.

    Raises:
        UserError: The site is being served.
        DeviceError: The disk refuses.
    """
    removed = []
    with site_files.locked(directory):
        try:
            for name in _FILES:
                if (directory / name).exists():
                    (directory / name).unlink()
                    removed.append(name)
            for name in _FOLDERS:
                if (directory / name).is_dir() and not (keep_runs and name == site_files.RUNS):
                    shutil.rmtree(directory / name)
                    removed.append(name)
        except OSError as error:
            raise durable.disk_error(directory, error) from error
        (directory / site_files.LOCK).unlink(missing_ok=True)
    return tuple(removed)
