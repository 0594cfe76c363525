"""Gallery: the sections of an article that show images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from snrouter.report import html, pictures, plots
from snrouter.report.folder import Folder
from snrouter.report.html import BEST, Section, section
from snrouter.report.tables import Row, table

SAMPLES, TRACES, PICTURES = 2_200_000, 950_000, 950_000
"""Bytes that a page may spend on pictures of each kind, so that it stays under 5 MB."""

_TRACED = 2
"""Samples whose way is shown."""


def samples(folder: Folder, share: float) -> Section:
    """The first samples of each route."""
    rows = [row for row in table(folder.results) if pictures.pictured(folder.samples.get(row.label))]
    shown = {row.label: folder.samples[row.label][: pictures.SHOWN] for row in rows}
    side = pictures.side(sum(map(len, shown.values())), int(SAMPLES * share))
    lines = []
    for row in rows:
        uri = pictures.strip(shown[row.label], side)
        if uri is not None:
            lines.append((_named(row), html.image(uri, f"samples of {row.label}")))
    moves = "; the switch moves from row to row" if any(row.positions for row in rows) else ""
    note = "" if len(lines) == 1 else f"Each column starts from the same noise{moves}."
    return section("Samples", html.strips(lines), note=note)


def trace(folder: Folder, share: float) -> Section:
    """What each route takes the image to be on its way from noise to data, and which expert is asked there."""
    rows = [row for row in table(folder.results) if row.label in folder.trace and folder.trace[row.label].ndim == 5]
    blocks = []
    first = [folder.trace[row.label] for row in rows]
    most = min([_TRACED, *(images.shape[1] for images in first)])
    side = pictures.side(sum(len(images) * most for images in first), int(TRACES * share))
    for number in range(most if rows else 0):
        lines, head = [], ""
        for row in rows:
            gammas = [float(g) for g in folder.trace.get(f"{row.label}/gamma", ())]
            uri = pictures.strip(folder.trace[row.label][:, number], side)
            if uri is None:
                continue
            scale = _scale(gammas)
            lines.append((f"<span></span>{scale}" if scale != head else "", ""))
            lines.append((_named(row), f"<div>{html.image(uri, f'the way of {row.label}')}{_track(folder, row, gammas)}</div>"))
            head = scale
        blocks.append(html.strips(lines, "samples ways"))
    note = (
        "What the network takes the image to be, from noise on the left to data on the right, at the γ above it. The bar below is "
        "in the colour of the expert that is asked."
    )
    shown = [blocks[0], *(html.folded("The same from another noise", block) for block in blocks[1:])] if blocks else []
    return section("Intermediate states", *shown, note=note)


def _scale(gammas: Sequence[float]) -> str:
    cells = "".join(f"<span>{html.typeset(f'{gamma:.1f}')}</span>" for gamma in gammas)
    return f'<div class="scale">{cells}</div>' if cells else ""


def _track(folder: Folder, row: Row, gammas: Sequence[float]) -> str:
    """A bar of the colours of the experts asked at these gammas, where the route says which they are."""
    route, colours = (folder.results.get("spec") or {}).get("route") or {}, plots.expert_colours(folder.results)
    if row.single:
        asked = [row.label] * len(gammas)
    elif len(row.switches) == 1 and {"low", "high"} <= route.keys():
        asked = [route["high"] if gamma > row.switches[0] else route["low"] for gamma in gammas]
    else:
        return ""
    if not set(asked) <= colours.keys():
        return ""
    parts = "".join(f'<i style="background: var(--expert-{colours[label]})"></i>' for label in asked)
    return f'<div class="track">{parts}</div>'


def _named(row: Row) -> str:
    return f"<span{BEST if row.best else ''}>{html.typeset(row.label)}</span>"


def beside(folder: Folder, metric: str, note: str, share: float) -> str:
    """What a metric left to look at: the chosen or first route's pictures, those of the others when asked for."""
    rows = folder.results["results"]
    found = {
        key: images for key, images in folder.pictures.items() if images.ndim == 5 and _row_of(key, rows).get("metric") == metric
    }
    most = pictures.side(sum(images.shape[0] * images.shape[1] for images in found.values()), int(PICTURES * share))
    best = (folder.results.get("best") or {}).get("label")
    shown: list[tuple[str, str]] = []
    for key, images in sorted(
        found.items(), key=lambda pair: (_row_of(pair[0], rows)["label"] != best, int(pair[0].partition("/")[0]))
    ):
        across = images.swapaxes(0, 1) if images.shape[0] > images.shape[1] else images  # pairs stand below one another
        uri = pictures.grid(list(across), most)
        if uri is not None:
            label, title = _row_of(key, rows)["label"], key.partition("/")[2]
            shown.append((f"<span>{html.typeset(label)}</span>", html.image(uri, f"{title}, {label}")))
    if not shown:
        return ""
    first, *others = shown
    return (
        f'<p class="note">{escape(note)}</p>\n'
        + html.strips([first])
        + (html.folded("Of the other routes", html.strips(others)) if others else "")
    )


def _row_of(key: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    number = key.partition("/")[0]
    return rows[int(number)] if number.isdigit() and int(number) < len(rows) else {}
