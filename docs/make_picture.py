"""Draws the picture of README and site from the results of a sweep, and writes the figures in README.

    python docs/make_picture.py runs/demo

Left: bits/dim against the position of the switch. Right: the Fréchet distance against it. Bars are two standard errors of the
paired difference from the expert that is better in that measure: all routes see the same images and noise.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PICTURE = Path(__file__).parent / "images" / "trade-off.svg"
README = Path(__file__).parents[1] / "README.md"
MARKED = re.compile(r"(<!-- figures: make demo -->\n).*?(\n<!-- end of figures -->)", re.DOTALL)
COLOURS = {"likelihood": "#0072b2", "quality": "#d55e00", "merge": "#222222"}
NAMES = {"bpd": "bits/dim", "fid": "Fréchet distance"}


def draw(results: Mapping[str, Any], picture: Path) -> None:
    """Draw both panels."""
    plt.rcParams |= {"font.size": 10, "svg.hashsalt": "snrouter", "axes.spines.top": False, "axes.spines.right": False}
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    best = results.get("best", {}).get("label")
    for axes, metric in zip(panels, NAMES, strict=True):
        _panel(axes, [row for row in results["results"] if row["metric"] == metric], best)
        axes.set_xlabel("position of the switch, eta")
        axes.set_ylabel(f"{NAMES[metric]} (lower is better)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], best: str | None) -> None:
    merges = [row for row in rows if row["route"] == "threshold"]
    singles = [row for row in rows if row["route"] == "single"]
    for row in singles:
        axes.axhline(row["value"], color=COLOURS[row["expert"]], ls="--", lw=1.4, label=f"{row['expert']} expert alone")
    better = min(singles, key=lambda row: row["value"])["label"]
    eta, value = ([row[key] for row in merges] for key in ("eta", "value"))
    error = [2 * row["paired"][better]["standard_error"] for row in merges]
    axes.errorbar(eta, value, yerr=error, color=COLOURS["merge"], marker="o", ms=4, lw=1.2, capsize=3, label="merge")
    for row in merges:
        if row["label"] == best:
            axes.plot(row["eta"], row["value"], "*", ms=15, color="#e69f00", mec="black", mew=0.6, label="best merge", ls="none")
    axes.set_xlim(0, max(eta) + min(eta))


def figures(results: Mapping[str, Any]) -> str:
    """The table of README: each expert alone and the best merge, the latter with its paired differences."""
    rows = {(row["label"], row["metric"]): row for row in results["results"]}
    labels = [row["label"] for row in results["results"] if row["route"] == "single" and row["metric"] == "bpd"]
    chosen = results["best"]["label"]
    lines = ["| | bits/dim | Fréchet distance |", "| --- | ---: | ---: |"]
    for label in [*labels, chosen]:
        cells = (_number(rows[label, metric], digits) for metric, digits in (("bpd", 3), ("fid", 1)))
        lines.append(f"| {'merge, switch at ' if label == chosen else ''}{label} | {' | '.join(cells)} |")
    for label in labels:
        cells = (_number(rows[chosen, metric]["paired"][label], digits) for metric, digits in (("bpd", 3), ("fid", 2)))
        lines.append(f"| merge minus {label}, paired | {' | '.join(cells)} |")
    test, samples = (rows[chosen, metric]["n"] for metric in ("bpd", "fid"))
    return "\n".join([*lines, "", f"Value ± standard error over {test} test images and {samples:,} samples."])


def _number(row: Mapping[str, Any], digits: int) -> str:
    value = row.get("value", row.get("difference"))
    sign = "+" if "difference" in row else ""
    return f"{value:{sign}.{digits}f} ± {row['standard_error']:.{digits}f}".replace("-", "−")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="folder of a sweep, with its results.json")
    parser.add_argument("--out", type=Path, default=PICTURE, help="picture to write (.svg or .png)")
    arguments = parser.parse_args()
    found = json.loads((arguments.folder / "results.json").read_text())
    draw(found, arguments.out)
    if arguments.out == PICTURE:
        README.write_text(MARKED.sub(lambda match: f"{match[1]}\n{figures(found)}\n{match[2]}", README.read_text()))
