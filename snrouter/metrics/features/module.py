"""Features of a user's own network."""

from __future__ import annotations

from torch import Tensor, nn

from snrouter.metrics.features.base import Extractor, What


class ModuleFeatures(Extractor):
    """What a module returns for images [n, C, H, W] in [-1, 1]: features [n, F], or a pair of them and logits [n, K].

    It is called in evaluation mode, which it leaves again, in its own precision and on its own device.

    Args:
        module: the network.
        name: what the result row's `features` says; the name of its class when left out.
        key: a name of your own for this network with these weights, under which what it finds may be kept on disk; when left out
            nothing is kept.
    """

    def __init__(self, module: nn.Module, name: str = "", key: str | None = None) -> None:
        self.module = module
        self.name = name or type(module).__name__
        self.protocol = {"features_key": key} if key else {}
        self.key = key and f"module {key}"

    def compute(self, images: Tensor, what: What) -> dict[str, Tensor]:
        """Both, where the module returns both."""
        like = next(self.module.parameters(), images)
        modes = {part: part.training for part in self.module.modules()}
        try:
            returned = self.module.eval()(images.to(like))
        finally:
            for part, mode in modes.items():
                part.training = mode
        features, logits = returned if isinstance(returned, tuple) else (returned, None)
        return {"features": features} | ({} if logits is None else {"logits": logits})
