"""What one profile of the digits is worth: its bounds against bounds measured directly, and its route against a dense search.

    python benchmarks/tuning.py [--times 64] [--seeds 5] [--direct-seed 1000] [--json FILE]

All direct values have noise of their own (another seed), unless told otherwise. Printed, in bits/dim on the digits' test images:

- the profile's bound of the 11 thresholds of the embedded sweep less the direct one, with the standard error of that difference: as
  such, and as differences to the embedded route, which is what a sweep compares; and, for cells of equal width on the direct
  bound's own noise, the largest difference of an image;
- by how much the route that is chosen on one half of the images exceeds, on the other, the best of all single switches on a grid of
  60 and of all routes of three pieces on it, found on these very images; for each seed, of a profile and halves of its own;
- the optimism of choosing a route, over 20 random halves;
- what a third expert gains: `discrete` with either prior, chosen on one half and compared on the other;
- network calls, of which one bound is the unit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import snrouter
from snrouter.metrics.likelihood import Term
from snrouter.search.cells import budget
from snrouter.search.profile import Profile
from snrouter.search.routes import FREE
from snrouter.search.tune import optimism
from snrouter.spec import load

GRID = 60
NETWORKS = ("likelihood", "quality")


def told(values: Tensor) -> dict[str, float]:
    term = Term.of(values)
    return {"value": round(term.value, 5), "standard_error": round(term.standard_error, 5)}


def dense(profile: Profile) -> float:
    """The lowest bound of all single switches and all routes of three pieces between `GRID` equal cells."""
    grid = torch.tensor([profile.interval.at(i / GRID) for i in range(1, GRID)], dtype=torch.float64)
    place = torch.bucketize(profile.gamma, grid)
    below = {}  # loss below each switch, and of everything
    for name in NETWORKS:
        cells = torch.zeros(len(profile), GRID, dtype=torch.float64).scatter_add_(1, place, profile.losses(name))
        below[name] = torch.cat([torch.zeros(1), cells.mean(0).cumsum(0)])
    ends = sum(float(term.mean()) for term in profile.ends().values())
    found = [float(below[name][-1]) for name in NETWORKS]
    for low, high in itertools.permutations(NETWORKS):
        apart = below[low] - below[high]
        found.append(float((apart + below[high][-1]).min()))
        three = apart[:, None] - apart + below[low][-1]  # low up to i, high up to j, low above
        found.append(float(three.masked_fill(torch.ones_like(three).tril(-1).bool(), torch.inf).min()))
    return min(found) + ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=64, help="network calls an image and expert")
    parser.add_argument("--seeds", type=int, default=5, help="profiles, each with halves of its own")
    parser.add_argument("--direct-seed", type=int, default=1000, help="of the direct bounds; 0 is that of the first profile")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    document = load("digits")
    data, reference, bounds = document.dataset("data"), document.dataset("reference"), document.bounds
    images, networks = data.images(), {name: document.expert(name) for name in NETWORKS}
    third = {
        "discrete, uniform": snrouter.Discrete(data.levels),
        "discrete, marginal": snrouter.Discrete(data.levels, reference.level_histogram()),
    }

    def profiled(seed: int, times: int = args.times, adaptive: bool = True) -> Profile:
        return snrouter.profile(networks | third, images, bounds, times=times, levels=data.levels, adaptive=adaptive, seed=seed)

    def without(profile: Profile, *names: str) -> Profile:
        return replace(profile, errors={name: error for name, error in profile.errors.items() if name not in names})

    report: dict[str, Any] = {"images": len(images), "times": args.times}
    started = time.perf_counter()
    profiles = [profiled(seed) for seed in range(args.seeds)]
    few, _ = budget(len(images), args.times)
    report["seconds_of_a_profile"] = round((time.perf_counter() - started) / args.seeds, 1)
    report["network_calls_in_bounds"] = round(
        (float(profiles[0].spent.sum()) + 2 * few * args.times) / (len(images) * args.times), 3
    )

    own = document.policy()
    policies = [snrouter.Threshold("likelihood", "quality", switch) for switch in document.switches()]
    direct_noise = {}
    for policy in (own, *policies):
        route = snrouter.merge(networks, policy)
        bound = snrouter.bits_per_dim(route, images, bounds, "vlb", levels=data.levels, times=args.times, seed=args.direct_seed)
        direct_noise[policy] = bound.values
    even = profiled(args.direct_seed, adaptive=False)
    gaps, compared = [], []
    for policy in policies:
        values = direct_noise[policy]
        gaps.append(told(profiles[0].vlb(policy).values - values))
        compared.append(told(profiles[0].vlb(policy).values - profiles[0].vlb(own).values - values + direct_noise[own]))
    report["profile_less_direct"] = gaps
    report["differences_to_own_route"] = compared
    report["same_noise_even_cells"] = max(float((even.vlb(p).values - v).abs().max()) for p, v in direct_noise.items())

    truth = profiled(2000, times=4 * args.times, adaptive=False)
    report["above_dense_search"], report["gain_of_a_third"] = [], {name: [] for name in third}
    for seed, profile in enumerate(profiles):
        two = snrouter.best_route(without(profile, *third), seed=seed)
        scored = truth.subset(two.scored_on)
        report["above_dense_search"].append(round(scored.vlb(two.policy).value - dense(scored), 5))
        for name in third:
            other = next(n for n in third if n != name)
            three = snrouter.best_route(without(profile, other), seed=seed)
            there = profile.subset(three.scored_on)
            gain = told(there.vlb(two.policy).values - there.vlb(three.policy).values)
            again = told(scored.vlb(two.policy).values - scored.vlb(three.policy).values)
            names, at = three.policy.route
            report["gain_of_a_third"][name].append(
                {"route": " ".join(names), "switches": [round(g, 2) for g in at], "profile": gain, "direct": again}
            )
    for name, kept in (("networks", without(profiles[0], *third)), ("all", profiles[0])):
        term = optimism(kept, FREE)
        report[f"optimism_{name}"] = {"value": round(term.value, 5), "standard_error": round(term.standard_error, 5)}
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
