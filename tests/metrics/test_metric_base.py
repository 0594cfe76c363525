"""What every metric may rely on."""

import pytest
import torch

from snrouter.errors import SpecError
from snrouter.metrics.base import network_calls


def test_network_calls_are_one_number_an_image():
    rows = {"values": torch.zeros(3), "nfe/low": torch.tensor([1, 2, 3]), "nfe/high": torch.full((3,), 0.5)}
    calls = network_calls(rows)
    assert calls.dtype == torch.float64
    assert calls.tolist() == [1.5, 2.5, 3.5]
    assert network_calls({"values": torch.zeros(3)}).tolist() == [0, 0, 0]
    with pytest.raises(SpecError, match=r"nfe/low: expected one number an image, \[3\].*returned \[3, 1\]"):
        network_calls(rows | {"nfe/low": torch.zeros(3, 1)})
    with pytest.raises(SpecError, match=r"returned \[\]"):
        network_calls(rows | {"nfe/low": torch.tensor(2.0)})
