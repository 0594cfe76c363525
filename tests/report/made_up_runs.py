"""Results as evaluation writes them, made up; folders of runs; and a reader of the pages made of them."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from snrouter.report import write_report

ROUTES = {  # label: bits/dim, Frechet distance; numbers like those of the embedded digits
    "eta=0.2": (1.8177, 6.50),
    "eta=0.6": (1.8344, 10.07),
    "likelihood": (1.8417, 18.86),
    "quality": (2.1350, 6.47),
}
ERRORS = {"bpd": 0.003, "fid": 0.05}


def sweep(routes=ROUTES, errors=ERRORS, best="eta=0.2") -> dict:
    """Results of a sweep, in the order evaluation writes them."""
    rows = []
    for label, values in routes.items():
        eta = float(label.removeprefix("eta=")) if label.startswith("eta=") else None
        columns = {"route": "single", "expert": label, "interval": "own support"}
        if eta is not None:
            columns = {"route": "threshold", "eta": eta, "gamma_switch": -7.86 + 12.86 * eta}
        for metric, value in zip(("bpd", "fid"), values, strict=True):
            paired = {
                other: {"difference": value - theirs[metric == "fid"], "standard_error": errors[metric]}
                for other, theirs in routes.items()
                if other != label and not other.startswith("eta=")
            }
            variant = {"estimator": "vlb"} if metric == "bpd" else {"features": "classifier"}
            variant |= {"title": "bits/dim" if metric == "bpd" else "Fréchet distance", "better": "lower"}
            protocol = {"gamma_min": -12.4 if label == "quality" else -7.86, "seed": 0}
            protocol |= {"times": 32} if metric == "bpd" else {"final": "decode", "reference": "digits/train"}
            rows.append(
                {"metric": metric, **variant, "label": label, **columns, "value": value, "standard_error": 0.014, "n": 400}
                | {"nfe": 32.0 if metric == "bpd" else 38.0, "nfe_per_expert": {"quality": 30.0, "likelihood": 2.0}}
                | {"seconds": 1.5, "protocol": protocol, "paired": paired}
            )
            if metric == "bpd":
                rows[-1]["terms"] = {"prior": {"value": 0.0031, "standard_error": 1e-5}}
    spec = {
        "route": {"type": "threshold", "low": "likelihood", "high": "quality"},
        "evaluate": [{"metric": "bpd"}, {"metric": "fid"}],
    }
    extras = {"frontier": [{"label": "eta=0.2", "bpd": 1.8177, "fid": 6.5}, {"label": "quality", "bpd": 2.135, "fid": 6.47}]}
    extras["best"] = {"label": best, "against": "quality", "quality_tolerance": 0.5}
    return {"format": 1, "fingerprint": "5fce068b", "spec": spec, "partial": False, "results": rows, **extras}


def folder(path: Path, results: dict, images: dict | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "results.json").write_text(json.dumps(results))
    (path / "spec.yaml").write_text("seed: 0 # <b>&\n")
    (path / "environment.json").write_text(json.dumps({"python": "3.11.7", "packages": {"torch": "2.13.0"}}))
    if images is not None:
        save_file(images, path / "samples.safetensors")
    return path


def page(path: Path, results: dict, images: dict | None = None) -> str:
    return write_report([folder(path, results, images)]).read_text()


def renamed(results: dict, old: str, new: str) -> dict:
    return json.loads(json.dumps(results).replace(json.dumps(old), json.dumps(new)))


class Reader(HTMLParser):
    """Collects what a browser would fetch or run, ids, text, and unbalanced tags."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack, self.tags, self.ids, self.addresses, self.text, self.unbalanced = [], Counter(), Counter(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.stack.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids[value] += 1
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") or name.startswith("on"):
                self.addresses.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def unknown_distances(results: dict) -> dict:
    """As evaluation leaves a sweep of one sample a route: distances and all their errors are null, and nothing is chosen."""
    rows = [row if row["metric"] == "bpd" else row | {"value": None, "standard_error": None} for row in results["results"]]
    for row in rows:
        row["paired"] = {other: dict.fromkeys(pair) if row["value"] is None else pair for other, pair in row["paired"].items()}
    return {key: results[key] for key in ("format", "fingerprint", "spec")} | {"partial": True, "results": rows}


