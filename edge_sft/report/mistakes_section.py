"""The worst mistakes as pictures: escapes first, then overkill, then mix-ups; the surest errors lead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.plant import defect_scores, is_defect
from edge_sft.report.basis import Basis
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import section
from edge_sft.report.pictures import figure
from edge_sft.report.wording import count, share

Picture = Callable[[str], "NDArray[Any] | None"]

_MOST = 12  # a group; more nobody looks at, and the page stays under a megabyte


def mistakes(basis: Basis, picture: Picture) -> Html:
    """Galleries of the worst mistakes on the page's split."""
    groups = [group for group in _groups(basis) if len(group[2])]
    if not groups:
        return section("Mistakes", f"None among {count(len(basis.scores.labels), 'picture')}.", name="mistakes")
    shown = [_gallery(basis, picture, title, told, order) for title, told, order in groups]
    told = f"From the {basis.split_words} split, the surest mistakes first."
    if basis.split == "test":
        told += " Changing the recipe because of these pictures uses the test split up: take new ones afterwards."
    return section("The worst mistakes", told, shown, name="mistakes", long=True)


Group = tuple[str, str, NDArray[np.int64]]


def _groups(basis: Basis) -> list[Group]:
    scores, task = basis.scores, basis.meta.task
    predicted = scores.probabilities.argmax(axis=1)
    wrong = predicted != scores.labels
    sure = scores.probabilities.max(axis=1)
    if basis.sorting:
        return [("Sorted wrongly", "by how sure the model was", _first(wrong, -sure))]
    evidence, defect = defect_scores(scores, task), is_defect(scores, task)
    rejected = evidence >= basis.meta.rule.threshold
    escaped, scrapped = defect & ~rejected, ~defect & rejected
    mixed = wrong & ~escaped & ~scrapped
    return [
        ("Escapes", "defects that were passed", _first(escaped, evidence)),
        ("Overkill", "good parts that were scrapped", _first(scrapped, -evidence)),
        ("Mix-ups", "decided rightly, named wrongly", _first(mixed, -sure)),
    ]


def _first(which: NDArray[np.bool_], key: NDArray[Any]) -> NDArray[np.int64]:
    found = np.flatnonzero(which)
    return np.asarray(found[np.argsort(key[found], kind="stable")], dtype=np.int64)


def _gallery(basis: Basis, picture: Picture, title: str, told: str, order: NDArray[np.int64]) -> Html:
    scores, labels = basis.scores, basis.meta.task.labels
    evidence = None if basis.sorting else defect_scores(scores, basis.meta.task)
    figures = []
    for index in order[:_MOST]:
        row = scores.probabilities[index]
        lines: list[Child] = [
            f"is {labels[int(scores.labels[index])]}, said {labels[int(row.argmax())]} ({share(float(row.max()))})"
        ]
        if evidence is not None:
            lines.append(f"evidence for a defect {evidence[index]:.3g}")
        name = scores.ids[int(index)]
        figures.append(figure(picture(name), name=name, lines=lines))
    more = f"; the {_MOST} worst of {len(order):,}" if len(order) > _MOST else f"; all {len(order):,}"
    head = el("h3", title, el("span", f" · {told}{more if len(order) > 1 else ''}", class_="soft"))
    return el("div", head, el("div", figures, class_="gallery"))
