"""Features by name `torchscript`: what a scripted module returns for uint8 images [n, 3, H, W].

The convention is that of NVIDIA's public Inception file: called with `return_features=True` it returns features, else class
probabilities, and `no_output_bias=True` leaves the last layer's bias out of these, as the Inception score's first implementation
does. A module whose forward takes neither is called plainly and what it returns are features. It runs on an accelerator where
there is one. A scripted file is a program: load only one that you trust.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snrouter.data.base import to_levels
from snrouter.errors import CheckpointError
from snrouter.experts.checkpoints import sha256
from snrouter.metrics.blocks import device
from snrouter.metrics.features.base import Extractor, What, key_of


class TorchScriptFeatures(Extractor):
    """What a scripted module returns.

    Args:
        checkpoint: a file of torch.jit.save.

    Raises:
        CheckpointError: when there is no such file, or it is none.
    """

    def __init__(self, checkpoint: Path) -> None:
        if not checkpoint.is_file():
            raise CheckpointError(f"checkpoint {checkpoint}: no such file; give the path of a TorchScript file")
        try:
            with warnings.catch_warnings():
                for kind in (DeprecationWarning, FutureWarning):  # PyTorch points to torch.export, whose files these are not
                    warnings.simplefilter("ignore", kind)
                self.module: Any = torch.jit.load(checkpoint, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise CheckpointError(f"checkpoint {checkpoint}: not a TorchScript file; save one with torch.jit.save") from None
        self.checkpoint = checkpoint
        self.takes = [argument.name for argument in self.module.forward.schema.arguments]
        self.has_logits = "return_features" in self.takes
        self.name = checkpoint.stem
        self.protocol = {"features_sha256": sha256(checkpoint)}
        self.key = key_of("torchscript", 1, self.protocol)

    def compute(self, images: Tensor, what: What) -> dict[str, Tensor]:
        """Features, or logits by a pass of their own."""
        if what == "logits" and not self.has_logits:
            return {}
        asked = "return_features" if what == "features" else "no_output_bias"
        returned = self._call(images, {asked: True} if asked in self.takes else {})
        return {what: returned if what == "features" else _logits(returned)}

    def _call(self, images: Tensor, wanted: dict[str, bool]) -> Tensor:
        pixels = to_levels(images, 256).to(torch.uint8).expand(-1, 3, -1, -1)
        try:
            returned: Tensor = self.module.to(device())(pixels.to(device()), **wanted)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"checkpoint {self.checkpoint}: cannot take uint8 images [n, 3, H, W] ({reason})") from None
        return returned


def _logits(returned: Tensor) -> Tensor:
    """Logits whose softmax is what was returned, where its rows are probabilities; else as returned."""
    if not isinstance(returned, Tensor) or returned.ndim != 2:
        return returned
    values = returned.double()
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
        return values.clamp(min=torch.finfo(torch.float64).tiny).log()
    return values
