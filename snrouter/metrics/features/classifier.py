"""Features by name `classifier`: what the last layer of a classifier of our own reads, in float64 on the CPU."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from snrouter.errors import CheckpointError
from snrouter.experts.checkpoints import load_network, sha256
from snrouter.experts.networks.classifier import Classifier
from snrouter.metrics.features.base import Extractor, What, key_of


class ClassifierFeatures(Extractor):
    """The penultimate layer of a classifier, and its logits.

    Args:
        checkpoint: its .safetensors file, whose card lies beside it.

    Raises:
        CheckpointError: when the file is no classifier's.
    """

    batch = 500

    def __init__(self, checkpoint: Path) -> None:
        network, card, _ = load_network(checkpoint)
        if not isinstance(network, Classifier):
            raise CheckpointError(f"checkpoint {checkpoint}: features need a classifier, got {card['network']['type']!r}")
        self.network = network.double()
        self.name = "classifier"
        self.protocol = {"features_sha256": sha256(checkpoint)}
        self.key = key_of("classifier", 1, self.protocol, sorted(card["network"].items()))

    def compute(self, images: Tensor, what: What) -> dict[str, Tensor]:
        """Both, in one pass."""
        features = self.network.features(images.double())
        return {"features": features, "logits": self.network.head(features)}
