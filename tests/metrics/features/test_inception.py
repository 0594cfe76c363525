"""Features of torch-fidelity's own Inception network, on random weights, held against what torch-fidelity itself computed."""

import importlib
import importlib.util
import io
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchmetrics  # noqa: F401  torch-fidelity must not be there when it looks for it
from golden.weights import fill
from safetensors.torch import save_file

from snrouter.data.base import ImageData, from_levels
from snrouter.errors import CheckpointError, PluginError
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.features.inception import InceptionFeatures
from snrouter.metrics.features.metric import extractor
from snrouter.metrics.frechet import Frechet
from snrouter.metrics.inception_score import InceptionScore
from snrouter.metrics.kernel_distance import KernelDistance
from snrouter.metrics.precision_recall import Precision, Recall
from snrouter.solvers.ode import ODE

GOLDEN = Path(__file__).parents[2] / "golden" / "inception.npz"
BESIDE = Path(sys.prefix) / "torch-fidelity"
N = 6


def stand_in(patch) -> None:
    """A torchvision with nothing in it but the names that torch-fidelity imports; its Inception uses none of them."""
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        patch.setitem(sys.modules, name, ModuleType(name))
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(sys.modules["torchvision.datasets"], name, type(name, (), {}))


@pytest.fixture(scope="module")
def torch_fidelity():
    """torch-fidelity itself, taken away afterwards."""
    if not importlib.util.find_spec("torchvision") and not BESIDE.is_dir():
        pytest.skip("no torchvision, and no torch-fidelity beside the environment, where `make test` puts it")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        if not importlib.util.find_spec("torchvision"):
            patch.syspath_prepend(BESIDE)
            with pytest.MonkeyPatch.context() as during:
                stand_in(during)
                importlib.import_module("torch_fidelity")
        yield importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    for name in set(sys.modules) - before:
        if name.startswith("torch_fidelity"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def weights(torch_fidelity, tmp_path_factory):
    """Random weights that keep the size of what passes through, in torch-fidelity's own form."""

    class Unfilled(torch_fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            assert state_dict == {}

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = fill(Unfilled("random", ["2048"], feature_extractor_weights_path=nothing))
    for parameter in network.parameters():
        parameter.mul_({4: math.sqrt(2), 2: 5}.get(parameter.ndim, 1))
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def squares(seed: int) -> torch.Tensor:
    """Images of four coloured squares."""
    drawn = torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (N, 3, 2, 2)))
    return drawn.repeat_interleave(16, 2).repeat_interleave(16, 3)


@pytest.fixture(scope="module")
def summaries(weights):
    """Every metric's, of one pass over the samples and one over the reference."""
    context = Context(GammaInterval(-13.3, 5.0), ODE(), None, ImageData(squares(1) // 2, 256, None, "squares"), 0)
    measured = {"images": from_levels(squares(0), 256)}
    named = {"checkpoint": weights, "samples": N, "features": "inception"}
    metrics = {
        "fid": Frechet(**named),
        "kid": KernelDistance(**named),
        "inception_score": InceptionScore(**named, splits=1),
        "precision": Precision(**named),
        "recall": Recall(**named),
    }
    return {name: metric.summarise(context, measured) for name, metric in metrics.items()}, measured


# Measured are 8e-7 for FID and KID and 0 for the others; the slack is for other processors' float32.
@pytest.mark.parametrize(
    ("name", "within"), [("fid", 5e-6), ("kid", 1e-5), ("inception_score", 1e-6), ("precision", 1e-6), ("recall", 1e-6)]
)
def test_every_metric_is_torch_fidelity_s_own(summaries, name, within):
    with np.load(GOLDEN) as golden:
        assert summaries[0][name].value == pytest.approx(float(golden[name]), rel=within)


def test_features_and_logits_are_torch_fidelity_s_own(summaries, weights):
    key = extractor("inception", weights).key
    with np.load(GOLDEN) as golden:
        for what, wide in (("features", 2048), ("logits", 1008)):
            found = summaries[1][f"{key}/{what}"]
            assert found.shape == (N, wide)
            wanted = torch.from_numpy(golden[what]).double()
            torch.testing.assert_close(found[: len(wanted)], wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_the_protocol_says_how(summaries):
    summary = summaries[0]["fid"]
    assert summary.columns["features"] == "inception"
    assert summary.protocol["resize"] == "TF1 bilinear to 299, antialias false"
    assert summary.protocol["torch_fidelity"] == "0.4.0"
    assert len(summary.protocol["features_sha256"]) == 64


def test_grey_images_are_seen_as_three_channels_and_others_refused(weights):
    inception = extractor("inception", weights)
    grey = from_levels(squares(0)[:1, :1], 256)
    assert torch.equal(inception.outputs(grey)["features"], inception.outputs(grey.expand(-1, 3, -1, -1))["features"])
    with pytest.raises(CheckpointError, match="expected images of 1 or 3 channels, got 2"):
        inception.outputs(grey.expand(-1, 2, -1, -1))


def test_another_network_s_weights_and_files_that_are_not_the_published_one_are_refused(torch_fidelity, tmp_path):
    save_file({"fc.weight": torch.zeros(1008, 2048)}, path := tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"other\.safetensors: not the weights of torch-fidelity's Inception \(.*[Mm]issing key"
    ) as error:
        InceptionFeatures(path)
    assert "\n" not in str(error.value)
    torch.save({}, path := tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    with pytest.raises(CheckpointError, match=r"its SHA-256 is .*, expected 6726825d\.\.\.; "):
        extractor("inception", path)


def test_what_is_missing_is_said_with_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(PluginError, match=r"\(.*torch_fidelity.*\); pip install 'snrouter\[inception\]' .* features: torchscript$"):
        InceptionFeatures(tmp_path / "any.pth")
