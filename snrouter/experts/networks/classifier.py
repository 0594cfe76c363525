"""A small convolutional classifier, whose penultimate features serve the Frechet distance where Inception does not fit."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Classifier(nn.Module):
    """Maps images [B, C, H, W] in [-1, 1] to class logits; `features` [B, F] are what its last layer reads.

    Args:
        in_channels: C.
        channels: width of the convolutions.
        features: F.
        classes: number of classes.
        dropout: probability before the last layer.
    """

    def __init__(
        self, in_channels: int = 1, channels: int = 32, features: int = 64, classes: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_features = features
        self.in_channels = in_channels
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * channels, features),
            nn.SiLU(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features [B, F]."""
        return cast(Tensor, self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return cast(Tensor, self.head(self.features(images)))
