"""Features by name `inception`: the network of the original Frechet Inception distance, as torch-fidelity has it.

Images become uint8 RGB, and the network resizes them to 299 x 299 as TensorFlow 1 did: bilinear, without antialiasing, corners not
aligned. Features [n, 2048] are what its last layer reads; logits [n, 1008] leave out that layer's bias, as the first implementation
of the Inception score does. It runs in float32, on an accelerator where there is one.

The weights are torch-fidelity's own file, `weights-inception-2015-12-05-6726825d.pth`, or the same tensors as .safetensors; nothing
is downloaded, and the file is not unpickled.

Source: Heusel et al. 2017 (arXiv 1706.08500); torch-fidelity (Obukhov et al. 2020).
"""

from __future__ import annotations

import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snrouter.data.base import to_levels
from snrouter.errors import CheckpointError, PluginError
from snrouter.experts.checkpoints import read_plain, sha256
from snrouter.metrics.blocks import device
from snrouter.metrics.features.base import Extractor, What, key_of

RESIZE = "TF1 bilinear to 299, antialias false"
LAYERS = {"features": "2048", "logits": "logits_unbiased"}


class InceptionFeatures(Extractor):
    """What torch-fidelity's Inception network finds in images.

    Args:
        checkpoint: its weights, .pth or .safetensors.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds another network's weights.
        PluginError: when torch-fidelity cannot be imported.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.network = _network(checkpoint)
        self.name = "inception"
        self.protocol = {
            "features_sha256": sha256(checkpoint),
            "resize": RESIZE,
            "torch_fidelity": version("torch-fidelity"),
        }
        self.key = key_of("inception", 1, self.protocol)

    def compute(self, images: Tensor, what: What) -> dict[str, Tensor]:
        """Both, in one pass."""
        if images.shape[1] not in (1, 3):
            raise CheckpointError(f"features inception: expected images of 1 or 3 channels, got {images.shape[1]}")
        pixels = to_levels(images, 256).to(torch.uint8).expand(-1, 3, -1, -1)
        return dict(zip(LAYERS, self.network.to(device())(pixels.to(device())), strict=True))


def _network(checkpoint: Path) -> Any:
    """The network in evaluation mode with the weights of a file.

    Its class reads weights by torch.load, which runs what a file says. It is therefore given the tensors, written anew.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except Exception as error:  # a torchvision that was built for another torch fails in ways of its own
        reason = str(error).strip().splitlines()[0]
        raise PluginError(
            f"features: inception needs torch-fidelity, which cannot be imported ({reason}); pip install 'snrouter[inception]' "
            f"with a torchvision that fits torch, or give a scripted network, features: torchscript"
        ) from None
    _, tensors = read_plain(checkpoint, {})
    written = io.BytesIO()
    torch.save(tensors, written)
    written.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", list(LAYERS.values()), feature_extractor_weights_path=written)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"checkpoint {checkpoint}: not the weights of torch-fidelity's Inception ({reason})") from None
