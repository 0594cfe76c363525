"""Tune: the best route from one profile of all experts, and among routes with more of the quality expert the best trade-off.

The profile gives the bits/dim of every route without another network call: the route is chosen on one half of the images and scored
on the other. Quality has no such integral, so samples are drawn along a few candidates, in rounds of growing number; a route that
another beats in both numbers, by more than two paired standard errors, goes no further.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save

from snrouter.errors import SpecError
from snrouter.evaluation.jobs import plan, run_fingerprint
from snrouter.evaluation.logs import log_results
from snrouter.evaluation.results import Results, trade_off, write_results
from snrouter.evaluation.routes import Route
from snrouter.evaluation.shards import collect, fingerprint
from snrouter.evaluation.tuning.candidates import candidates, likelihood, policy_of, written_metrics
from snrouter.evaluation.tuning.possible import constraints_of, own_bounds
from snrouter.evaluation.tuning.profiles import FEWEST, Measured, measure
from snrouter.evaluation.tuning.rounds import draw_rounds
from snrouter.evaluation.tuning.tuned import FILE, Exact, Tuned, report, spec_text
from snrouter.evaluation.work import Site
from snrouter.evaluation.worker import Worker
from snrouter.files import write
from snrouter.gamma import GammaInterval
from snrouter.launch import Launch
from snrouter.launched import is_first
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.search.tune import Choice, best_route
from snrouter.spec import Document


def tune(
    document: Document,
    out: Path,
    *,
    launch: Launch | None = None,
    limit: int | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Results | None:
    """Find the best route over the spec's experts, as its `tune` asks, and write it as a spec, ready to be run.

    Args:
        document: the spec.
        out: folder for results, the profile, the tuned spec and shards; shards already there are used.
        launch: how many processes compute; `Launch()`, one, when left out.
        limit: use at most this many images and samples, and stamp the results partial.
        fresh: remove this command's own shards and start over.
        progress: show a progress bar on standard error.

    Returns:
        The results, with `extras["tune"]`; None in every process but the first, where a launcher started several.

    Raises:
        SpecError: when the spec is wrong, or no route can be what it asks for.
        OutputError: when the folder cannot be written.
        SnrouterError: when an expert or solver fails; shards already written stay.
    """
    if limit is not None and limit < FEWEST:
        raise SpecError(f"--limit: tune needs {FEWEST} images or more, got {limit}")
    asked, site, seed = document.tuning(), Site(out, launch or Launch(), fresh, progress), document.spec.seed
    measured = measure(document, asked, limit, site)
    ends = {"gamma_min": asked.gamma_min, "gamma_max": asked.gamma_max}
    choice = best_route(measured.profile, constraints_of(asked), **ends, seed=seed)
    found = candidates(document, asked, measured, choice)
    drawn = draw_rounds(found, measured, choice.scored_on, limit, site)
    unscored = measured.profile.subset(choice.chosen_on)
    allowed = (route for route in found.routes if route.label in found.allowed)
    heights = {route.label: unscored.vlb(policy_of(route), route.bounds).value for route in allowed}
    tolerance = document.spec.sweep.quality_tolerance if document.spec.sweep else 0.0
    trade = trade_off(drawn.columns, tolerance, heights)
    label = trade.get("best", {}).get("label", found.best)
    (chosen,) = (route for route in found.routes if route.label == label)
    exact = _exact(document, chosen, measured, choice, min(asked.exact_images, len(measured.profile)), site)
    if not is_first():
        return None
    tuned = Tuned(document, asked, measured, choice, found, drawn, chosen, exact, out)
    results = Results(
        drawn.columns,
        document,
        fingerprint([measured.key, run_fingerprint(drawn.worker, drawn.jobs), asked.model_dump(mode="json")]),
        limit is not None,
        extras=trade | {"tune": report(tuned)},
        samples=dict(drawn.samples),
        pictures=dict(drawn.pictures),
        folder=out,
    )
    write(out / "profile.safetensors", save({name: tensor.contiguous() for name, tensor in measured.profile.tensors().items()}))
    write(out / FILE, spec_text(tuned).encode())
    write_results(results)
    log_results(results)
    return results


def _exact(document: Document, chosen: Route, measured: Measured, choice: Choice, count: int, site: Site) -> Exact:
    """Exact-ODE bits/dim of the first so many images under the chosen route, on its interval and on others that it may run on."""
    names = policy_of(chosen).route[0]
    low, high = measured.experts[names[0]], measured.experts[names[-1]]
    ends = [chosen.bounds]
    for bounds in (end.bounds for end in choice.ends):
        reached = GammaInterval(own_bounds(low, bounds).gamma_min, own_bounds(high, bounds).gamma_max)
        ends += [bounds] if reached == bounds and bounds not in ends else []
    changed = chosen.document.with_parts(evaluate=[_exact_metric(document, measured, count)])
    worker = Worker([replace(chosen, label=f"{chosen.label}, {bounds}", document=changed, bounds=bounds) for bounds in ends])
    if not count or not worker.expert(worker.routes[0]).invertible:
        return Exact({}, 0)
    jobs = plan(worker)
    site.carry_out(worker, jobs)
    parts = [site.read(worker, jobs, partial(collect, job, worker.spec.batch_size, site.out)) for job in jobs]
    calls = sum(float(part["spent"].sum()) for part in parts)
    return Exact({bounds: part["values"] for bounds, part in zip(ends, parts, strict=True)}, round(calls))


def _exact_metric(document: Document, measured: Measured, count: int) -> dict[str, Any]:
    """The spec's own exact bits/dim, or the default one, from the ends of the interval."""
    own = written_metrics(document, lambda metric: isinstance(metric, BitsPerDim) and metric.estimator == "ode")
    kept = {key: value for key, value in (own or [{}])[0].items() if key != "gamma_0"}
    return likelihood(measured, **kept | {"images": count})
