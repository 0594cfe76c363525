"""The finding in words: what the chosen route is, and whether it beats the experts, as the paired differences have it.

A route beats an expert when at least one measure is better, and none worse, by more than `SIGNIFICANT` paired standard errors.
Judged are likelihood and quality in every variant, where it is known which way is better. Pairs, checks and costs are told in
sections of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from snrouter.report import advice
from snrouter.report.measures import HIGHER, PUBLISHED, Measure, measures
from snrouter.report.number import SIGNIFICANT, Number
from snrouter.report.tables import Row, table

_JUDGED = ("Likelihood", "Quality", "Further")
_LONE = 4
"""Measures that are told of a route that is compared with none."""

_TOLD = 2
"""Measures whose numbers are told in sentences: the first likelihood, the first quality; the table has them all."""


class Finding(NamedTuple):
    """What was found.

    Attributes:
        sentence: the finding.
        told: the route it is about; None where it is about all.
        others: the experts that it is compared with.
        judged: the measures whose numbers are told.
        remarks: sentences to bear in mind.
    """

    sentence: str
    told: Row | None = None
    others: Sequence[Row] = ()
    judged: Sequence[Measure] = ()
    remarks: Sequence[str] = ()


def headline(results: Mapping[str, Any]) -> list[str]:
    """Sentences that say what was found; the first is the finding, the rest its numbers and what to bear in mind."""
    finding = find(results)
    numbers = _numbers(finding.told, finding.others, finding.judged) if finding.told else []
    return [finding.sentence, *numbers, *finding.remarks]


def find(results: Mapping[str, Any]) -> Finding:
    """What was found in one run."""
    rows, judged, tune = table(results), _judged(results), results.get("tune")
    routes, singles = [row for row in rows if not row.single], [row for row in rows if row.single]
    if not rows:
        return Finding("Nothing was evaluated.")
    if tune:
        return _tuned(results, tune, rows, judged)
    if len(rows) == 1:
        return Finding(_lone(rows[0], measures(results)))
    if not judged:
        counts = f"{len(rows)} routes, {_counted(len(measures(results)), 'measure')}"
        none = "none of likelihood or quality" + (" is a number" if _asked(results) else "")
        return Finding(f"{counts}; {none}, so nothing is judged.", remarks=_untold(results, []))
    chosen = next((row for row in rows if row.best), None) or _best(rows, judged[0])
    told = _best(routes, judged[0]) if routes and chosen.single else chosen
    others = [row for row in reversed(singles) if row is not told]  # the low-noise expert first, as the table's columns have it
    rule = choice(results) or f"the {_most(judged[0])} in {judged[0].name}"
    if not routes:
        first = _apart(singles, judged)
    elif not singles:
        first = f"Of the {_several(routes)}, {name(chosen)} is {rule}."
    elif chosen.single:
        first = f"No {_kind(routes)} is chosen: {name(chosen)} is {rule}."
    else:
        first = _finding(told, routes, singles, judged)
    picked = len(routes) if not chosen.single else 0
    return Finding(first, told, others, _principal(judged), [*_untold(results, judged), *_caveats(rows, picked, _several(routes))])


def _tuned(results: Mapping[str, Any], tune: advice.Tune, rows: Sequence[Row], judged: Sequence[Measure]) -> Finding:
    """The route that a tune advises."""
    told = next((row for row in rows if row.best), None)
    others = [row for row in reversed(rows) if row.single and row is not told]
    names = {measure.metric: measure.name for measure in reversed(judged)}
    remarks = [*advice.remarks(tune), *_untold(results, judged), *_caveats(rows)]
    if results.get("best"):
        remarks.append(
            f"Of {len(rows)} routes, the {PUBLISHED['fid']}s shown decided which might be chosen, which flatters them a little; "
            "bits/dim of other images than those shown decided between these."
        )
    return Finding(advice.advice(tune, names), told, others, _principal(judged), remarks)


def choice(results: Mapping[str, Any]) -> str:
    """The rule that chose the best route, e.g. "the lowest in bits/dim of the routes whose ..."; "" where none was chosen."""
    best, tune = results.get("best") or {}, results.get("tune")
    if tune and not best:
        return advice.rule(tune)
    if not any(row.best for row in table(results)):
        return ""
    names = {measure.metric: measure.name for measure in reversed(_asked(results))}
    bpd, fid = (names.get(metric, PUBLISHED[metric]) for metric in ("bpd", "fid"))
    over = f" by more than {best['quality_tolerance']:g}" if best.get("quality_tolerance") else ""
    against = f" of the routes whose {fid} is not demonstrably above {best['against']}'s{over}"
    where = advice.chosen_on(tune) if tune else ""
    return f"the lowest in {bpd}{where}{',' if where and best.get('against') else ''}{against if best.get('against') else ''}"


# --- sentences -------------------------------------------------------------------------------------------------------


def _finding(told: Row, routes: Sequence[Row], singles: Sequence[Row], judged: Sequence[Measure]) -> str:
    unbeaten = [single for single in singles if not _beats(told, single, judged)]
    if not unbeaten:
        opening = {"switch": "Switching at ", "end": "The route with "}.get(_kind(routes), "")
        return f"{opening}{name(told)} beats {_all(singles)}{_how(told, singles, judged)}."
    losing = f"{name(told)}, does not beat {_and([single.label for single in unbeaten], 'or')}"
    why = "; ".join(_why(told, single, judged) for single in unbeaten)
    others = [name(row) for row in routes if all(_beats(row, single, judged) for single in singles)]
    kind = _kind(routes)
    which = f"chosen {kind}" if told.best else f"{kind} {_most(judged[0])} in {judged[0].name}"
    if others:
        return f"The {which}, {losing}: {why}. Of the others, {_and(others)} would."
    return f"No {kind} beats {_all(singles)}. The {which}, {losing}: {why}."


def _apart(singles: Sequence[Row], judged: Sequence[Measure]) -> str:
    """Which of the experts, and nothing but experts, is the best in which measures."""
    leading: dict[tuple[str, str], list[str]] = {}
    for measure in judged:
        leading.setdefault((_best(singles, measure).label, _most(measure)), []).append(measure.name)
    told = [f"{label} is the {most} in {_and(names)}" for (label, most), names in leading.items()]
    return f"Of the experts alone, {', '.join(told)}."


def _how(told: Row, singles: Sequence[Row], judged: Sequence[Measure]) -> str:
    """In which measures a route that beats all experts is better than all of them, and in which only level with one."""
    gains = {m: {m.gain(difference_to(told, single, m)) for single in singles} for m in judged}
    better = [m.name for m in judged if gains[m] == {1}]
    level = [m.name for m in judged if gains[m] != {1}]
    one = "it" if len(singles) == 1 else "the better of them" if len(singles) == 2 else "the best of them"
    if not better:
        return f": it is level with {one} in {_and(level)} alike"
    return f" in {_and(better)}" + (f", and is level with {one} in {_and(level)}" if level else "")


def _why(told: Row, single: Row, judged: Sequence[Measure]) -> str:
    """Why a route does not beat one expert."""
    gains = {m: m.gain(difference_to(told, single, m)) for m in judged}
    better, worse, level, unknown = ([m.name for m in judged if gains[m] == gain] for gain in (1, -1, 0, None))
    if unknown:
        return f"the error of its difference to {single.label} in {_and(unknown)} is not known"
    if worse and better:
        return f"against {single.label} it is better in {_and(better)} but worse in {_and(worse)}"
    if worse:
        return f"it is worse than {single.label} in {_and(worse)}"
    return f"it is level with {single.label} in {_and(level)}"


def _numbers(row: Row, singles: Sequence[Row], judged: Sequence[Measure]) -> list[str]:
    """A sentence a measure: the route's number, and what it is against those of the experts."""
    where = f" (γ = {', '.join(f'{g:.2f}' for g in row.switches)})" if row.switches else ""
    told = []
    for measure in judged:
        number = row.numbers.get(measure.key, Number())
        told.append(f"{measure.title} {'at' if row.positions else 'of'} {name(row)}{where}: {measure.text(number)}")
        told[-1] += "".join(f"; {against(row, single, measure)}" for single in singles) + "."
        where = ""
    return [sentence[0].upper() + sentence[1:] for sentence in told]


