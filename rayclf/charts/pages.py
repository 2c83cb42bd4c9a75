"""A page: its style, its heading, its tables. All that is given as text is escaped here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LIGHT = {
    "ink": "#1f2937", "paper": "#ffffff", "soft": "#6b7280", "rule": "#e5e7eb", "c0": "#2563eb", "c1": "#dc2626",
    "c2": "#047857", "c3": "#b45309", "c4": "#7c3aed", "c5": "#0e7490", "c6": "#be185d", "c7": "#4d7c0f",
}  # fmt: skip
DARK = {
    "ink": "#e5e7eb", "paper": "#111827", "soft": "#9ca3af", "rule": "#374151", "c0": "#60a5fa", "c1": "#f87171",
    "c2": "#34d399", "c3": "#fbbf24", "c4": "#a78bfa", "c5": "#22d3ee", "c6": "#f472b6", "c7": "#a3e635",
}  # fmt: skip

# What XML cannot hold.
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


_STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; }} h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .5rem; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }} table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid var(--rule); vertical-align: top; }}
th {{ text-align: right; color: var(--soft); font-weight: 600; white-space: nowrap; }}
td {{ text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
td:first-child, th:first-child, .words td, .words th {{ text-align: left; }}
td:first-child, .words td {{ overflow-wrap: anywhere; min-width: 4rem; }}
figure {{ margin: 1.2rem 0; }} figcaption {{ font-weight: 600; }}
svg {{ display: block; width: 100%; max-width: 720px; height: auto; margin: .4rem 0 1rem; }}
text {{ font: 12px system-ui, sans-serif; fill: var(--soft); }} .small {{ font-size: 10px; }}
.rule {{ stroke: var(--rule); }} .note {{ color: var(--soft); }} .ink {{ color: var(--ink); }}
.soft {{ color: var(--soft); }}
{" ".join(f".{name} {{ color: var(--{name}); }}" for name in LIGHT if name[1:].isdigit())}
text[class] {{ fill: currentColor; }}
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML page: the title as its heading, then the sections, which are HTML already."""
    name = escape(title)
    head = (
        f'<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{name}</title>'
        f"<style>{_STYLE}</style></head>"
    )
    body = "\n".join([f"<h1>{name}</h1>", *sections])
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def heading(text: str) -> str:
    """The heading of what follows."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """A line in a softer colour."""
    return f'<p class="note">{escape(text)}</p>'


def legible(text: str) -> str:
    """``text`` with U+FFFD for each character that XML cannot hold and no font can draw, such as NUL."""
    return _NOT_XML.sub("\ufffd", text)


def escape(text: str) -> str:
    """``text`` for HTML and XML, see also :func:`legible`."""
    return html.escape(legible(text))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], words: bool = False) -> str:
    """An HTML table; fractions in four digits, a dash for what is undefined.

    An empty ``header`` has no row. Cells are set for numbers, to the right, but for the first; with ``words`` all of
    them to the left.
    """

    def cell(value: Any) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "–"
        return f"{value:.4f}" if isinstance(value, float) else escape(str(value))

    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr>" if header else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    kind = "wide words" if words else "wide"
    return f'<div class="{kind}"><table>{head}{body}</table></div>'
