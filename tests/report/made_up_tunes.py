"""Results of `snrouter tune`, made up: numbers like those of the embedded digits with the closed-form expert beside the networks."""

import math
from itertools import pairwise

from made_up_runs import sweep

LOW, HIGH, CELLS = -7.86, 5.0, 64
EDGES = [LOW + (HIGH - LOW) * j / CELLS for j in range(CELLS + 1)]
CENTRES = [(a + b) / 2 for a, b in pairwise(EDGES)]


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


ERROR = {  # mean squared error of eps per dimension
    "quality": lambda g: 0.55 * _logistic(-(g + 1.4)) * (1 + 0.3 * _logistic(-(g + 4.5) * 2)) + 4e-4,
    "likelihood": lambda g: (
        0.55 * _logistic(-(g + 1.4)) * (1 + 0.06 * _logistic((g + 3) * 2)) * (0.2 + 0.8 * _logistic(g + 6.6)) + 4e-4
    ),
    "discrete": lambda g: 0.008 + 0.9 * _logistic((g + 5.9) * 2.2),
}
SUPPORT = {"quality": (-12.43, 8.76), "likelihood": (LOW, HIGH), "discrete": (-20.0, 20.0)}
ROUTES = {  # label: pieces from low noise to high, bits/dim, difference to the chosen, Frechet distance, samples it was dropped after
    "no seam": ((("likelihood", LOW, HIGH),), 1.7690, 0.0212, None, 500),
    "1 seam": ((("likelihood", LOW, -3.19), ("quality", -3.19, HIGH)), 1.7531, 0.0053, 6.42, None),
    "2 seams": ((("discrete", LOW, -6.12), ("likelihood", -6.12, -3.19), ("quality", -3.19, HIGH)), 1.7478, 0.0, 6.31, None),
    "quality above -4.1": (
        (("discrete", LOW, -6.12), ("likelihood", -6.12, -4.1), ("quality", -4.1, HIGH)),
        1.7533,
        0.0055,
        6.12,
        None,
    ),
    "quality above -5.0": (
        (("discrete", LOW, -6.12), ("likelihood", -6.12, -5.0), ("quality", -5.0, HIGH)),
        1.7711,
        0.0233,
        6.08,
        None,
    ),
    "quality": ((("quality", -12.43, 8.76),), 2.0770, 0.3292, 6.07, None),
    "likelihood": ((("likelihood", LOW, HIGH),), 1.7690, 0.0212, 14.0, None),
    "discrete": ((("discrete", -20.0, 20.0),), 3.4120, 1.6642, 71.3, None),
}
CHOSEN = "2 seams"
SINGLES = ("quality", "likelihood", "discrete")


def _estimate(value: float, error: float) -> dict:
    return {"value": value, "standard_error": error}


def _pieces(label: str) -> list[dict]:
    return [{"expert": expert, "from": low, "to": high} for expert, low, high in ROUTES[label][0]]


def _profile() -> dict:
    error = {}
    for name, at in ERROR.items():
        low, high = SUPPORT[name]
        values = [at(g) if low <= g <= high else None for g in CENTRES]
        error[name] = {"value": values, "standard_error": [None if v is None else 0.03 * v for v in values]}
    return {"edges": EDGES, "gamma": CENTRES, "error": error}


def _between(low: str, high: str) -> dict:
    width, etas = (HIGH - LOW) / CELLS, [j / CELLS for j in range(CELLS + 1)]

    def bound(j: int) -> float:
        errors = (ERROR[low if i < j else high](g) for i, g in enumerate(CENTRES))
        return 0.0101 + sum(0.5 * width * e / math.log(2) for e in errors)

    values = [bound(j) for j in range(CELLS + 1)]
    return {"low": low, "high": high, "gamma": EDGES, "eta": etas, "value": values, "standard_error": [0.014] * len(values)}


