"""Parameterizations: every row of the table is an identity of z, and means what its paper says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snrouter.errors import SpecError
from snrouter.experts.parameterization import PARAMETERIZATIONS, edm, parameterization
from snrouter.gamma import alpha, edm_sigma, sigma

values = st.floats(-10, 10)


def at(gamma: float) -> torch.Tensor:
    return torch.tensor([gamma], dtype=torch.float64)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@given(gamma=st.floats(-20, 20), z=values, F=values)
def test_image_and_noise_add_up_to_the_state_for_every_output(name, gamma, z, F):
    row = PARAMETERIZATIONS[name](at(gamma))
    al, si = alpha(gamma), sigma(gamma)
    parts = [al * float(row.c) * z, al * float(row.d) * F, si * float(row.a) * z, si * float(row.b) * F]
    assert all(value.dtype == torch.float64 and value.shape == (1,) for value in row)
    assert sum(parts) == pytest.approx(z, abs=1e-14 * (1 + sum(map(abs, parts))))


OUTPUTS = {
    "eps": lambda x, eps, al, si: eps,
    "x": lambda x, eps, al, si: x,
    "v": lambda x, eps, al, si: al * eps - si * x,
    "score": lambda x, eps, al, si: -eps / si,
    "ve": lambda x, eps, al, si: -eps,
    "flow": lambda x, eps, al, si: eps - x,
    "edm": lambda x, eps, al, si: (
        (x - 0.25 / ((si / al) ** 2 + 0.25) * (x + si / al * eps)) / (si / al * 0.5 / math.sqrt((si / al) ** 2 + 0.25))
    ),
}
INPUTS = {
    "ve": lambda x, eps, s: x + s * eps,
    "flow": lambda x, eps, s: (1 - s / (1 + s)) * x + s / (1 + s) * eps,
    "edm": lambda x, eps, s: (x + s * eps) / math.sqrt(s**2 + 0.25),
}


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@given(gamma=st.floats(-8, 8), x=values, eps=values)
def test_an_output_that_is_right_by_its_papers_definition_gives_image_and_noise(name, gamma, x, eps):
    row = PARAMETERIZATIONS[name](at(gamma))
    al, si = alpha(gamma), sigma(gamma)
    z, F = al * x + si * eps, OUTPUTS[name](x, eps, al, si)
    size = 1 + abs(x) + abs(eps)
    assert float(row.a) * z + float(row.b) * F == pytest.approx(eps, abs=1e-10 * size)
    assert float(row.c) * z + float(row.d) * F == pytest.approx(x, abs=1e-10 * size)
    fed = INPUTS.get(name, lambda x, eps, s: z)(x, eps, edm_sigma(gamma))
    assert float(row.c_in) * z == pytest.approx(fed, abs=1e-13 * size)


@given(gamma=st.floats(-12.43, 8.77), z=values, F=values, d=st.floats(0.1, 2))
def test_the_edm_row_is_the_textbooks_preconditioning(gamma, z, F, d):
    """EDM table 1: D(y; s) = c_skip y + c_out F(c_in y), with y = z/alpha."""
    row, s, y = edm(at(gamma), d), edm_sigma(gamma), z / alpha(gamma)
    D = d**2 / (s**2 + d**2) * y + s * d / math.sqrt(s**2 + d**2) * F
    assert float(row.c) * z + float(row.d) * F == pytest.approx(D, rel=1e-12, abs=1e-12)
    assert float(row.c_in) * z == pytest.approx(y / math.sqrt(s**2 + d**2), rel=1e-12, abs=1e-12)
    # by subtraction, which at s = 0.002 and in float64 keeps ten digits
    assert float(row.a) * z + float(row.b) * F == pytest.approx((y - D) / s, rel=1e-8, abs=1e-8)


def test_edm_noise_keeps_float32_at_low_noise_where_subtracting_the_image_loses_it(oracles):
    """At gamma = -12 the table's row errs below 1e-5; (z - alpha D)/sigma, which it replaces, errs above."""
    gamma, oracle = -12.0, oracles.gaussian(shape=(64,))
    expert = oracles.wrapped(oracle, "edm", clock="gamma")
    noise = torch.randn(32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (alpha(gamma) * oracles.draw(oracle, 32) + sigma(gamma) * noise).float()
    exact = oracle.eps_hat(z.double(), gamma)
    ours, image = expert.eps_hat(z, gamma), expert.x_hat(z, gamma)
    naive = (z - alpha(gamma) * image) / sigma(gamma)
    assert ours.dtype == torch.float32

    def error(eps: torch.Tensor) -> float:
        return float((eps.double() - exact).norm() / exact.norm())

    assert error(ours) < 1e-5
    assert error(naive) > 1e-5


def test_an_unknown_prediction_is_refused_with_a_suggestion():
    with pytest.raises(SpecError, match=r"unknown prediction 'epsilon'.*known: eps, x, v"):
        parameterization("epsilon")
    with pytest.raises(SpecError, match="did you mean 'score'"):
        parameterization("scores")
