"""A metric of images by itself, without a run."""

from __future__ import annotations

import torch
from torch import Tensor

from snrouter.data.base import ImageData, check_images
from snrouter.errors import DataError, SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context, PairMetric, SampleMetric, Summary
from snrouter.solvers.ode import ODE


def measure(
    metric: SampleMetric | PairMetric,
    images: Tensor | ImageData,
    reference: Tensor | ImageData | None = None,
    data: Tensor | ImageData | None = None,
) -> Summary:
    """What a metric says of images, wherever they come from.

    Args:
        metric: e.g. `Frechet(features=my_network, samples=10_000)`; fewer images than it asks for will do.
        images: [n, C, H, W] in [-1, 1], or a data set.
        reference: images to compare with, the training images as a rule.
        data: of a metric of pairs, the image that each is compared with; else test images, for a metric that uses them.

    Returns:
        The number with its standard error and per-image influences.

    Raises:
        DataError: when images are no finite tensor [n, C, H, W] in [-1, 1].
        SpecError: when the metric measures a route rather than images, or misses its reference.
    """
    if not isinstance(metric, (SampleMetric, PairMetric)):
        raise SpecError(f"measure: {type(metric).__name__} measures an expert or a route; put it under `evaluate` of a spec")
    ours, theirs, others = (_data(given, name) for given, name in ((images, "images"), (reference, "reference"), (data, "data")))
    assert ours is not None
    bounds, solver = GammaInterval(-13.3, 5.0), ODE()  # neither is asked of images
    context = Context(bounds, solver, others, theirs, 0, shape=ours.shape)
    if len(ours) > (count := metric.count(context)):
        raise SpecError(f"measure: {len(ours)} images, of which the metric takes {count}; raise its samples, or give so many")
    measured = {"images": ours.images()}
    if isinstance(metric, PairMetric):
        measured["others"] = context.need("data").images()
        if measured["images"].shape != measured["others"].shape:
            raise DataError(f"data: {list(measured['others'].shape)}, the images are {list(measured['images'].shape)}; give pairs")
    with torch.no_grad():
        return metric.summarise(context, measured)


def _data(images: Tensor | ImageData | None, name: str) -> ImageData | None:
    if images is None or (isinstance(images, ImageData) and images.levels is not None):
        return images
    values = images.pixels if isinstance(images, ImageData) else images
    check_images(values, None, name)
    lo, hi = float(values.min()), float(values.max())
    if not values.is_floating_point() or values.ndim != 4 or lo < -1.5 or hi > 1.5:
        got = f"{values.dtype} {list(values.shape)} from {lo:g} to {hi:g}"
        raise DataError(f"{name}: expected floats [n, C, H, W] in [-1, 1], got {got}; map level k of 256 to 2 (k + 1/2)/256 - 1")
    return images if isinstance(images, ImageData) else ImageData(images.detach().cpu(), None, None, name)