def _rows() -> list[dict]:
    rows = []
    first = {label: (bpd, fid) for label, (_, bpd, _, fid, _) in ROUTES.items()}
    for label, (pieces, bpd, _, fid, _) in ROUTES.items():
        columns: dict = {"route": "piecewise", "gamma_switches": [low for _, low, _ in pieces[1:]]}
        if label in SINGLES:
            columns = {"route": "single", "expert": label, "interval": "own support"}
        elif len(pieces) == 2:
            columns = {"route": "threshold", "eta": (pieces[1][1] - LOW) / (HIGH - LOW), "gamma_switch": pieces[1][1]}
        elif len(pieces) == 1:
            columns = {"route": "single", "expert": pieces[0][0]}
        for metric, value in (("bpd", bpd), ("fid", fid)):
            if value is None:
                continue
            error = {"bpd": 0.0021, "fid": 0.06}[metric]
            row = {"metric": metric, "label": label, **columns, "value": value, "standard_error": error * 7, "n": 2000}
            row |= {"better": "lower", "nfe": 64.0 if metric == "bpd" else 35.0, "seconds": 3.0}
            row |= {"nfe_per_expert": {name: 12.0 for name, _, _ in pieces if name != "discrete"}}
            row["paired"] = {
                other: {"difference": value - first[other][metric == "fid"], "standard_error": error}
                for other in SINGLES
                if other != label
            }
            if metric == "bpd":
                row |= {"estimator": "vlb", "title": "bits/dim", "n": 200}
                row["protocol"] = {"times": 64, "from": "profile", "images": "the half that the route was not chosen on"}
            else:
                row |= {"features": "classifier", "title": "Fréchet distance"}
                row["protocol"] = {"final": "decode", "reference": "digits/train", "seed": 0}
            rows.append(row)
    return rows


def tuned(ends: bool = False) -> dict:
    """Results of a tune of three experts; `ends`: with candidates for the ends of the interval."""
    routes = [
        {"label": label, "pieces": _pieces(label), "seams": len(pieces) - 1, "bpd": _estimate(bpd, 0.0147)}
        | {"difference": _estimate(away, 0.0018 if away else 0.0), "chosen": label == CHOSEN, "dropped_after": dropped}
        for label, (pieces, bpd, away, _, dropped) in ROUTES.items()
    ]
    tune = {
        "experts": list(SINGLES),
        "networks": 2,
        "interval": [LOW, HIGH],
        "images": {"chosen_on": 200, "scored_on": 200},
        "times": 70,
        "network_calls": {
            "profile": 49_920,
            "pilot": 1_280,
            "one_vlb": 25_600,
            "quality": {"spent": 180_300, "alone": 271_400},
            "exact": 21_344,
        },
        "profile": _profile(),
        "thresholds": [_between(low, high) for low, high in (("likelihood", "quality"), ("discrete", "likelihood"))],
        "seams": [
            {"seams": n, **_estimate(value, 0.0150), "excess": _estimate(away, error), "chosen": n == 2}
            for n, value, away, error in (
                (0, 1.7702, 0.0219, 0.0019),
                (1, 1.7541, 0.0058, 0.0011),
                (2, 1.7484, 0.0001, 0.0003),
                (3, 1.7483, 0.0, 0.0),
                (4, 1.7485, 0.0002, 0.0002),
            )
        ],
        "routes": routes,
        "optimism": _estimate(0.00042, 0.00009) | {"splits": 20},
        "quality": {
            "metric": "fid",
            "rounds": [
                {"samples": 500, "routes": list(ROUTES), "dropped": [{"label": "no seam", "beaten_by": "1 seam"}]},
                {"samples": 1000, "routes": [label for label in ROUTES if label != "no seam"], "dropped": []},
                {"samples": 2000, "routes": [label for label in ROUTES if label != "no seam"], "dropped": []},
            ],
        },
        "exact": {"label": CHOSEN, "images": 100, **_estimate(1.7391, 0.0208)}
        | {"vlb": _estimate(1.7472, 0.0209), "difference": _estimate(-0.0081, 0.0011)},
        "chosen": {"label": CHOSEN, "pieces": _pieces(CHOSEN), "spec": "tuned.yaml"}
        | {"expected": {"bpd": _estimate(1.7478, 0.0147), "fid": _estimate(6.31, 0.42)}}
        | {"on_all_images": _estimate(1.7512, 0.0104) | {"images": 400}},
    }
    if ends:
        tune["ends"] = [
            {
                "gamma_min": low,
                "gamma_max": high,
                **_estimate(value, 0.0147),
                "difference": _estimate(away, 0.0009 if away else 0.0),
            }
            | {"chosen": not away, "exact": _estimate(value - 0.008, 0.021)}
            for low, high, value, away in (
                (-9.0, HIGH, 1.7481, 0.0003),
                (LOW, HIGH, 1.7478, 0.0),
                (-7.0, HIGH, 1.7522, 0.0044),
                (-6.0, HIGH, 1.8011, 0.0533),
            )
        ]
    extras = {"frontier": [{"label": label} for label in (CHOSEN, "quality above -4.1", "quality above -5.0", "quality")]}
    extras["best"] = {"label": CHOSEN, "against": "quality", "quality_tolerance": 0.5}
    spec = sweep()["spec"] | {"interval": [LOW, HIGH]}
    return {"format": 1, "fingerprint": "77ac1e02", "spec": spec, "partial": False, "results": _rows(), **extras, "tune": tune}
