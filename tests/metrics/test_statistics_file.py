"""Statistics as a file: NVlabs/edm's keys, read back as written, and refused where they are not what they should be."""

import numpy as np
import pytest
import torch
from torch import nn

from snrouter.data.base import ImageData
from snrouter.errors import DataError
from snrouter.metrics.features.module import ModuleFeatures
from snrouter.metrics.statistics_file import read_statistics, write_statistics

PIXELS = ModuleFeatures(nn.Flatten(), key="pixels")


@pytest.fixture(scope="module")
def reference() -> ImageData:
    return ImageData(torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(0)), None, None, "noise")


def test_what_is_written_is_what_others_read(tmp_path, reference):
    written = write_statistics(tmp_path / "noise.npz", PIXELS, reference)
    rows = reference.images().flatten(1).double().numpy()
    with np.load(tmp_path / "noise.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["mu"], rows.mean(0))
        np.testing.assert_allclose(archive["sigma"], np.cov(rows, rowvar=False))
        assert (str(archive["features"]), str(archive["reference"]), int(archive["n"])) == ("Flatten", "noise", 40)
    found = read_statistics(tmp_path / "noise.npz", PIXELS)
    assert torch.equal(found.mean, written.mean)
    assert torch.equal(found.covariance, written.covariance)
    assert found.n == 40


def test_a_file_of_others_has_only_mu_and_sigma(tmp_path):
    np.savez(tmp_path / "edm.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3))
    found = read_statistics(tmp_path / "edm.npz", PIXELS)
    assert found.n is None
    assert found.mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"mu": np.zeros(3)}, r"no sigma; expected mu \[F\] and sigma \[F, F\], as NVlabs/edm writes"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"got float64 \[3\] and float64 \[4, 4\]"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "sigma is no covariance, which is symmetric"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "sigma is no covariance"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])}, "sigma is no covariance, .* no negative eigenvalue"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"expected floats mu \[F\] and sigma \[F, F\], got float64 \[0\]"),
        *(
            ({"mu": np.zeros(2), "sigma": np.eye(2), "n": n}, "n, of images, to be a whole number of at least 2, got ")
            for n in ([1, 2], "x", np.nan, np.inf, -5, 1, 2.5, True)
        ),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "NaN or infinite values"),
        ({"mu": np.array([{}, {}]), "sigma": np.eye(2)}, r"cannot be read as \.npz"),
        (
            {"mu": np.zeros(2), "sigma": np.eye(2), "features_key": "x", "features": "other"},
            r"of other features \(other\) than Flatten",
        ),
    ],
)
def test_what_is_none_is_refused(tmp_path, arrays, told):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=told):
        read_statistics(tmp_path / "bad.npz", PIXELS)


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        read_statistics(tmp_path / "gone.npz", PIXELS)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DataError, match=r"text\.npz: cannot be read as \.npz"):
        read_statistics(tmp_path / "text.npz", PIXELS)