def against(row: Row, single: Row, measure: Measure) -> str:
    """A route's number against an expert's, e.g. "0.0207 ± 0.0024 below likelihood (1.846)"."""
    difference, theirs = difference_to(row, single, measure), single.numbers.get(measure.key, Number())
    if theirs.value is None or difference.value is None:
        return f"not compared with {single.label}"
    reference = f"{single.label} ({measure.text(theirs).partition(' ±')[0]})"
    if difference.sign is None:
        return f"{measure.text(difference, signed=True)} (error not known) against {reference}"
    if measure.gain(difference) == 0:
        return f"level with {reference}, {measure.text(difference, signed=True)}"
    size = measure.text(Number(abs(difference.value), difference.error))
    return f"{size} {'below' if difference.value < 0 else 'above'} {reference}"


def _untold(results: Mapping[str, Any], judged: Sequence[Measure]) -> list[str]:
    """What was asked for and is not judged: a number for no route, or one without paired differences."""
    told, rows = {measure.key for measure in judged}, table(results)
    said = []
    for measure in (measure for measure in _asked(results) if measure.key not in told):
        known = any(math.isfinite(_loss(row, measure)) for row in rows)
        why = "has no paired differences, and is not judged" if known else "is not a number for any route"
        end = ", so there is no trade-off" if not known and measure.metric in ("bpd", "fid") else ""
        said.append(f"{measure.name[0].upper()}{measure.name[1:]} {why}{end}.")
    return said


