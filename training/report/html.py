"""Self-contained HTML pages: one file, its pictures and style inside, readable on a phone."""

import base64
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --blue: #0969da }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; padding-top: 0.75rem;
  border-top: 1px solid var(--line) }
p, li { max-width: 46rem }
code, pre { font: 0.9em/1.5 ui-monospace, monospace }
pre { background: #f6f8fa; border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.5rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.93rem }
th, td { border-bottom: 1px solid var(--line); padding: 0.35em 0.8em 0.35em 0; text-align: left;
  vertical-align: top }
th { color: var(--soft); font-weight: 600 }
.pictures { display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)) }
figure { margin: 0 }
img { max-width: 100%; height: auto; display: block }
figcaption { color: var(--soft); font-size: 0.9rem; max-width: 46rem }
.figures { display: grid; gap: 0.75rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)) }
.figures div { border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 0.8rem }
.figures b { display: block; font-size: 1.5rem; line-height: 1.3 }
.figures span { color: var(--soft); font-size: 0.9rem }
.next { border-left: 4px solid var(--blue); padding: 0.1rem 0 0.1rem 1rem; margin: 1.5rem 0 }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: Its heading, as plain text.
        parts: HTML, from the functions of this module.
    """
    title = html.escape(title)
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{title}</h1>",
        *parts,
        "</html>\n",
    ]
    return "\n".join(lines)


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts, which scrolls by itself where the screen is narrow."""
    lines = [_row(header, "th"), *(_row(row, "td") for row in rows)]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def picture(png: bytes, description: str, caption: str = "") -> str:
    """A picture inside the page.

    Args:
        png: The bytes of the file.
        description: Text for readers who cannot see the picture.
        caption: Plain text below it.
    """
    data = base64.b64encode(png).decode()
    image = f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{text}</figure>"


def pictures(figures: Sequence[str]) -> str:
    """Pictures beside each other where the screen is wide enough, below each other elsewhere."""
    return '<div class="pictures">' + "\n".join(figures) + "</div>"


def key_figures(figures: Sequence[tuple[str, str]]) -> str:
    """Large values, each with its name."""
    cells = (
        f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>"
        for value, label in figures
    )
    return '<div class="figures">' + "".join(cells) + "</div>"


def next_steps(steps: Sequence[tuple[str, str]]) -> str:
    """What to do next: sentences, each with a command, which may be empty."""
    lines = [
        f"<li>{html.escape(text)}"
        + (f"<pre>{html.escape(command)}</pre>" * bool(command))
        + "</li>"
        for text, command in steps
    ]
    return '<div class="next"><strong>What to do next</strong><ul>' + "".join(lines) + "</ul></div>"


def details(summary: str, text: str) -> str:
    """Preformatted text that opens when its summary is clicked."""
    summary, text = html.escape(summary), html.escape(text)
    return f"<details><summary>{summary}</summary><pre>{text}</pre></details>"
