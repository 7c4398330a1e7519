"""A model's report as one page to read, with no script, and no picture or font from elsewhere; its links lead somewhere only where it was served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Literal

from app.api.schemas import ReportView
from app.bundle import Bin, Confusion, Discernment, Measure, Rate
from app.measures import FINDINGS, MEASURES, RULES

End = Literal["floor", "ceiling"]

MEANINGS = {name: measure.text for name, measure in MEASURES.items()} | RULES | FINDINGS
PRIVACY = ("dcr_closer_to_train", "near_copies", "exact_copies", "nndr", "dcr_p1", "dcr_p5", "dcr_p50")
CLASSIFICATION = ("accuracy", "accuracy_within_1", "mad", "r2", "log_loss")
KNOWS = (
    "The score that it expects of a wine, beside the taster's. Floor: always the training wines' most frequent score; for r2 and log_loss, how often each "
    "occurs. No ceiling: how far a taster agrees with himself is not known. ± over resampled wines."
)
ASKED_AND_RATED = (
    "Trees that learned quality from real wines rate wines that were asked for at each quality: shares of a row. In small: what they make of real wines."
)
TOLD_APART = {  # what each judge's p_real is about, beside real wines
    "discriminator": "this model's own",
    "critic": "its mixture of others: this model's own, real ones tampered with, and shuffled columns",
}
LEAST_SPAN = 1e-9  # floor and ceiling nearer than this leave no room for a bar
BAR = 180.0  # pixels from floor to ceiling
MARGIN = 24.0  # pixels on both sides, for values beyond them
CHART = 200.0  # pixels of a side of the reliability chart
DOT = 7.0  # pixels, the radius of the fullest bin

STYLE = """
:root{color-scheme:light dark;--ink:#2b2024;--dim:#7a6b70;--line:#e4dadd;--wine:#8b1e3f;--page:#fffdfb}
@media(prefers-color-scheme:dark){:root{--ink:#efe6e8;--dim:#a89a9f;--line:#43363b;--wine:#e0708f;--page:#1d1719}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.3rem 0;max-width:46rem}small,.dim,caption{color:var(--dim)}a{color:var(--wine)}code{overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}caption{text-align:left;padding:.9rem 0 .2rem}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;font-weight:400}
thead th{color:var(--dim);vertical-align:bottom}th:first-child,td:first-child{text-align:left}th small{display:block;max-width:22rem}
td.heat{padding:.25rem .6rem;text-align:center;border:1px solid var(--page)}td small{display:block}
.note{border-left:3px solid var(--wine);padding-left:.7rem}.side{display:flex;flex-wrap:wrap;gap:2rem;align-items:flex-start}
svg{display:block}.track{stroke:var(--line);stroke-width:4}.spread{stroke:var(--wine);stroke-width:4;opacity:.35}.mark{fill:var(--wine)}
.end{stroke:var(--dim);stroke-width:1.5}.dot{fill:var(--wine);opacity:.75}.axis{fill:none;stroke:var(--line)}
"""


def render(report: ReportView) -> str:
    """The page, complete."""
    title = f"Cuvée: report of {report.model}"
    privacy, classification = ({name: m for name, m in report.measures.items() if name in group} for group in (PRIVACY, CLASSIFICATION))
    others = {name: m for name, m in report.measures.items() if name not in (*PRIVACY, *CLASSIFICATION)}
    end: End = "floor" if classification else "ceiling"
    in_brackets = "In brackets: the floor." if classification else "In brackets: other real wines."
    sections = [
        _head(report),
        _section(
            "How good it is",
            "Floor: real wines with each column shuffled by itself. Ceiling: other real wines. ± over stretches of its rows.",
            _measures(others),
        ),
        _section("What it gives away", _privacy_ends(report), _measures(privacy)),
        _section("How well it knows quality", KNOWS, _measures(classification)),
        _section("By type", in_brackets, _by(report.by_type, end)),
        _section("By quality", in_brackets, _by({str(quality): part for quality, part in report.by_quality.items()}, end)),
        _section("Asked and rated", ASKED_AND_RATED, "".join(_confusion(name, table) for name, table in report.confusion.items())),
        _section("Plausibility", "Share of wines for which a rule holds.", _plausibility(report.plausibility)),
        _section("What its method found", "Figures that not every method has.", _findings(report.findings)),
        _section(
            "What its judges know",
            "How far p_real can be taken at its word.",
            "".join(_judge(*named, in_sample=report.in_sample) for named in report.judges.items()),
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _head(report: ReportView) -> str:
    lineage = report.lineage
    measured = "its own training wines" if report.in_sample else "wines that it never saw"
    lines = [
        f"{escape(report.method)}, trained in {lineage.train_wall_s:,.0f} s ({escape(lineage.device)}) on {lineage.train_rows:,} rows "
        f"of {escape(lineage.dataset_id)}{' (synthetic)' if lineage.dataset_synthetic else ''}; measured on {report.rows:,} {measured}.",
        *([f"It pours from a pool of {report.pool:,} rows made in advance, again and again: a long table repeats itself."] if report.pool else []),
        *([f"A CPU-second of the machine that trained it pours {report.rows_per_cpu_s:,.0f} rows."] if report.rows_per_cpu_s is not None else []),
        f'<span class="dim">Split: holdout {lineage.holdout:g}, split_seed {lineage.split_seed}. Seed {lineage.seed}. Protocol {report.protocol}. '
        f"Code {escape(lineage.code_version)}. Dataset SHA-256 <code>{escape(lineage.dataset_sha256)}</code></span>",
        " · ".join(f'<a href="/models/{escape(report.model)}/{path}">{text}</a>' for path, text in _LINKS),
    ]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in [*report.notes, *lineage.warnings])
    return f"<h1>Report of model {escape(report.model)}</h1>" + "".join(f"<p>{line}</p>" for line in lines) + notes


_LINKS = (
    ("report?format=json", "this report as JSON"),
    ("bundle", "the model"),
    ("rows?part=train&amp;format=csv", "the wines it was trained on"),
    ("rows?part=holdout&amp;format=csv", "the wines held out"),
)


def _section(title: str, about: str, content: str) -> str:
    """Nothing where there is nothing to show."""
    return f"<h2>{escape(title)}</h2><p class=dim>{escape(about)}</p>{content}" if content else ""


def _measures(measures: Mapping[str, Measure]) -> str:
    rows = [[_named(name), _value(m), _number(m.floor), _bar(m), _number(m.ceiling)] for name, m in measures.items()]
    return _table(["", "value", "floor", "", "ceiling"], rows)


def _by(parts: Mapping[str, Mapping[str, Measure]], end: End) -> str:
    names = dict.fromkeys(name for part in parts.values() for name in part)
    return _table(["", *map(escape, parts)], [[escape(name), *(_beside(part.get(name), end) for part in parts.values())] for name in names])


def _beside(measure: Measure | None, end: End) -> str:
    if measure is None:
        return _number(None)
    other = measure.ceiling if end == "ceiling" else measure.floor
    return _value(measure) + (f"<small>({_number(other)})</small>" if other is not None else "")


def _confusion(name: str, confusion: Confusion) -> str:
    head = ["asked", *(f"rated {q}" for q in confusion.qualities), "real rows"]
    parts = zip(confusion.qualities, confusion.generated, confusion.real, confusion.real_rows, strict=True)
    rows = [[str(q), *(_heat(*pair) for pair in zip(generated, real, strict=True)), f"{count:,}"] for q, generated, real, count in parts]
    caption = f"{escape(name)}: gap {_number(confusion.gap)} (half the sum of absolute differences of a row, mean over generated wines)"
    return _table(head, rows, caption=caption)


def _heat(generated: float, real: float) -> str:
    """A cell of its own, for its colour; ``_table`` takes it as it is."""
    return f'<td class=heat style="background:rgba(139,30,63,{0.45 * min(1.0, max(0.0, generated)):.2f})">{generated:.2f}<small>{real:.2f}</small></td>'


def _plausibility(rates: Mapping[str, Rate]) -> str:
    return _table(["", "generated", "real"], [[_named(name), _number(rate.generated), _number(rate.real)] for name, rate in rates.items()])


def _findings(findings: Mapping[str, Mapping[str, float]]) -> str:
    """Small tables; findings about the same things are columns of one."""
    tables: list[dict[str, Mapping[str, float]]] = []
    for name, values in findings.items():
        same = next((table for table in tables if any(values.keys() & others.keys() for others in table.values())), None)
        if same is None:
            tables.append({name: values})
        else:
            same[name] = values
    drawn = "".join(
        _table(["", *map(_named, table)], [[escape(of), *(_figure(values.get(of)) for values in table.values())] for of in _keys(table)]) for table in tables
    )
    return f"<div class=side>{drawn}</div>" if drawn else ""


def _keys(parts: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    return dict.fromkeys(of for part in parts.values() for of in part)


def _privacy_ends(report: ReportView) -> str:
    """Without a holdout there is no ceiling to explain."""
    return "Floor: a copier of training wines." + ("" if report.in_sample else " Ceiling: real wines that training never saw.")


def _judge(name: str, judge: Discernment, *, in_sample: bool) -> str:
    figures = [
        ["AUC against its own wines", _number(judge.auc)],
        ["AUC against shuffled columns", _number(judge.auc_shuffled)],
        ["Brier score (0.25: always says 0.5)", _number(judge.brier)],
    ]
    bins = [[_number(b.predicted), _number(b.observed), f"{b.rows:,}"] for b in judge.reliability]
    tables = _table([], figures) + _table(["predicted", "observed", "rows"], bins)
    real = "real wines from the training rows" if in_sample else "real wines that training never saw"
    about = f"<p class=dim>Brier score and reliability: on {real} and on {escape(TOLD_APART[name])}.</p>" if name in TOLD_APART else ""
    return f"<h3>{escape(name)}</h3>{about}<div class=side>{_chart(judge.reliability)}{tables}</div>"


def _chart(bins: Iterable[Bin]) -> str:
    """Predicted (right) against observed (up); on the diagonal a judge is right, and the fuller a bin the larger its dot."""
    known = list(bins)
    fullest = max((b.rows for b in known), default=1)
    dots = "".join(
        f'<circle class=dot cx="{b.predicted * CHART:.1f}" cy="{(1 - b.observed) * CHART:.1f}" r="{2 + (DOT - 2) * (b.rows / fullest) ** 0.5:.1f}"/>'
        for b in known
    )
    frame = f'<rect class=axis width="{CHART:g}" height="{CHART:g}"/><path class=axis d="M0 {CHART:g}L{CHART:g} 0"/>'
    box = f"{-DOT:g} {-DOT:g} {CHART + 2 * DOT:g} {CHART + 2 * DOT:g}"
    drawn = f'<svg width="{CHART:g}" height="{CHART:g}" viewBox="{box}" role="img" aria-label="observed against predicted">{frame}{dots}</svg>'
    return f"<div>{drawn}<small>predicted →, observed ↑, from 0 to 1</small></div>"


def _bar(measure: Measure) -> str:
    """The value on the way from floor (left) to ceiling (right), whichever of the two is the greater number."""
    if measure.floor is None or measure.ceiling is None or abs(measure.ceiling - measure.floor) < LEAST_SPAN:
        return ""
    floor, span = measure.floor, measure.ceiling - measure.floor
    ends = [_at((value - floor) / span) for value in (measure.value - (measure.spread or 0.0), measure.value + (measure.spread or 0.0))]
    parts = [
        f'<path class=track d="M{MARGIN:g} 10H{MARGIN + BAR:g}"/>',
        f'<path class=end d="M{MARGIN:g} 3V17M{MARGIN + BAR:g} 3V17"/>',
        f'<path class=spread d="M{min(ends):.1f} 10H{max(ends):.1f}"/>',
        f'<circle class=mark cx="{_at((measure.value - floor) / span):.1f}" cy="10" r="5"/>',
    ]
    return f'<svg width="{BAR + 2 * MARGIN:g}" height="20" role="img" aria-label="{(measure.value - floor) / span:.0%} of the way">{"".join(parts)}</svg>'


def _at(share: float) -> float:
    """Pixels from the left; values far beyond either end stay on the picture."""
    return min(max(MARGIN + share * BAR, 5.0), BAR + 2 * MARGIN - 5.0)


def _named(name: str) -> str:
    return f"{escape(name)}<small>{escape(MEANINGS[name])}</small>" if name in MEANINGS else escape(name)


def _value(measure: Measure) -> str:
    return _number(measure.value) + (f" <span class=dim>± {measure.spread:.3f}</span>" if measure.spread is not None else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _figure(value: float | None) -> str:
    """A number of any size: whole from a thousand, four digits below, and a power of ten where there would be only zeros."""
    if value is None:
        return _number(None)
    size = abs(value)
    if 1e3 <= size < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size == 0 or 1e-3 <= size < 1e3 else f"{value:.2e}"


def _table(head: list[str], rows: list[list[str]], *, caption: str = "") -> str:
    """Cells are HTML already; the first of a row names it. Nothing without rows."""
    if not rows:
        return ""
    top = "<thead><tr>" + "".join(f"<th scope=col>{cell}</th>" for cell in head) + "</tr></thead>" if head else ""
    body = "".join(f"<tr><th scope=row>{first}</th>{''.join(c if c.startswith('<td') else f'<td>{c}</td>' for c in rest)}</tr>" for first, *rest in rows)
    named = f"<caption>{caption}</caption>" if caption else ""
    return f"<div class=wide><table>{named}{top}<tbody>{body}</tbody></table></div>"
