"""From a recipe to a Dataset: every file is read, broken ones are quarantined by name, every picture gets a side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge_sft.data import similar, splitting
from edge_sft.data.dataset import Dataset, Item, PictureFacts, Quarantined
from edge_sft.data.listing import Listed, Listing, list_folder
from edge_sft.data.looking import Seen, look_all
from edge_sft.data.manifest import read_manifest
from edge_sft.data.truth import GOOD
from edge_sft.errors import DataError, UserError
from edge_sft.preprocess import require_opencv
from edge_sft.progress import Progress, Silent
from edge_sft.recipe import Recipe, SplitSection

_SHOWN = 8  # labels or folders named in one message


def open_dataset(
    recipe: Recipe,
    progress: Progress = Silent(),  # noqa: B008
    *,
    partial: bool = False,
) -> Dataset:
    """Read every picture of a recipe's data folder or manifest and split them.

    Args:
        recipe: As loaded by `edge_sft.recipe.load`, so that its paths hold from anywhere.
        progress: Told about every picture.
        partial: Labels without a picture are no mistake: a site of a federation.

    Returns:
        The data set; files that cannot be used are in ``quarantined`` with their reason, ``facts`` say what was seen.

    Raises:
        DataError: No such folder or manifest, nothing to read, labels that the recipe does not know or that have no
            picture to train on, or a test split other than the frozen one.
        UserError: ``data.split.group`` is no regular expression.
        DeviceError: OpenCV is missing.
    """
    require_opencv()
    root = Path(recipe.data.path)
    listing = list_folder(root) if recipe.data.manifest is None else read_manifest(Path(recipe.data.manifest), root)
    if recipe.task.kind != "classification":
        listing = _with_truths(listing, recipe)
    marked = recipe.task.kind in ("detection", "segmentation")
    _check_labels(listing, (*recipe.task.labels, GOOD) if marked else recipe.task.labels, root)
    entries, seen, broken = _read(listing.entries, progress)
    if not entries:
        raise DataError(str(root), f"has no readable picture ({_reasons(broken)})", "Run: edge-sft check")
    progress.start("Comparing pictures", 1)
    alike = lookalikes([look.sha256 for look in seen], [look.facts for look in seen])
    progress.advance(1, note=f"{len(alike)} pairs alike" if alike else "")
    dataset = Dataset(
        root=root,
        labels=recipe.task.labels,
        items=tuple(_items(entries, seen, alike, recipe.data.split)),
        quarantined=tuple(sorted((*listing.quarantined, *broken), key=lambda left: left.id)),
        facts=tuple(look.facts for look in seen),
        notes=listing.notes,
        alike=tuple(alike),
        partial=partial,
    )
    if not partial:
        _check_trainable(dataset, recipe)
    _check_frozen(dataset, recipe.data.split.frozen_test)
    return dataset


def owner_groups(ids: Sequence[str], pattern: str | None) -> list[str | None]:
    """Return each id's group by the recipe's regex: its first group, else the whole match, else None.

    Raises:
        UserError: The pattern is no regular expression.
    """
    if pattern is None:
        return [None] * len(ids)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError("data.split.group", f"is no regular expression ({error})", "Mend it in the recipe.") from error
    found = (regex.search(name) for name in ids)
    return [None if match is None else (match.group(1) if regex.groups else match.group()) or None for match in found]


def lookalikes(contents: Sequence[str], facts: Sequence[PictureFacts]) -> list[tuple[int, int]]:
    """Return index pairs of near-duplicates; the pictures' SHA-256 make it independent of their order."""
    order = sorted(range(len(contents)), key=lambda index: (contents[index], index))
    pairs = similar.near_pairs([facts[index].thumbnail for index in order], [facts[index].detail for index in order])
    return [(order[pair.first], order[pair.second]) for pair in pairs]


def _check_labels(listing: Listing, labels: tuple[str, ...], root: Path) -> None:
    if not listing.entries:
        what = "the manifest lists no picture" if listing.layout == "manifest" else "has no picture in class folders"
        left = f" ({_reasons(listing.quarantined)})" if listing.quarantined else ""
        raise DataError(str(root), what + left, "Put pictures into one folder a class, for example ok/ and scratch/.")
    unknown = [label for label in listing.labels if label not in labels]
    if unknown:
        remedy = "Add them to task.labels"
        if listing.layout != "manifest":
            remedy += ", move the folders out, or let their names begin with an underscore"
        raise DataError(str(root), f"has labels that the recipe does not know: {_names(unknown)}", f"{remedy}.")


