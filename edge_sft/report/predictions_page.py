"""What `edge-sft predict --out FOLDER` decided, as one page: worst first, filtered without a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edge_sft.prediction import Prediction
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import page

SHOWN = 400  # pictures on the page, the worst; a page of thousands opens on no tablet
_ORDER = {"nok": 0, "no_decision": 1, "uncertain": 2, "ok": 3}
_WORDS = {"nok": "not ok", "no_decision": "no decision", "uncertain": "uncertain", "ok": "ok"}
_TOOLS = """
.pick{position:absolute;opacity:0}.picks{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 18px}
.picks label{border:1px solid var(--line);border-radius:999px;padding:4px 14px;cursor:pointer;font-size:14px}
#all:checked~.picks [for=all],#nok:checked~.picks [for=nok],#ok:checked~.picks [for=ok],
#uncertain:checked~.picks [for=uncertain],#no_decision:checked~.picks [for=no_decision]{background:var(--brand);
border-color:var(--brand);color:#fff}
.pick:focus-visible~.picks{outline:2px solid var(--brand);outline-offset:4px;border-radius:8px}
#nok:checked~.gallery figure:not(.is-nok),#ok:checked~.gallery figure:not(.is-ok),
#uncertain:checked~.gallery figure:not(.is-uncertain),
#no_decision:checked~.gallery figure:not(.is-no_decision){display:none}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:16px}
.gallery figure{margin:0;min-width:0}.gallery img{width:100%;height:auto;border-radius:8px;display:block}
.gallery figcaption{font-size:14px;overflow-wrap:anywhere;margin-top:6px}
.gallery figcaption span{display:block;color:var(--soft)}
.is-nok b{color:var(--escape)}.is-ok b{color:var(--good)}.is-uncertain b,.is-no_decision b{color:var(--overkill)}
.missing{background:var(--track);border-radius:8px;padding:48px 12px;text-align:center;color:var(--soft)}
"""


@dataclass(frozen=True)
class Row:
    """One picture on the page.

    Attributes:
        prediction: What was decided.
        link: Where its overlay lies, relative to the page; None where the picture could not be read.
    """

    prediction: Prediction
    link: str | None


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """Order rows: not ok, no decision, uncertain, ok; among equals the highest score first."""
    return sorted(rows, key=lambda row: (_ORDER[row.prediction.verdict], -(row.prediction.score or 0.0)))


def render(rows: Sequence[Row], thumbs: Sequence[str | None], *, model: str) -> str:
    """Return the page.

    Args:
        rows: All, worst first.
        thumbs: Data URIs of the first of them; the others are only counted.
        model: Which model decided.
    """
    counts: Counter[str] = Counter(row.prediction.verdict for row in rows)
    shown = rows[: len(thumbs)]
    kinds = [verdict for verdict in _ORDER if counts[verdict]]
    inputs = [
        el("input", class_="pick", type="radio", name="pick", id=each, checked="checked" if each == "all" else None)
        for each in ("all", *kinds)
    ]
    labels: list[Child] = [el("label", f"all {len(rows)}", for_="all")]
    labels += [el("label", f"{_WORDS[each]} {counts[each]}", for_=each) for each in kinds]
    gallery = [_figure(row, thumb) for row, thumb in zip(shown, thumbs, strict=True)]
    more = len(rows) - len(shown)
    note = el("p", f"The worst {len(shown)} of {len(rows)} are shown; predictions.csv has all.", class_="note")
    body = el(
        "section",
        el("h2", "Decisions, worst first"),
        el("p", "A picture opens in full size. Colours: yellow at the threshold, red from twice it on.", class_="sub"),
        inputs,
        el("div", labels, class_="picks"),
        note if more else None,
        el("div", gallery, class_="gallery"),
    )
    lede = ", ".join(f"{counts[each]} {_WORDS[each]}" for each in kinds)
    return page(
        title="Predictions",
        kicker=model,
        headline="Predictions",
        lede=lede,
        body=[Html(f"<style>{_TOOLS}</style>"), body],
        footer="predictions.csv and predictions.jsonl beside this page hold every decision.",
    )


def _figure(row: Row, thumb: str | None) -> Html:
    told = row.prediction
    name = told.name or ""
    image = el("img", src=thumb, alt=name, loading="lazy") if thumb else el("div", "no picture", class_="missing")
    lines: list[Child] = []
    if told.score is not None:
        lines.append(el("span", f"score {told.score:.3g}" + (f", {told.label}" if told.label else "")))
    if told.marks:
        longest = max((mark.length_mm or 0.0 for mark in told.marks), default=0.0)
        count = told.marks_found or len(told.marks)
        size = f", longest {longest:.3g} mm" if longest else ""
        lines.append(el("span", f"{count} {'mark' if count == 1 else 'marks'}{size}"))
    if told.reason:
        lines.append(el("span", told.reason))
    caption = el("figcaption", el("b", _WORDS[told.verdict]), " ", name, lines)
    linked = el("a", image, href=row.link) if row.link else image
    return el("figure", linked, caption, class_=f"is-{told.verdict}")