def _caveats(rows: Sequence[Row], picked: int = 0, what: str = "") -> list[str]:
    """How errors are meant, and that one of `picked` of what was compared was chosen."""
    said = []
    if any(pairs for row in rows for pairs in row.differences.values()):
        said.append(
            "Errors are standard errors; differences are paired, all routes seeing the same images, times and noise; "
            f"level means within {SIGNIFICANT:g} standard errors."
        )
    elif any(row.single for row in rows):
        said.append("No paired differences were recorded, so nothing is claimed about improvement.")
    if picked > 1:
        said.append(f"The choice, one of {picked} {what}, was made on the numbers shown, which flatters it a little.")
    return said


def _lone(row: Row, known: Sequence[Measure]) -> str:
    told = [f"{m.title} {m.text(row.numbers[m.key])}" for m in known if m.key in row.numbers]
    more = f", and {len(told) - _LONE} more" if len(told) > _LONE else ""
    return f"Route {row.label}: {', '.join(told[:_LONE])}{more}."


# --- judgement -------------------------------------------------------------------------------------------------------


def _asked(results: Mapping[str, Any]) -> list[Measure]:
    """Likelihoods and qualities; those of one metric in several variants are called by them."""
    found = [measure for measure in measures(results) if measure.better and measure.family in _JUDGED]
    times = Counter(measure.name for measure in found)
    return [replace(measure, name=measure.title) if times[measure.name] > 1 else measure for measure in found]


def _judged(results: Mapping[str, Any]) -> list[Measure]:
    """Those of them that are known, and where any is compared with an expert, that are compared."""
    rows = table(results)
    known = [measure for measure in _asked(results) if any(math.isfinite(_loss(row, measure)) for row in rows)]
    compared = [measure for measure in known if any(row.differences.get(measure.key) for row in rows)]
    return compared or known


def _principal(judged: Sequence[Measure]) -> list[Measure]:
    """The first measure of each family, and more where there is room."""
    firsts = {measure.family: measure for measure in reversed(judged)}
    rest = [measure for measure in judged if measure not in firsts.values()]
    wanted = [*firsts.values(), *rest][: max(_TOLD, len(firsts))]
    return [measure for measure in judged if measure in wanted]


def _beats(row: Row, single: Row, judged: Sequence[Measure]) -> bool:
    gains = [measure.gain(difference_to(row, single, measure)) for measure in judged]
    return 1 in gains and -1 not in gains and None not in gains


def difference_to(row: Row, single: Row, measure: Measure) -> Number:
    """The paired difference of a route and an expert; without numbers where there is none."""
    return row.differences.get(measure.key, {}).get(single.label, Number())


def _best(rows: Sequence[Row], measure: Measure) -> Row:
    return min(rows, key=lambda row: _loss(row, measure))


def _most(measure: Measure) -> str:
    return "highest" if measure.better == HIGHER else "lowest"


def _loss(row: Row, measure: Measure) -> float:
    value = row.numbers.get(measure.key, Number()).value
    return math.inf if value is None else measure.loss(value)


# --- words -----------------------------------------------------------------------------------------------------------


def name(row: Row) -> str:
    """What a route is called in a sentence."""
    if row.single:
        return f"{row.label} alone"
    return row.position or f'"{row.label}"'


def _kind(routes: Sequence[Row]) -> str:
    """What the routes of a sweep differ in."""
    keys = {key for row in routes for key in row.positions}
    return "switch" if keys == {"eta"} else "end" if keys and "eta" not in keys else "route"


def _several(routes: Sequence[Row]) -> str:
    return {"switch": "switches", "end": "ends"}.get(_kind(routes), "routes")


def _all(singles: Sequence[Row]) -> str:
    labels = _and([single.label for single in singles])
    return {1: f"{labels} alone", 2: f"both {labels}"}.get(len(singles), f"each of {labels}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count > 1 else "")


def _and(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