def _read(listed: Sequence[Listed], progress: Progress) -> tuple[list[Listed], list[Seen], list[Quarantined]]:
    entries, seen, broken = [], [], []
    progress.start("Reading pictures", len(listed))
    for entry, result in zip(listed, look_all(entry.path for entry in listed), strict=True):
        if isinstance(result, Seen):
            entries.append(entry)
            seen.append(result)
        else:
            broken.append(Quarantined(entry.id, result))
        progress.advance(1, note=f"{len(broken)} unusable" if broken else "")
    return entries, seen, broken


def _items(
    entries: Sequence[Listed], seen: Sequence[Seen], alike: Sequence[tuple[int, int]], split: SplitSection
) -> list[Item]:
    by_regex = owner_groups([entry.id for entry in entries], split.group)
    groups = [entry.group or found for entry, found in zip(entries, by_regex, strict=True)]
    members = [
        splitting.Member(look.sha256, entry.label, group, entry.split)
        for entry, look, group in zip(entries, seen, groups, strict=True)
    ]
    joined = alike if split.near_duplicates else ()
    placed = splitting.place(members, joined, val=split.val, test=split.test, seed=split.seed)
    return [
        Item(
            id=entry.id,
            path=entry.path,
            label=entry.label,
            sha256=look.sha256,
            split=place.split,
            group=place.group,
            part_id=entry.part_id,
            weight=entry.weight,
            given_group=group,
            truth=entry.truth,
        )
        for entry, look, place, group in zip(entries, seen, placed, groups, strict=True)
    ]


def _with_truths(listing: Listing, recipe: Recipe) -> Listing:
    """Add what is marked in the pictures; formats that lie with the pictures are found by their layout."""
    from edge_sft.data.annotations.attaching import attach

    folders = [None if part is None else Path(part) for part in (recipe.data.annotations, recipe.data.masks)]
    if folders == [None, None]:
        if recipe.task.kind == "anomaly":
            return listing
        raise DataError(
            str(recipe.data.path),
            f"has nothing marked that {recipe.task.kind} could learn from",
            "Say in the recipe where it is: data.annotations (a folder of VOC's XML files) or data.masks.",
        )
    return attach(listing, annotations=folders[0], masks=folders[1], good=(*recipe.task.ok, GOOD))


def _check_trainable(dataset: Dataset, recipe: Recipe) -> None:
    if recipe.task.kind in ("detection", "segmentation"):
        if not any(item.truth is not None for item in dataset.split("train")):
            raise DataError(
                str(dataset.root), "has no marked picture to train on", "Check data.annotations and data.masks."
            )
        return
    if recipe.task.kind == "anomaly":
        if not any(item.label in recipe.task.ok for item in dataset.split("train")):
            wanted = _names(recipe.task.ok)
            raise DataError(
                str(dataset.root), f"has no picture of {wanted} to learn from", "Add some, or mend task.ok."
            )
        return
    usable = Counter(item.label for item in dataset.items)
    trained = Counter(item.label for item in dataset.split("train"))
    absent = [label for label in dataset.labels if not usable[label]]
    if absent:
        raise DataError(
            str(dataset.root),
            f"has no readable picture of {_names(absent)}",
            "Add pictures of them, or take them out of task.labels.",
        )
    untrained = [label for label in dataset.labels if not trained[label]]
    if untrained:
        raise DataError(
            str(dataset.root),
            f"has no picture of {_names(untrained)} to train on: all of them lie in val or test",
            "Move some to train, or pool the pictures in class folders and let the recipe's [data.split] cut them.",
        )


def _check_frozen(dataset: Dataset, frozen: str | None) -> None:
    if frozen is not None and dataset.test_fingerprint != frozen:
        raise DataError(
            "data.split.frozen_test",
            f"does not match: the test split now has {len(dataset.split('test'))} pictures and the fingerprint "
            f"{dataset.test_fingerprint}",
            "Pictures of the test split were added, changed, relabelled or lost: put them back, or accept the new test "
            "split by writing its fingerprint into the recipe (results are then not comparable with earlier ones).",
        )


def _names(labels: Sequence[str]) -> str:
    shown = ", ".join(f"'{label[:60]}'" for label in labels[:_SHOWN])
    return f"{shown} and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else shown


def _reasons(quarantined: Sequence[Quarantined]) -> str:
    counts = Counter(left.reason for left in quarantined)
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
