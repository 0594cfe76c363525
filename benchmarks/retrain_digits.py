"""Trains the embedded digits weights again and sets what they measure against what the shipped ones do.

Each recipe of the embedded spec is trained into --out; then both sets of weights run the embedded sweep. Prints, per checkpoint,
its training loss and whether its bits are the shipped ones, and, for each route, bits/dim and Frechet distance of both. The same
bits are expected on the same processor and version of torch only; elsewhere, the same figures within their errors.

    python benchmarks/retrain_digits.py --out runs/retrained [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from snrouter.evaluation import sweep
from snrouter.experts.checkpoints import read_card
from snrouter.spec import load
from snrouter.training import train


def figures(folder: Path, out: Path) -> dict[str, dict[str, float]]:
    """Bits/dim and Frechet distance by route, with the weights of a folder."""
    names = {"experts.quality": "quality", "experts.likelihood": "likelihood", "evaluate.1": "classifier"}
    document = load("digits", [f"{key}.checkpoint={folder / f'digits-{name}.safetensors'}" for key, name in names.items()])
    table: dict[str, dict[str, float]] = {}
    for row in sweep(document, out).rows:
        label = row.get("expert") or f"eta={row['eta']:g}"
        table.setdefault(label, {})[row["metric"]] = row["value"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and runs")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    shipped = Path(str(resources.files("snrouter.embedded")))
    document = load("digits")
    weights: dict[str, dict[str, Any]] = {}
    for name, recipe in document.spec.train.items():
        started = time.perf_counter()
        card = train(recipe, document.dataset("reference"), arguments.out / f"digits-{name}.safetensors")
        before = read_card(shipped / f"digits-{name}.safetensors")
        weights[name] = {
            "seconds": time.perf_counter() - started,
            "training_loss": card["training_loss"],
            "shipped_training_loss": before["training_loss"],
            "same_bits": card["sha256"] == before["sha256"],
        }
        print(
            f"{name}: {weights[name]['seconds']:.0f} s, loss {card['training_loss']:.4f} "
            f"(shipped {before['training_loss']:.4f}), {'same' if weights[name]['same_bits'] else 'other'} bits"
        )
    again, before = (figures(folder, arguments.out / run) for folder, run in ((arguments.out, "again"), (shipped, "shipped")))
    print(f"{'route':<12} {'bits/dim':>9} {'shipped':>9} {'Frechet':>9} {'shipped':>9}")
    for label, row in again.items():
        old = before[label]
        print(f"{label:<12} {row['bpd']:9.4f} {old['bpd']:9.4f} {row['fid']:9.3f} {old['fid']:9.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"weights": weights, "again": again, "shipped": before}, indent=2) + "\n")


if __name__ == "__main__":
    main()
