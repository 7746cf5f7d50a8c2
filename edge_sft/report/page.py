"""The frame of every page: one HTML file, no script, no request, light and dark, paper."""

from __future__ import annotations

from edge_sft.report.markup import Child, Html, el, join, text

# A page that may not load or run anything, whatever a file name smuggled in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_CSS = """
:root{--page:#f5f6f8;--card:#fff;--ink:#171a21;--soft:#5a6372;--faint:#8a93a3;--line:#e1e5eb;--track:#eceff3;
--brand:#1f6feb;--brand-soft:#1f6feb1f;--escape:#d1242f;--escape-soft:#d1242f1c;--overkill:#bf7a00;
--overkill-soft:#e09b1024;--good:#1a7f45;--good-soft:#1a7f451c;--part:#c3cad5;--bar:#9aa7ba}
@media (prefers-color-scheme:dark){:root{--page:#0f1319;--card:#181d26;--ink:#e8ecf2;--soft:#a4aebd;--faint:#778294;
--line:#2a313d;--track:#242b36;--brand:#6ea8fe;--brand-soft:#6ea8fe26;--escape:#ff7b72;--escape-soft:#ff7b7226;
--overkill:#e3b341;--overkill-soft:#e3b34126;--good:#56d386;--good-soft:#56d38622;--part:#465061;--bar:#64728a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;color-scheme:light dark}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}
header{margin:0 0 28px}
.kicker{color:var(--soft);font-size:14px;margin:0 0 6px}
h1{text-wrap:balance;font-size:34px;line-height:1.15;letter-spacing:-.02em;margin:0 0 10px;overflow-wrap:anywhere}
h2{font-size:20px;letter-spacing:-.01em;line-height:1.3;margin:0 0 4px}
h3{font-size:15px;margin:20px 0 6px}
p,li,h2,h3,footer,svg text{overflow-wrap:anywhere}
p{margin:0 0 10px;max-width:76ch}
p:last-child{margin-bottom:0}
.lede{font-size:18px;line-height:1.5;color:var(--soft);max-width:64ch}
.soft,.note{color:var(--soft)}.note{font-size:14px}
section,.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:24px;margin:0 0 20px}
section>.sub{color:var(--soft);margin:0 0 18px;font-size:15px;max-width:96ch}
.two{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px;align-items:start}

.hero{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,6fr);gap:36px;align-items:center}
.figures{display:grid;gap:22px}.figures.three{grid-template-columns:repeat(auto-fit,minmax(240px,1fr))}
.figure b{display:block;font-size:44px;line-height:1;letter-spacing:-.03em;font-variant-numeric:tabular-nums}
.figure b small{font-size:20px;font-weight:500;letter-spacing:0;color:var(--soft)}
.figure span{display:block;margin-top:6px;font-weight:600}
.figure i{display:block;font-style:normal;color:var(--soft);font-size:14px}
.escape{color:var(--escape)}.overkill{color:var(--overkill)}.good{color:var(--good)}
.call{border-left:4px solid var(--brand);background:var(--brand-soft);border-radius:0 10px 10px 0;padding:14px 18px;
margin:20px 0 0}
.call.warn{border-color:var(--overkill);background:var(--overkill-soft)}
.call.bad{border-color:var(--escape);background:var(--escape-soft)}
.call+.call{margin-top:10px}
.key{display:flex;flex-wrap:wrap;gap:6px 18px;margin:14px 0 0;padding:0;list-style:none;font-size:14px;
color:var(--soft)}
.key li::before{content:"";display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:7px;
background:var(--c)}
svg{display:block;width:100%;height:auto;font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,
sans-serif}
svg text{fill:var(--soft)}svg .ink{fill:var(--ink);font-weight:600;
paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
svg .grid{stroke:var(--line);fill:none}svg .axis{stroke:var(--faint);fill:none}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}
.wide svg{min-width:600px}
tr.here td{background:var(--brand-soft)}tr.here td:first-child{box-shadow:inset 3px 0 var(--brand);padding-left:10px}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);font-size:13px;text-align:left;vertical-align:bottom}
th,td{padding:8px 12px 8px 0;border-bottom:1px solid var(--line)}
td{vertical-align:middle}
tr:last-child td,tr:last-child th{border-bottom:0}
.num{text-align:right}td.num{white-space:nowrap}th.num{text-align:right}td.num{white-space:nowrap}
td svg{width:150px}
.name{overflow-wrap:anywhere;min-width:7em}
.matrix{width:auto;border-collapse:separate;border-spacing:3px}
.matrix th,.matrix td{border:0;padding:8px 10px;text-align:center}
.matrix td{border-radius:8px;min-width:64px;line-height:1.25}
.matrix td small{display:block;color:var(--soft);font-size:12px}
.matrix th[scope=row]{vertical-align:middle;text-align:right;
color:var(--ink);font-size:14px;max-width:12em;overflow-wrap:break-word}
.matrix th[scope=col]{max-width:9em;overflow-wrap:break-word}
.chip{display:inline-block;border-radius:99px;padding:1px 10px;font-size:13px;font-weight:600;white-space:nowrap;
background:var(--track);color:var(--soft)}
.chip.good{background:var(--good-soft);color:var(--good)}.chip.bad{background:var(--escape-soft);color:var(--escape)}
.chip.warn{background:var(--overkill-soft);color:var(--overkill)}
.finding{border-top:1px solid var(--line);padding:14px 0}.finding:first-of-type{border-top:0;padding-top:0}
.finding:last-child{padding-bottom:0}.finding b{font-weight:600}
.side{display:flex;flex-wrap:wrap;gap:20px 56px;align-items:flex-start}.side>*{min-width:0;max-width:100%}
.two h3,.side h3{margin-top:0}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:16px;margin:10px 0 0}
figure{margin:0;min-width:0}
figure .frame{background:var(--track);border-radius:10px;height:148px;display:flex;align-items:center;
justify-content:center;overflow:hidden;color:var(--faint);font-size:13px}
figure img{max-width:100%;max-height:100%;display:block}
figcaption{font-size:13px;line-height:1.4;margin-top:6px;overflow-wrap:anywhere}
figcaption span{display:block;color:var(--soft)}
dl{display:grid;grid-template-columns:minmax(9em,auto) minmax(0,1fr);gap:6px 20px;margin:0;font-size:15px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code,.mono{font:13px ui-monospace,SFMono-Regular,Consolas,"DejaVu Sans Mono",monospace}
ul.plain{margin:0;padding-left:1.2em}ul.plain li{margin:0 0 8px;max-width:72ch}
footer{color:var(--faint);font-size:13px;margin-top:28px}
@media (max-width:760px){main{padding:24px 14px 40px}section,.card{padding:18px;border-radius:12px}
.two,.hero{grid-template-columns:minmax(0,1fr)}.hero{gap:24px}h1{font-size:28px}
.figure b{font-size:38px}.lede{font-size:17px}dl{grid-template-columns:minmax(0,1fr);gap:0}dd{margin-bottom:8px}}
@media print{:root{--page:#fff;--card:#fff;--ink:#000;--soft:#444;--faint:#666;--line:#ccc;--track:#eee;
--brand:#1f6feb;--escape:#b3151f;--overkill:#9a6200;--good:#12653a;--part:#bbb;--bar:#8a97aa;
--brand-soft:#e9f0fd;--escape-soft:#fbe9ea;--overkill-soft:#fbf3e2;--good-soft:#e6f3eb}
body{font-size:12px;-webkit-print-color-adjust:exact;print-color-adjust:exact}main{max-width:none;padding:0}
section,.card{break-inside:avoid;padding:14px}section.long{break-inside:auto}figure,tr{break-inside:avoid}}
"""


def page(*, title: str, kicker: str, headline: Child, lede: Child, body: Child, footer: Child) -> str:
    """Put a page together: self-contained HTML text, UTF-8."""
    head = join(
        [
            el("meta", charset="utf-8"),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            el("meta", name="referrer", content="no-referrer"),
            el("title", title),
            Html(f"<style>{_CSS.strip()}</style>"),
        ]
    )
    top = el("header", el("p", kicker, class_="kicker"), el("h1", headline), el("p", lede, class_="lede"))
    main = el("main", top, body, el("footer", footer))
    return f"<!doctype html>\n{el('html', el('head', head), el('body', main), lang='en')}\n"


def section(title: str, sub: Child, *body: Child, name: str, long: bool = False) -> Html:
    """A card with a heading and one sentence under it; ``long`` ones may break over printed pages."""
    lead = el("p", sub, class_="sub") if sub else None
    return el("section", el("h2", title), lead, body, id=name, class_="long" if long else None)


def callout(body: Child, kind: str = "") -> Html:
    """A remark that must not be missed; ``kind`` is "", "warn" or "bad"."""
    return el("div", el("p", body), class_=f"call {kind}".strip())


def chip(label: str, kind: str = "") -> Html:
    """A word in a pill; ``kind`` is "", "good", "warn" or "bad"."""
    return el("span", label, class_=f"chip {kind}".strip())


def table(
    head: list[Child],
    rows: list[list[Child]],
    *,
    numeric: frozenset[int] = frozenset(),
    marked: frozenset[int] = frozenset(),
) -> Html:
    """A table that scrolls inside itself where the page is narrow.

    ``numeric`` columns are right-aligned, ``marked`` rows stand out.
    """

    def cells(tag: str, row: list[Child]) -> list[Html]:
        return [el(tag, cell, class_="num" if i in numeric else None) for i, cell in enumerate(row)]

    body = [el("tr", cells("td", row), class_="here" if i in marked else None) for i, row in enumerate(rows)]
    return el("div", el("table", el("thead", el("tr", cells("th", head))), el("tbody", body)), class_="scroll")


def facts(pairs: list[tuple[str, Child]]) -> Html:
    """A list of terms and what they are."""
    return el("dl", [[el("dt", term), el("dd", value)] for term, value in pairs])


def legend(items: list[tuple[str, str]]) -> Html:
    """Colours and their meaning: (CSS variable, words)."""
    return el("ul", [el("li", words, style=f"--c:var(--{colour})") for colour, words in items], class_="key")


def mono(value: object) -> Html:
    """Text in a typewriter face."""
    return el("span", text(value), class_="mono")
