"""Networks on the axis: what they are fed, data_scale, and what is said when they misbehave."""

import math

import pytest
import torch
from torch import nn

import snrouter
from snrouter.errors import CheckpointError, NonFiniteError, SpecError, SupportError
from snrouter.experts.parameterization import Coefficients
from snrouter.gamma import alpha, sigma


class Probe(nn.Module):
    """Keeps what it is called with."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, scaled, level, condition):
        self.called = scaled, level, condition
        return self.weight * scaled


def rows(n: int = 3, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *(shape or (2, 2)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_network_is_fed_its_scaled_input_its_own_clock_and_its_own_dtype():
    probe = Probe(torch.float32)
    expert = snrouter.wrap(probe, "edm", (-12, 8), clock="edm_c_noise")
    z, gamma = rows(), torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    prediction = expert(z, gamma)
    scaled, level, condition = probe.called
    expected = z / (alpha(gamma) * (gamma.exp() + 0.25).sqrt()).reshape(3, 1, 1)
    assert scaled.dtype == level.dtype == torch.float32
    torch.testing.assert_close(scaled, expected.float())
    torch.testing.assert_close(level, ((gamma / 2).exp().log() / 4).float())
    assert condition is None
    assert prediction.eps_hat.dtype == prediction.x_hat.dtype == torch.float64
    assert prediction.calls == {"": 3}


def test_only_a_conditional_network_is_given_the_condition():
    labels = torch.tensor([1, 2, 3])
    for conditional in (True, False):
        probe = Probe()
        snrouter.wrap(probe, "eps", (-9, 5), conditional=conditional).eps_hat(rows(), 0.0, labels)
        assert (probe.called[2] is labels) is conditional


def test_a_schedules_time_is_the_noise_level_and_its_parameters_pass_through():
    probe = Probe()
    snrouter.wrap(probe, "v", (-9, 5), clock="flow").eps_hat(rows(), -2.0)
    torch.testing.assert_close(probe.called[1], torch.full((3,), 1 / (1 + math.exp(1)), dtype=torch.float64))
    snrouter.wrap(probe, "eps", (-2, 0), clock="discrete", alphas_cumprod=[0.9, 0.5]).eps_hat(rows(), 0.0)
    torch.testing.assert_close(probe.called[1], torch.ones(3, dtype=torch.float64))


def test_a_parameterization_may_be_the_users_own_function():
    def doubled(gamma):
        one = 1 + 0 * gamma
        return Coefficients(one, 0 * one, 2 * one, 1 / alpha(gamma), -2 * sigma(gamma) / alpha(gamma))

    expert = snrouter.wrap(Probe(), doubled, (-9, 5))
    torch.testing.assert_close(expert.eps_hat(rows(), 0.0), 2 * rows())


@pytest.mark.parametrize("scale", [256 / 255, 0.5])
@pytest.mark.parametrize("prediction", ["edm", "v", "x"])
def test_a_network_trained_on_scaled_pixels_is_the_unscaled_expert_under_data_scale(oracles, prediction, scale):
    plain = oracles.gaussian(shape=(2, 3))
    scaled = oracles.wrapped(oracles.gaussian(shape=(2, 3), scale=scale), prediction, data_scale=scale)
    z = rows(5, 2, 3)
    for gamma in (-12.0, -4.0, 1.5, torch.linspace(-10, 5, 5, dtype=torch.float64)):
        for got, wanted in zip(scaled(z, gamma)[:2], plain(z, gamma)[:2], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_a_scaled_expert_agrees_with_the_unscaled_one_in_samples_and_bits(oracles):
    plain = oracles.gaussian()
    scaled = oracles.wrapped(oracles.gaussian(scale=256 / 255), "edm", data_scale=256 / 255)
    forgotten = oracles.wrapped(oracles.gaussian(scale=256 / 255), "edm")
    images, solver = oracles.images(4), snrouter.ODE("rk4", steps=60)

    def bits(expert):
        return snrouter.bits_per_dim(expert, images, (-12, 4), solver=solver, divergence="exact").values

    torch.testing.assert_close(bits(scaled), bits(plain), rtol=1e-9, atol=1e-9)
    assert float((bits(forgotten) - bits(plain)).abs().max()) > 1e-3


def test_the_support_of_a_scaled_network_is_that_of_its_own_pixels():
    expert = snrouter.wrap(Probe(), "edm", (-12.43, 8.76), data_scale=256 / 255)
    shift = 2 * math.log(256 / 255)
    assert expert.support == pytest.approx((-12.43 - shift, 8.76 - shift))


def test_gamma_may_be_a_number_or_one_a_row_and_nothing_else(gaussian):
    z = rows(3, 6)
    assert torch.equal(gaussian.eps_hat(z, -1.0), gaussian.eps_hat(z, torch.full((3,), -1.0)))
    with pytest.raises(SpecError, match="expected one number or 3, one per image; got 2"):
        gaussian.eps_hat(z, torch.zeros(2))


class Wrong(nn.Module):
    def forward(self, scaled, level, condition):
        return scaled[:, :1]


def test_a_network_that_cannot_take_the_images_is_named_with_its_reason():
    network = nn.Linear(5, 5)
    network.forward = lambda scaled, level, condition: nn.functional.linear(scaled, network.weight)
    with pytest.raises(CheckpointError, match=r"expert 'wide' cannot take images of shape \[2, 2\] \(.*shapes.*\)"):
        snrouter.wrap(network, "eps", (-9, 5), name="wide").eps_hat(rows(), 0.0)


def test_large_but_finite_outputs_are_no_error():
    expert = snrouter.wrap(Broken(3e38), "eps", (-9, 5))
    assert bool(torch.isfinite(expert.eps_hat(rows().float(), 2.0)).all())


class Broken(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, scaled, level, condition):
        return scaled.clone().masked_fill((level > 0).reshape(-1, 1, 1), self.value)


def test_a_network_of_another_shape_is_named():
    with pytest.raises(CheckpointError, match=r"expert 'small' returned shape \[3, 1, 2\] for an input of \[3, 2, 2\]"):
        snrouter.wrap(Wrong(), "eps", (-9, 5), name="small").eps_hat(rows(), 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_network_that_returns_nan_or_infinity_is_named_with_its_gamma(value):
    expert = snrouter.wrap(Broken(value), "eps", (-9, 5), name="likelihood")
    assert bool(torch.isfinite(expert.eps_hat(rows(), -1.0)).all())
    with pytest.raises(NonFiniteError, match=r"expert 'likelihood' returned NaN or infinity at gamma=2 for 1 of 3 images"):
        expert.eps_hat(rows(), torch.tensor([-1.0, 2.0, -3.0]))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_data_scale_that_is_none_is_refused(scale):
    with pytest.raises(SpecError, match="data_scale of expert 'network': expected a positive number"):
        snrouter.wrap(Probe(), "eps", (-9, 5), data_scale=scale)


def test_wrap_refuses_unknown_names_with_a_suggestion():
    with pytest.raises(SpecError, match="unknown prediction 'epss'; did you mean 'eps'"):
        snrouter.wrap(Probe(), "epss")
    with pytest.raises(SpecError, match="unknown clock 'cosinus'; did you mean 'cosine'"):
        snrouter.wrap(Probe(), clock="cosinus")
    with pytest.raises(SpecError, match="expected finite gamma_min < gamma_max"):
        snrouter.wrap(Probe(), support=(5, -13))


@pytest.mark.parametrize(("gamma", "excess"), [(-9.2, "0.2"), (5.5, "0.5")])
def test_beyond_its_support_an_expert_refuses(gamma, excess):
    expert = snrouter.wrap(Probe(), "eps", (-9, 5), name="narrow")
    with pytest.raises(SupportError, match=rf"expert 'narrow' was asked at gamma={gamma}, {excess} beyond its support \[-9, 5\]"):
        expert.eps_hat(rows(), gamma)
    with pytest.raises(SupportError, match="narrow"):  # one row in a mixed batch is enough
        expert.eps_hat(rows(), torch.tensor([0.0, gamma, 1.0]))


def test_an_expert_may_be_asked_a_hundredth_beyond_its_support():
    expert = snrouter.wrap(Probe(), "eps", (-9, 5))
    expert.eps_hat(rows(), -9.009)
    expert.eps_hat(rows(), 5.009)


def test_extrapolation_when_allowed_warns_how_far():
    expert = snrouter.wrap(Probe(), "eps", (-9, 5), name="narrow", allow_extrapolation=True)
    with pytest.warns(UserWarning, match=r"expert 'narrow' runs up to 0.5 in gamma beyond its support \[-9, 5\]"):
        expert.eps_hat(rows(), 5.5)
