"""Studies as `snrouter study` writes them, made up."""

import json
import math
import statistics
from pathlib import Path

from made_up_runs import gates

SLICES = ("round", "plain")
MODELS = {  # name: route, bits/dim, number of experts of its gate
    "single": ("single", 1.90, 0),
    "random": ("random", 1.93, 4),
    "soft": ("gate", 1.86, 4),
    "top-2": ("top_k", 1.87, 4),
    "K = 8": ("gate", 1.85, 8),
    "threshold": ("threshold", 1.84, 0),
}
KEYS = {  # key: title, better, factor of bits/dim
    "bpd": ("bits/dim", "lower", 1.0),
    "bpd/slices/round": ("bits/dim, round", "lower", 0.9),
    "bpd/slices/plain": ("bits/dim, plain", "lower", 1.1),
    "fid": ("Fréchet distance", "lower", 4.0),
    "gating": ("variation of load", None, 0.1),
    "cost": ("seconds/image", "lower", 0.001),
    "cost/peak_memory_bytes": ("peak memory, bytes", "lower", 8e8),
    "cost/parameters": ("parameters", None, 20_000.0),
}
STEPS = {  # as a recipe of a mixture tells them
    "mixture": {
        "warm": {"steps": 360, "images": 5760, "rows": 5760, "seconds": 10.0, "found": True}
        | {"each": {name: {"steps": 90, "images": 1440, "rows": 1440, "seconds": 2.5, "found": True} for name in "abcd"}},
        "joint": {"steps": 510, "images": 32640, "rows": 130560, "seconds": 31.5, "found": False},
    }
}


def measure(key: str, title: str, better: str | None, factor: float, seeds: int) -> dict:
    """One measure of all models, as the study summarises it."""
    told = {}
    for name, (_, level, _) in MODELS.items():
        values = [factor * (level + 0.004 * (seed - 1)) for seed in range(seeds)]
        spread = statistics.stdev(values) if seeds > 1 else None
        half = 4.303 * spread / math.sqrt(seeds) if spread is not None else None
        mean = statistics.mean(values)
        span = [level / 1.9 - 1.003, level / 1.9 - 0.997] if seeds > 1 else None
        relative = {"mean": level / 1.9 - 1, "interval": span} if name != "single" else None
        interval = [mean - half, mean + half] if half is not None else None
        told[name] = {"values": values, "mean": mean, "standard_deviation": spread, "interval": interval, "relative": relative}
        told[name]["n"] = seeds
    return {"key": key, "metric": key.partition("/")[0], "title": title, "better": better, "by_model": told}


def cell(name: str, seed: int) -> dict:
    """One model with one seed."""
    route, _, experts = MODELS[name]
    results = gates((route,), tuple("abcdefgh"[:experts]))["results"] if experts else []
    told = {"seed": seed, "folder": f"cells/{name}/seed{seed}", "status": "done", "error": None, "seconds": 12.5 + seed}
    return told | {"results": results, "steps": STEPS if experts else {}}


def study(seeds: int = 3) -> dict:
    models = [
        {
            "name": name,
            "about": f"{name}, made up",
            "route": route,
            "recipes": ["mixture"] if experts else [],
            "trained": experts > 0,
            "tuned": False,
        }
        | {"steps": STEPS if experts else {}, "parameters": {"total": 40_000 + 500 * experts, "gate": 500 * experts}}
        | {"cells": [cell(name, seed) for seed in range(seeds)]}
        for name, (route, _, experts) in MODELS.items()
    ]
    findings = ["soft beats single by 0.04 bits/dim; the 95 percent intervals do not overlap.", "random does not beat single."]
    told = {"format": 1, "partial": False, "spec": {"seed": 0, "study": {"seeds": list(range(seeds))}}, "seeds": list(range(seeds))}
    told |= {"baseline": "single", "models": models, "measures": [measure(key, *own, seeds) for key, own in KEYS.items()]}
    return told | {"findings": findings, "errors": [], "fingerprint": "1c0ffee5"}


def study_folder(path: Path, content: dict) -> Path:
    """The folder of a study; the first model's cells have pages."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "study.json").write_text(json.dumps(content))
    for told in content["models"][0]["cells"]:
        page = path / told["folder"] / "report.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<p>a cell</p>")
    return path
