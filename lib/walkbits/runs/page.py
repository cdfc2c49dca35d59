"""The run report: one HTML page without scripts or outside files; plots are inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Rows = Sequence[Mapping[str, Any]]

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #ddd; }
.failed { color: #b00020; } .published { color: #00622d; }
svg text { font: 11px system-ui, sans-serif; } figure { display: inline-block; margin: 0 2rem 1rem 0; }
"""

BLUE = "#1f5fa8"
WIDTH, HEIGHT, LEFT, BOTTOM = 420, 160, 48, 20


def page(root: str, runs: Rows, views: Mapping[str, Rows]) -> str:
    """The whole page.

    Args:
        runs: Rows of sql/monitoring/runs.sql, newest first.
        views: Rows of the other files of sql/monitoring, by name.
    """
    newest = runs[0]["run_id"] if runs else None
    cost = [row for row in views["cost"] if row["run_id"] == newest]
    sections = [
        ("Freshness", table(views["freshness"])),
        ("Runs", table(runs)),
        (
            f"Cost of {newest}",
            bars([(row["stage"], row["seconds"] or 0.0) for row in cost], "seconds") + table(cost),
        ),
        (
            "Seconds per run",
            line_chart([(row["run_id"], row["seconds"]) for row in reversed(runs)], "seconds"),
        ),
        ("Audit figures", "".join(charts(views["drift"])) + table(views["drift"])),
        ("Walk fidelity", table(views["fidelity"])),
    ]
    body = "".join(f"<h2>{escape(title)}</h2>\n{text}\n" for title, text in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>walkbits runs</title>'
        f"<style>{STYLE}</style></head>\n"
        f"<body><h1>walkbits runs under {escape(root)}</h1>\n{body}</body></html>\n"
    )


def table(rows: Rows) -> str:
    """Rows of one shape as an HTML table."""
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = "".join(
        f'<tr class="{escape(str(row.get("state", "")))}">'
        + "".join(f"<td>{escape('' if value is None else str(value))}</td>" for value in row.values())
        + "</tr>\n"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{lines}</table>"


def charts(drift: Rows) -> list[str]:
    """One chart per audit figure, oldest run first."""
    metrics = sorted({row["metric"] for row in drift})
    ordered = sorted(drift, key=lambda row: (str(row["ds"]), row["run_id"]))
    return [
        line_chart([(row["run_id"], row["value"]) for row in ordered if row["metric"] == metric], metric)
        for metric in metrics
    ]


def line_chart(points: Sequence[tuple[str, float]], title: str) -> str:
    """A value per run as a line; hovering over a point names its run."""
    finite = [(name, float(value)) for name, value in points if value is not None and value == value]
    if not finite:
        return ""
    top = max(value for _, value in finite) or 1.0
    step = (WIDTH - LEFT - 10) / max(1, len(finite) - 1)
    places = [
        (LEFT + i * step, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 14) * max(value, 0.0) / top, name, value)
        for i, (name, value) in enumerate(finite)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(name)}: {value:g}</title></circle>'
        for x, y, name, value in places
    )
    drawn = f'<polyline points="{path}" fill="none" stroke="{BLUE}"/><g fill="{BLUE}">{dots}</g>'
    return _figure(title, drawn + _axis(top))


def bars(values: Sequence[tuple[str, float]], title: str) -> str:
    """A horizontal bar per name."""
    if not values:
        return ""
    top = max(value for _, value in values) or 1.0
    drawn = ""
    for i, (name, value) in enumerate(values):
        y, length = 14 + 18 * i, (WIDTH - 210) * value / top
        drawn += f'<text x="0" y="{y}">{escape(name)}</text>'
        drawn += f'<rect x="150" y="{y - 10}" width="{length:.1f}" height="12" fill="{BLUE}"/>'
        drawn += f'<text x="{156 + length:.1f}" y="{y}">{value:g}</text>'
    return _figure(title, drawn, 18 * len(values) + 8)


def _axis(top: float) -> str:
    base = HEIGHT - BOTTOM
    return (
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH}" y2="{base}" stroke="#888"/>'
        f'<text x="0" y="{base}">0</text><text x="0" y="18">{top:g}</text>'
    )


def _figure(title: str, drawn: str, height: int = HEIGHT) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">{drawn}</svg></figure>'
    )
