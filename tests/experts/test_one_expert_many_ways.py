"""One exact denoiser, written as a network of every parameterization, is the same expert: same samples, same bits/dim."""

import pytest
import torch

import snrouter
from snrouter.experts.parameterization import PARAMETERIZATIONS

BOUNDS = (-12.0, 4.0)
SOLVERS = {
    "ode": snrouter.ODE("rk4", steps=20),
    "dopri5": snrouter.ODE(rtol=1e-6, atol=1e-6),
    "heun": snrouter.Heun(steps=12),
    "ddim": snrouter.DDIM(steps=20),
    "ancestral": snrouter.Ancestral(steps=20),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("prediction", PARAMETERIZATIONS)
def test_the_samples_are_the_same_in_float64(oracles, mixture, prediction, solver):
    expert = oracles.wrapped(mixture, prediction)
    ours, direct = (
        snrouter.sample(e, 8, (6,), BOUNDS, SOLVERS[solver], final="none", dtype=torch.float64).x for e in (expert, mixture)
    )
    assert float((ours - direct).norm() / direct.norm()) < 1e-10


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("prediction", PARAMETERIZATIONS)
def test_the_samples_are_the_same_in_float32(oracles, mixture, prediction, solver):
    expert = oracles.wrapped(mixture, prediction)
    ours, direct = (snrouter.sample(e, 8, (6,), BOUNDS, SOLVERS[solver], final="none").x for e in (expert, mixture))
    assert ours.dtype == torch.float32
    assert float((ours - direct).norm() / direct.norm()) < 1e-5


@pytest.mark.parametrize("prediction", PARAMETERIZATIONS)
def test_the_bits_per_dim_are_the_same(oracles, mixture, prediction):
    expert, images = oracles.wrapped(mixture, prediction), oracles.images(4)
    solver = snrouter.ODE("rk4", steps=40)
    for options in ({"estimator": "ode", "solver": solver}, {"estimator": "vlb", "times": 16}):
        ours, direct = (snrouter.bits_per_dim(e, images, BOUNDS, **options).values for e in (expert, mixture))
        assert float((ours - direct).abs().max()) < 1e-10
        single = snrouter.bits_per_dim(expert, images.float(), BOUNDS, **options).values
        assert float((single / direct - 1).abs().max()) < 1e-5
