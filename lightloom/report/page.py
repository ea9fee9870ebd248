"""HTML pages of results: one file, no network, no scripts; light, dark and on paper.

Here are the parts that any page is made of; every text is escaped where it enters.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..instruments.files import write_output
from ..instruments.text import printable

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5f6870; --rule: #d5dade;
  --paper: #ffffff; --series-1: #1f6fb4; --series-2: #b4521f; --series-3: #2f8555;
  --series-4: #7d4fa3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #98a2ab; --rule: #363d44;
  --paper: #15181b; --series-1: #6cb2ee; --series-2: #e8946a; --series-3: #77c799;
  --series-4: #c19be0; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --rule: #bbb;
  --paper: #fff; --series-1: #1f6fb4; --series-2: #b4521f; --series-3: #2f8555;
  --series-4: #7d4fa3; }
  html { font-size: 11px !important; }
  body { margin: 0 !important; max-width: none !important; }
  .plots { grid-template-columns: 1fr 1fr !important; } }
html { font-size: 15px; }
body { margin: 2.5rem auto; max-width: 62rem; padding: 0 1.2rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--rule);
  padding-bottom: .2rem; break-after: avoid; }
p { margin: .3rem 0; max-width: 46rem; }
p.lead, figcaption { color: var(--soft); }
p.mark { font-weight: 600; color: var(--series-2); }
ul { margin: .3rem 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: .3rem 0 .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .22rem 1.1rem .22rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
th[scope=row] { font-weight: 400; color: var(--soft); white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
tr { break-inside: avoid; }
tr.total td { font-weight: 600; border-bottom: 0; }
section section h2 { font-size: 1rem; margin-top: 1.4rem; border: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .7rem;
  margin: 1.1rem 0; }
.card { border: 1px solid var(--rule); border-radius: .4rem; padding: .6rem .8rem;
  break-inside: avoid; }
.card b { display: block; font-size: 1.35rem; font-weight: 600; line-height: 1.3;
  overflow-wrap: anywhere; }
.card span { display: block; color: var(--soft); font-size: .87rem; line-height: 1.35; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .87rem; margin: .3rem 0 .9rem; }
details { margin: .9rem 0; }
summary { cursor: pointer; color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem;
  margin-top: .9rem; }
@media (max-width: 32rem) { .plots { grid-template-columns: 1fr; } }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .87rem; }
figure svg { width: 100%; height: auto; }
svg text { font-family: inherit; }
"""


def page(kind: str, title: str, lead: str, *parts: str) -> str:
    """Return a whole page.

    Parameters
    ----------
    kind : of page, by which a later one may replace it (see `files.check_output`)
    title, lead : text: what it is about, and a sentence below
    parts : HTML, as the functions of this module give it
    """
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{kind}">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escaped(title)}</h1>\n<p class="lead">{escaped(lead)}</p>\n{body}\n'
        "</body>\n</html>\n"
    )


def write_page(path: str | Path, content: str, kind: str) -> None:
    """Write a page, or a picture of one.

    Its control characters are written out: a terminal may show it, and SVG has none.

    Raises
    ------
    InputError : when it cannot be written, or something else is there
    """
    write_output(path, printable(content).encode("utf-8", "replace"), kind)


def escaped(text: object) -> str:
    """Return text as HTML shows it."""
    return html.escape(str(text))


def section(heading: str, *parts: str) -> str:
    """Return a part of a page under its heading (text)."""
    body = "\n".join(parts)
    return f"<section>\n<h2>{escaped(heading)}</h2>\n{body}\n</section>"


def paragraph(text: str) -> str:
    """Return text as a paragraph."""
    return f"<p>{escaped(text)}</p>"


def mark(text: str) -> str:
    """Return text that must not be overlooked, such as that numbers are simulated."""
    return f'<p class="mark">{escaped(text)}</p>'


def listing(texts: Iterable[str]) -> str:
    """Return texts as a list."""
    items = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>"


def cards(figures: Iterable[tuple[str, str, str]]) -> str:
    """Return the figures that count most: (name, value, what to know of it), each as text."""
    items = "\n".join(
        f'<div class="card"><span>{escaped(name)}</span><b>{escaped(value)}</b>'
        f"<span>{escaped(words)}</span></div>"
        for name, value, words in figures
    )
    return f'<div class="cards">\n{items}\n</div>'


def folded(summary: str, *parts: str) -> str:
    """Return a part of a page that opens when its summary (text) is clicked."""
    body = "\n".join(parts)
    return f"<details>\n<summary>{escaped(summary)}</summary>\n{body}\n</details>"


def verbatim(text: str) -> str:
    """Return text with its lines as they are."""
    return f"<pre>{escaped(text)}</pre>"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Iterable[int] = (),
    total: Sequence[object] | None = None,
) -> str:
    """Return a table of texts.

    Parameters
    ----------
    numbers : columns that are flush right
    total : a last row that stands out
    """
    right = set(numbers)

    def cells(row: Sequence[object], tag: str) -> str:
        marks = [' class="number"' if column in right else "" for column in range(len(row))]
        return "".join(
            f"<{tag}{mark}>{escaped(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True)
        )

    lines = [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    if total is not None:
        lines.append(f'<tr class="total">{cells(total, "td")}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{cells(headings, "th")}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Return what is what, as a table of names and texts without headings."""
    body = "\n".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(text)}</td></tr>'
        for name, text in rows
    )
    return f'<div class="wide"><table>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def drawings(pictures: Iterable[tuple[str, str]]) -> str:
    """Return drawings side by side, each (SVG of `drawing`, caption as text)."""
    figures = [
        f"<figure>\n{picture}\n<figcaption>{escaped(caption)}</figcaption>\n</figure>"
        for picture, caption in pictures
    ]
    return '<div class="plots">\n' + "\n".join(figures) + "\n</div>"