MEASURES = {  # metric: title, better, a value, its error, further columns
    "fid": ("Fréchet distance", "lower", 4.2, 0.03, {"features": "inception"}),
    "kid": ("KID", "lower", 9.1e-4, 2.3e-5, {"features": "inception"}),
    "inception_score": ("Inception Score", "higher", 9.4, 0.05, {"features": "inception", "splits": 10}),
    "precision": ("precision", "higher", 0.68, 0.004, {"features": "inception"}),
    "recall": ("recall", "higher", 0.59, 0.004, {"features": "inception"}),
    "lpips": ("LPIPS", "lower", 0.013, 1e-4, {"pairs": "reconstruction", "identical": 3}),
    "ssim": ("SSIM", None, 0.991, 2e-4, {"pairs": "same_noise", "against": "quality", "identical": 0}),
    "nearest_neighbour": (
        "nearest training image",
        None,
        0.211,
        0.001,
        {"features": "pixels", "exact_copies": 0, "near_copies": 0, "test_distance": 0.205, "test_standard_error": 0.001}
        | {"copies": 0.012, "overlap_exact": 3, "overlap_near": 14},
    ),
    "cost": (
        "seconds/image",
        "lower",
        0.0123,
        2e-4,
        {"batch": "16 at a time", "quartiles": {"lower": 0.0121, "upper": 0.0125}, "peak_memory_bytes": 1_739_000_000}
        | {"value_interval": {"low": 0.012, "high": 0.0126, "level": 0.961}, "parameters": 87_390_086}
        | {"parameters_per_expert": {"likelihood": 31_656_195, "quality": 55_733_891}, "routing_overhead": 1.0031},
    ),
}


def many(results: dict | None = None) -> dict:
    """A sweep with ten measures, each a little better for later routes."""
    results = results or sweep()
    bounds = [row for row in results["results"] if row["metric"] == "bpd"]
    results["results"] = list(bounds)
    for i, first in enumerate(bounds):
        kept = {key: first[key] for key in ("label", "route", "expert", "interval", "eta", "gamma_switch") if key in first}
        for metric, (title, better, value, error, columns) in MEASURES.items():
            step = {"lower": -i, "higher": i, None: 0}[better] * 10 * error
            row = {"metric": metric, **columns, "title": title, "better": better, **kept, "value": value + step}
            row |= {"standard_error": error, "n": 2000, "nfe": 38.0, "nfe_per_expert": {"quality": 30.0, "likelihood": 8.0}}
            row |= {"seconds": 20.0, "protocol": {"final": "decode", "seed": 0, "device": "cpu", "batch_size": 5}}
            if metric != "cost":
                row["paired"] = {
                    other["label"]: {"difference": step, "standard_error": error / 5}
                    for other in bounds
                    if other["route"] == "single" and other is not first
                }
            results["results"].append({key: part for key, part in row.items() if part is not None})
    results["spec"]["evaluate"] += [{"metric": metric} for metric in MEASURES if metric != "fid"]
    return results


def of(results: dict, metric: str) -> list[dict]:
    """Rows of one metric."""
    return [row for row in results["results"] if row["metric"] == metric]


def gates(routes=("gate", "top_k"), experts=("round", "plain", "smooth", "dark"), times=8) -> dict:
    """A run of mixtures: bits/dim and gating of each, as evaluation writes them."""
    rows, each = [], len(experts)
    for i, label in enumerate(routes):
        kept = {"label": label, "route": label, "experts": list(experts)}
        bpd = {"metric": "bpd", "title": "bits/dim", "better": "lower", "estimator": "vlb", **kept, "value": 1.8 + i / 100}
        rows.append(bpd | {"standard_error": 0.01, "n": 400, "nfe": 32.0 * each, "seconds": 2.0, "protocol": {"seed": 0}})
        weights = np.abs(np.sin(np.arange(each)[:, None] + np.linspace(0, 2 + i, times))) + 0.2
        weights /= weights.sum(0)
        told = {
            "utilisation": dict(zip(experts, weights.tolist(), strict=True)),
            "gammas": np.linspace(-7.86, 5, times + 1).tolist(),
        }
        told["entropy"] = (-(weights * np.log(weights)).sum(0)).tolist()
        told["load"] = dict(zip(experts, weights.mean(1).tolist(), strict=True))
        value = float(weights.mean(1).std() * each)
        row = {"metric": "gating", "title": "variation of load", **told, **kept, "value": value, "standard_error": 0.004}
        rows.append(row | {"n": 400, "seconds": 1.0, "protocol": {"seed": 0, "times": times}})
    spec = {"route": {"type": "gate"}, "evaluate": [{"metric": "bpd"}, {"metric": "gating"}]}
    return {"format": 1, "fingerprint": "0a7e", "spec": spec, "partial": False, "results": rows}
