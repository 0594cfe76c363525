"""Small studies on the embedded digits, and a training that writes what it is told without a step."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import snrouter.embedded
from snrouter import spec

CLASSIFIER = Path(snrouter.embedded.__file__).with_name("digits-classifier.safetensors")

SMALL = """\
extends: digits
evaluate:
  - {metric: bpd, estimator: vlb, times: 2, images: 10}
  - {metric: inception_score, samples: 4, splits: 1, features: classifier, checkpoint: CLASSIFIER}
solver: {type: heun, steps: 2}
batch_size: 5
slices: {round: {classes: [0, 6]}}
train:
  single: {type: vdm, network: {type: unet, channels: [4]}, support: [-7.86, 5.0], steps: 2}
study:
  seeds: [0, 1]
  baseline: threshold
  models:
    threshold: {}
    early: {set: {route.switch: {eta: 0.6}}}
    alone: {train: single}
    alone-again: {train: single, about: the same training}
"""


def small(folder: Path, *overrides: str, text: str = SMALL) -> spec.Document:
    """Four models, two of one training, and two seeds."""
    path = folder / "small.yaml"
    path.write_text(text.replace("CLASSIFIER", str(CLASSIFIER)))
    return spec.load(path, overrides)


class FakeTrained(NamedTuple):
    """What a training gives."""

    experts: dict[str, Any]
    route: dict[str, Any] | None
    card: dict[str, Any]
    steps: dict[str, Any]


class FakeTraining:
    """Gives the package's own expert for a recipe, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.fails: set[int] = set()

    def __call__(self, document: spec.Document, name: str, out: Path, *, seed: int, shared: Path, progress: bool) -> FakeTrained:
        self.asked.append((name, seed))
        if seed in self.fails:
            raise ValueError(f"seed {seed} is unlucky")
        out.mkdir(parents=True, exist_ok=True)
        (out / "asked.json").write_text(json.dumps(document.dump()["train"][name]))
        expert = document.dump()["experts"]["likelihood"]
        steps = {"train": {"steps": 2, "images": 256, "rows": 256, "seconds": 0.1, "found": False}}
        return FakeTrained({name: expert}, {"type": "single", "expert": name}, {}, steps)
