"""An inspection as sentences, for the terminal and the page alike, and as a self-contained HTML page with plots."""

from __future__ import annotations

import html
import os

from rayclf import charts, storage
from rayclf.data.duplicates import Place
from rayclf.data.inspect import Inspection, Rows
from rayclf.data.label_facts import RARE, LabelCount
from rayclf.data.token_lengths import TokenLengths

MOST = 20  # labels and reasons that are listed; JSON has all
Facts = list[tuple[str, str]]


def percent(share: float) -> str:
    """A share as a percentage: enough digits to tell few from none."""
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else f"{100 * share:.2g} %"


def row_facts(rows: Rows) -> Facts:
    """How many rows were read, kept and set aside, and why."""
    facts = [("read", f"{rows.read} rows = {rows.kept} kept + {rows.quarantined} that cannot be used")]
    for reason in rows.reasons[:MOST]:
        facts.append((f"{reason.rows} rows", f"{reason.reason} (first: {_place(reason.example)})"))
    if len(rows.reasons) > MOST:
        rest = sum(reason.rows for reason in rows.reasons[MOST:])
        facts.append((f"{rest} rows", f"{len(rows.reasons) - MOST} more reasons"))
    return facts


def label_facts(found: Inspection) -> Facts:
    """The problem type, and how many labels there are and how uneven."""
    labels, uneven = found.labels, found.labels.imbalance
    facts = [("problem type", f"{found.problem_type or 'none'}: {found.problem_type_why}")]
    declared = f", {uneven.without_rows} of them declared but in no row" if labels.declared else ""
    facts.append(("labels", f"{labels.size}{declared}"))
    facts.append(("imbalance", f"{uneven.ratio:.1f} times as many rows of the most as of the least frequent label"))
    facts.append(("most frequent", f"{percent(uneven.largest_share)} of the rows"))
    facts.append((f"under {RARE} rows", f"{uneven.rare} labels"))
    if found.problem_type != "multiclass":
        facts.append(("labels a row", f"{labels.mean_per_row:.2f} on average, at most {labels.max_per_row}"))
    if labels.unknown_targets:
        facts.append(("unknown", f"{labels.unknown_targets} targets"))
    return facts


def label_bars(found: Inspection) -> list[LabelCount]:
    """The most frequent labels, and the other side of a binary one."""
    labels = found.labels
    bars = list(labels.counts[:MOST])
    if labels.negative is not None and bars:
        name = bars[0].name
        bars.append(LabelCount("negative" if name == "positive" else f"not {name}", labels.negative, bars[0].unknown))
    return bars


def token_facts(tokens: TokenLengths) -> Facts:
    """Lengths of the texts in tokens."""
    of = f"{tokens.rows} rows, a sample" if tokens.sampled else f"all {tokens.rows} rows"
    limit = f", which takes {tokens.limit}" if tokens.limit else ""
    return [
        ("tokenizer", f"{tokens.backbone}{limit}"),
        ("measured on", of),
        ("tokens", f"mean {tokens.mean:.1f}, median {tokens.median}, p95 {tokens.p95}, p99 {tokens.p99}, "
                   f"max {tokens.max}"),
    ]  # fmt: skip


def other_facts(found: Inspection) -> Facts:
    """Duplicates, what is shared with the test rows, scripts."""
    same = found.duplicates
    facts = [("duplicates", f"{same.rows} rows have a text seen before")]
    facts.append(
        ("conflicts", f"{same.conflicting_texts} texts, in {same.conflicting_rows} rows, have different labels")
    )
    facts += [("such as", ", ".join(map(_place, places))) for places in same.examples]
    if found.test is not None:
        shared = found.test.shared
        facts.append(("in the test too", f"{shared.texts} texts, which {shared.rows} of its rows hold"))
    if found.scripts:
        told = ", ".join(f"{name} {percent(share)}" for name, share in found.scripts.items())
        facts.append(("letters", f"{told} (of the first {min(found.rows.read, found.sampled_rows)} rows)"))
    return facts


def _place(place: Place) -> str:
    return f"{place.file} row {place.row}"


def render_page(found: Inspection) -> str:
    """The HTML page of an inspection: no script, nothing loaded from elsewhere, no text of the data."""
    columns = [(c.name, c.role, c.why, c.nulls, c.distinct, "numbers" if c.numeric else "text") for c in found.columns]
    sections = [
        _note(f"{found.files} file(s); text: {found.reads}; label: column {found.label}"),
        *(_note(f"Look at this: {hint}") for hint in found.hints),
        "<h2>Rows</h2>",
        _table(row_facts(found.rows)),
        f"<h2>Columns, by the first {found.sampled_rows} rows</h2>",
        charts.table(("column", "role", "why", "nulls", "distinct", "values"), columns),
        "<h2>Labels</h2>",
        _table(label_facts(found)),
        charts.bar_chart([(bar.name, bar.rows) for bar in label_bars(found)], "rows of a label", "rows"),
    ]
    if len(found.labels.counts) > MOST:
        sections.append(_note(f"{len(found.labels.counts) - MOST} more labels; --json has all"))
    per_row = found.labels.per_row
    if found.problem_type != "multiclass" and len(per_row) > 1:
        edges = [size - 0.5 for size in range(len(per_row) + 1)]
        sections += ["<h2>Labels a row</h2>", charts.histogram(edges, per_row, "labels of a row")]
    sections += ["<h2>Token lengths</h2>", *_token_sections(found)]
    sections += ["<h2>Texts</h2>", _table(other_facts(found))]
    if found.test is not None:
        sections += [f"<h2>Test rows, {html.escape(found.test.place)}</h2>", _table(row_facts(found.test.rows))]
    return charts.page(found.place, sections)


def _token_sections(found: Inspection) -> list[str]:
    tokens = found.tokens
    if tokens is None:
        return [_note(found.tokens_note or "")]
    marks = {
        str(cut.max_length): float(cut.max_length) for cut in tokens.truncation if cut.max_length <= tokens.edges[-1]
    }
    cuts = [(cut.max_length, percent(cut.texts), percent(cut.tokens)) for cut in tokens.truncation]
    sections = [
        _table(token_facts(tokens)),
        charts.histogram(tokens.edges, tokens.counts, "tokens of a text", list(marks.items())),
        charts.table(("model.max_length", "texts cut", "tokens lost"), cuts),
    ]
    if tokens.beyond:
        sections.insert(2, _note(f"{tokens.beyond} texts are longer than is drawn"))
    return sections


def _table(facts: Facts) -> str:
    return charts.table(("", ""), facts)


def _note(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"


def write_report(found: Inspection, place: str | os.PathLike[str]) -> None:
    """Write :func:`render_page` to a file, whole or not at all."""
    with storage.write_whole(place) as file:
        file.write(render_page(found).encode())
