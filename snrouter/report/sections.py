"""Sections of a run's article: each gives its HTML, or nothing where the run left nothing for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from snrouter.report import html, plots, published
from snrouter.report.columns import NOTED, Column, arranged, notes
from snrouter.report.folder import Folder
from snrouter.report.html import Section, section
from snrouter.report.measures import measures
from snrouter.report.number import SIGNIFICANT, Number, aligned, finite
from snrouter.report.provenance import accounts
from snrouter.report.tables import SIGNS, Row, table
from snrouter.report.wording import against, choice, difference_to, find


def results(results: Mapping[str, Any]) -> Section:
    """The table; of many measures that of values alone."""
    ((_, shown), *others), rows = arranged(results), table(results)
    colours = {} if "runs" in results else plots.expert_colours(results)
    return section("Results", html.table(shown, rows, colours, bool(others)), note=" ".join(_legend(results, shown, rows)))


def differences(results: Mapping[str, Any]) -> Section:
    """Of many measures, their differences from the experts and from published numbers."""
    (_, *others), rows = arranged(results), table(results)
    parts = [section(title, html.table(shown, rows, plots.expert_colours(results))) for title, shown in others]
    return section("Differences", *parts, note=_DIFFERENCES)


_DIFFERENCES = f"Differences are paired; those within {SIGNIFICANT:g} standard errors of zero are grey."


def _legend(results: Mapping[str, Any], shown: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    said = ["Value ± standard error; n: the images, samples or repetitions that it is of."]
    signs = {"↓": "lower", "↑": "higher"}
    said += [f"{sign} {way} is better." for sign, way in signs.items() if any(sign in c.group for c in shown)]
    if any(column.kind == "difference" for column in shown):
        said.append(_DIFFERENCES)
    if any(column.group == "NFE" for column in shown):
        said.append("NFE: network calls for one sample or image.")
    if any(row.single for row in rows):
        said.append("An expert alone runs on its own support.")
    if any(row.best for row in rows):
        rule = "Marked: the route that each run chose." if "runs" in results else f"Marked: the chosen route, {choice(results)}."
        said.append(escape(rule))
    return said + [escape(note) for note in (*notes(results), *published.notes(results, [row.label for row in rows]))]


def figures(results: Mapping[str, Any]) -> str:
    """The numbers of the finding, large, each with what it is against the experts."""
    finding = find(results)
    if finding.told is None:
        return ""
    cards = []
    for measure in finding.judged:
        value, _, error = measure.text(finding.told.numbers.get(measure.key, Number())).partition(" ± ")
        lines, title = [], f"{measure.title} {NOTED}" if measure.note else measure.title
        for single in finding.others:
            gain = measure.gain(difference_to(finding.told, single, measure))
            kind = {1: "better", -1: "worse"}.get(gain or 0, "level")
            lines.append(f'<dd class="{kind}">{html.typeset(against(finding.told, single, measure))}</dd>')
        small = f" <small>± {error}</small>" if error else ""
        cards.append(f"<div><dt>{html.heading(title)}</dt><dd><b>{html.typeset(value)}</b>{small}</dd>{''.join(lines)}</div>")
    return f'<dl class="figures">{"".join([*cards, _calls(results, finding.told)])}</dl>'


def _calls(results: Mapping[str, Any], row: Row) -> str:
    """A card of the network calls of sampling, or of the first measure that counted any."""
    counted = sorted((m for m in measures(results) if row.nfe(m)), key=lambda measure: not measure.sampled)
    if not counted:
        return ""
    own, what = row.rows[counted[0].key], "a sample" if counted[0].sampled else "an image"
    each = [f"{calls:.4g} of {name}" for name, calls in (own.get("nfe_per_expert") or {}).items() if calls]
    lines = "".join(f'<dd class="part">{escape(line)}</dd>' for line in each)
    return f"<div><dt>network calls <small>{what}</small></dt><dd><b>{own['nfe']:.4g}</b></dd>{lines}</div>"


def trade_off(results: Mapping[str, Any], prefix: str) -> Section:
    """Likelihood against quality."""
    axes, whole = plots.axes_of(results), plots.trade_off(results, f"{prefix}-trade")
    if not whole or not axes:
        return section("Trade-off")
    front = " Dashed: the frontier, routes that no other matches or beats in both." if results.get("frontier") else ""
    ring = " The ring marks the chosen route." if results.get("best") else ""
    caption = f"All routes; towards the {plots.corner(*axes)} is better. Bars are one standard error of each value.{front}{ring}"
    return section("Trade-off", html.figure(whole, caption))


def curves(results: Mapping[str, Any], prefix: str) -> Section:
    """Each measure of the samples or the data along the switch or an end of the interval, and routes near the frontier."""
    axes, near = plots.axes_of(results), plots.close_up(results, f"{prefix}-near")
    closer = ""
    if near and axes:
        up, across = plots.corner(*axes).split()
        beyond = {"lower": "below", "upper": "above"}[up]
        caption = (
            "Routes near the frontier, as paired differences from the expert that is better in each. "
            f"{across.capitalize()} of the vertical line and {beyond} the horizontal one, a route beats both experts in both. Bars "
            "are one paired standard error."
        )
        closer = html.figure(near, caption)
    shown = [measure for measure in measures(results) if measure.family not in ("Checks", "Gating", "Cost")]
    drawn = [(measure, plots.curve(results, measure, f"{prefix}-curve{i}")) for i, measure in enumerate(shown)]
    found = "".join(html.figure(svg, measure.title) for measure, svg in drawn if svg)
    if not found:
        return section("Near the frontier", f'<div class="pair">{closer}</div>' if closer else "")
    key = plots.swept(results)
    ends = "At η = 0 only the high-noise expert runs, at η = 1 only the low-noise one. " if key == "eta" else ""
    note = (
        f"{ends}Bars and bands are one standard error of each value; routes share images and noise, so that differences are known "
        "better than these suggest."
    )
    return section(
        "Along the switch" if key == "eta" else f"Along {SIGNS[key]}", f'<div class="pair">{found}{closer}</div>', note=note
    )


# --- parts of numbers ------------------------------------------------------------------------------------------------


def terms(results: Mapping[str, Any]) -> Section:
    """The parts that values are sums of, and the blocks or repetitions that they are means of."""
    parts = []
    for measure in measures(results):
        rows = [row for row in table(results) if row.rows.get(measure.key, {}).get("terms")]
        names = list(dict.fromkeys(name for row in rows for name in row.rows[measure.key]["terms"]))
        if not rows:
            continue
        shown = [Column("", "route", [row.label for row in rows], kind="route")]
        for name in names:
            found = [row.rows[measure.key]["terms"].get(name) or {} for row in rows]
            numbers = [Number(finite(term.get("value")), finite(term.get("standard_error"))) for term in found]
            shown.append(Column("", name, aligned(numbers)))
        shown.append(Column("", "sum", aligned([row.numbers[measure.key] for row in rows])))
        parts.append(section(measure.title, html.table(shown, rows, plots.expert_colours(results))))
    return section("Terms", *parts, note="The parts that each value is the sum of.")


def slices(results: Mapping[str, Any]) -> Section:
    """Values of named parts of the data, each with how many images it is of."""
    parts = []
    for measure in measures(results):
        rows = [row for row in table(results) if row.rows.get(measure.key, {}).get("slices")]
        names = dict.fromkeys(name for row in rows for name in row.rows[measure.key]["slices"])
        if not rows:
            continue
        shown = [Column("", "route", [row.label for row in rows], kind="route")]
        for name in names:
            found = [row.rows[measure.key]["slices"].get(name) or {} for row in rows]
            numbers = [Number(finite(own.get("value")), finite(own.get("standard_error"))) for own in found]
            counts = {own["n"] for own in found if own.get("n")}
            n = f"n {max(counts):,}" if len(counts) == 1 else ""
            shown.append(Column(name, n, aligned(numbers, unit=measure.unit)))
        whole = [row.numbers[measure.key] for row in rows]
        parts.append(
            section(measure.title, html.table([*shown, Column("all", "", aligned(whole))], rows, plots.expert_colours(results)))
        )
    return section("By slice", *parts, note="Named parts of the data; an image may be in several, or in none.")


def blocks(results: Mapping[str, Any]) -> Section:
    """Values of the blocks of samples that a number was taken over."""
    parts = []
    for measure in measures(results):
        rows = [row for row in table(results) if row.rows.get(measure.key, {}).get("distances")]
        names = list(dict.fromkeys(name for row in rows for name in row.rows[measure.key]["distances"]))
        if rows:
            shown = [Column("", "route", [row.label for row in rows], kind="route")]
            for name in names:
                found = [Number(finite(row.rows[measure.key]["distances"].get(name))) for row in rows]
                shown.append(Column(measure.title, f"samples {name}", aligned(found)))
            parts.append(html.table(shown, rows, plots.expert_colours(results)))
    return section("Repetitions", *parts)


# --- protocol and provenance -----------------------------------------------------------------------------------------


def protocol(results: Mapping[str, Any]) -> Section:
    """How each number was made: once what is common to all, then what is common to a measure, then what differs by route."""
    parts = []
    for account in accounts(results):
        by_route = f'<p class="note">What differs by route:</p>\n{html.facts(account.differing)}' if account.differing else ""
        parts.append(section(account.title, html.facts(account.facts), by_route))
    return section("Protocol", *parts)


def environment(folder: Folder) -> Section:
    """Versions and platform."""
    return section("Environment", html.facts(folder.environment) if folder.environment else "")


def spec(folder: Folder) -> Section:
    """The spec as it ran."""
    return section("Spec", f"<pre>{escape(folder.spec)}</pre>")
