"""A route is an expert: partitioned calls, seams, pieces, support, merges of merges, and its identities."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import snrouter
from snrouter import Piecewise, Single, Stretch, Threshold, merge
from snrouter.errors import NonFiniteError, SpecError, SupportError
from snrouter.experts.base import Piece
from snrouter.gamma import GammaInterval
from snrouter.router.base import Policy
from snrouter.solvers.sample import sample_routes

BOUNDS = (-7.86, 5.0)  # gamma_min + (gamma_max - gamma_min) is not gamma_max here
SOLVERS = {
    "dopri5": snrouter.ODE(rtol=1e-4, atol=1e-4),
    "rk4": snrouter.ODE("rk4", steps=6),
    "euler": snrouter.Euler(steps=6),
    "heun": snrouter.Heun(steps=6),
    "ddim": snrouter.DDIM(steps=6),
    "stochastic ddim": snrouter.DDIM(steps=6, stochasticity=0.5),
    "ancestral": snrouter.Ancestral(steps=6),
}
MIXED = (-6.0, 2.0, -1.0, -1.0 + 1e-9, 4.9, -7.0, -1.5)


def states(n: int = len(MIXED), dim: int = 6) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture
def recorded(oracles, pair):
    return {name: oracles.Recorder(expert) for name, expert in pair.items()}


class TestPartition:
    def test_each_expert_is_called_once_on_just_its_rows(self, recorded):
        z, gamma = states(), torch.tensor(MIXED, dtype=torch.float64)
        prediction = merge(recorded, Threshold("low", "high", -1.0))(z, gamma)
        rows = {"low": [0, 2, 5, 6], "high": [1, 3, 4]}  # row 2 is at the switch: the low-noise expert's
        for name, mine in rows.items():
            assert len(recorded[name].z) == 1
            assert torch.equal(recorded[name].z[0], z[mine])
            assert torch.equal(recorded[name].gamma[0], gamma[mine])
        assert prediction.calls == {"low": 4, "high": 3}

    def test_an_expert_with_no_rows_is_not_called(self, recorded):
        merged = merge(recorded, Threshold("low", "high", -1.0))
        assert merged(states(), -1.0).calls == {"low": 7}
        assert merged(states(), -0.999).calls == {"high": 7}
        assert [len(recorder.z) for recorder in recorded.values()] == [1, 1]

    def test_a_mixed_batch_is_its_rows_one_by_one(self, pair):
        z, gamma = states(), torch.tensor(MIXED, dtype=torch.float64)
        merged = merge(pair, Threshold("low", "high", -1.0))
        together = merged(z, gamma)
        for i, value in enumerate(MIXED):
            owner = pair["low" if value <= -1.0 else "high"](z[i : i + 1], value)
            torch.testing.assert_close(together.eps_hat[i : i + 1], owner.eps_hat, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(together.x_hat[i : i + 1], owner.x_hat, rtol=1e-12, atol=1e-12)
        assert float((pair["low"].eps_hat(z, 0.0) - pair["high"].eps_hat(z, 0.0)).abs().min()) > 1e-4

    def test_a_mixed_batch_has_the_gradient_of_its_rows(self, pair):
        gamma, merged = torch.tensor(MIXED, dtype=torch.float64), merge(pair, Threshold("low", "high", -1.0))
        z = states().requires_grad_()
        (gradient,) = torch.autograd.grad(merged(z, gamma).eps_hat.square().sum(), z)
        for i, value in enumerate(MIXED):
            row = states()[i : i + 1].requires_grad_()
            (own,) = torch.autograd.grad(merged(row, value).eps_hat.square().sum(), row)
            torch.testing.assert_close(gradient[i : i + 1], own, rtol=1e-10, atol=1e-12)


class Crossfade(Policy):
    """Weights that go linearly from `low` to `high` between gamma -1 and 1."""

    experts = ("low", "high")
    seams = ()

    def weights(self, gamma, z, condition=None):
        share = ((gamma + 1) / 2).clamp(0, 1)
        return torch.stack([1 - share, share], 1)

    def restrict(self, lo, hi):
        return self

    def support(self, experts):
        return GammaInterval(-20.0, 20.0)


def test_a_policy_may_blend_and_calls_only_the_experts_with_weight(pair, recorded):
    z, gamma = states(4), torch.tensor([-3.0, -0.5, 0.5, 3.0], dtype=torch.float64)
    prediction = merge(recorded, Crossfade())(z, gamma)
    share = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64)[:, None]
    for got, low, high in zip(prediction[:2], pair["low"](z, gamma)[:2], pair["high"](z, gamma)[:2], strict=True):
        torch.testing.assert_close(got, (1 - share) * low + share * high, rtol=1e-12, atol=1e-12)
    assert prediction.calls == {"low": 3, "high": 3}
    assert [len(recorder.z[0]) for recorder in recorded.values()] == [3, 3]


@dataclass(frozen=True)
class Shares(Crossfade):
    """Weights that are the same everywhere."""

    shares: torch.Tensor

    def weights(self, gamma, z, condition=None):
        return self.shares.expand(len(gamma), -1)


def test_policies_that_hold_tensors_are_told_apart(oracles):
    experts = {name: oracles.gaussian(seed=seed) for seed, name in enumerate(("low", "high"))}
    weights = {"mostly low": [0.75, 0.25], "mostly high": [0.25, 0.75], "mostly low again": [0.75, 0.25]}
    policies = {label: Shares(torch.tensor(shares, dtype=torch.float64)) for label, shares in weights.items()}
    policies["the same"] = policies["mostly low"]
    routes = {label: merge(experts, policy) for label, policy in policies.items()}
    drawn = sample_routes(routes, 2, (6,), BOUNDS, SOLVERS["heun"])
    bounded = snrouter.bits_per_dim(routes, oracles.images(2), BOUNDS, "vlb", "none", times=3)
    for label, route in routes.items():
        alone = snrouter.bits_per_dim(route, oracles.images(2), BOUNDS, "vlb", "none", times=3)
        assert torch.equal(drawn.solutions[label].z, snrouter.sample(route, 2, (6,), BOUNDS, SOLVERS["heun"]).z)
        assert torch.equal(bounded[label].values, alone.values)
    assert drawn.spent["the same"] == bounded["the same"].spent == 0


class TestPieces:
    def test_the_owner_of_a_piece_owns_both_its_ends(self, pair):
        merged, z = merge(pair, Threshold("low", "high", -1.0)), states()
        assert merged.seams == (-1.0,)
        low, high = merged.pieces(*BOUNDS)
        assert (low.lo, low.hi, high.lo, high.hi) == (-7.86, -1.0, -1.0, 5.0)
        for gamma in (-7.86, -1.0):
            assert torch.equal(low.expert.eps_hat(z, gamma), pair["low"].eps_hat(z, gamma))
        for gamma in (-1.0, 5.0):
            assert torch.equal(high.expert.eps_hat(z, gamma), pair["high"].eps_hat(z, gamma))
        assert torch.equal(merged.eps_hat(z, -1.0), pair["low"].eps_hat(z, -1.0))  # pointwise: eq. 9
        assert high.expert(z, 0.0).calls == {"high": len(z)}

    @pytest.mark.parametrize("direction", ["sample", "encode"])
    @pytest.mark.parametrize("solver", [name for name in SOLVERS if "stochastic" not in name and name != "ancestral"])
    def test_every_stage_of_a_deterministic_solver_is_the_owners_of_its_piece(self, recorded, solver, direction):
        """Neither is asked beyond its side, and a step that starts at the seam is the expert's it moves into."""
        merged = merge(recorded, Threshold("low", "high", -1.0))
        SOLVERS[solver].solve(merged, states(), BOUNDS, direction=direction)
        asked = {name: [float(gamma[0]) for gamma in recorder.gamma] for name, recorder in recorded.items()}
        assert max(asked["low"]) <= -1.0 <= min(asked["high"])
        assert -1.0 in asked["low" if direction == "sample" else "high"]

    def test_a_seam_outside_or_at_the_end_of_an_interval_cuts_nothing(self, pair):
        merged = merge(pair, Threshold("low", "high", -1.0))
        for lo, hi, owner in ((-8.0, -1.0, "low"), (-8.0, -2.0, "low"), (-1.0, 3.0, "high"), (0.0, 3.0, "high")):
            (piece,) = merged.pieces(lo, hi)
            assert piece.expert(states(), hi).calls == {owner: 7}
            assert piece.expert(states(), lo).calls == {owner: 7}

    def test_a_route_with_three_stretches_has_three_pieces(self, pair):
        merged = merge(pair, Piecewise([Stretch("high", -5.0), Stretch("low", -1.0), Stretch("high")]))
        pieces = list(merged.pieces(*BOUNDS))
        assert [(piece.lo, piece.hi) for piece in pieces] == [(-7.86, -5.0), (-5.0, -1.0), (-1.0, 5.0)]
        assert [next(iter(piece.expert(states(), -3.0).calls)) for piece in pieces] == ["high", "low", "high"]

    def test_an_expert_alone_is_one_piece_without_seams(self, gaussian):
        assert gaussian.seams == ()
        assert list(gaussian.pieces(-3.0, 2.0)) == [Piece(-3.0, 2.0, gaussian)]
        assert gaussian.invertible

    def test_pieces_are_one_and_the_same_where_the_same_expert_runs(self, pair):
        low, high = merge(pair, Threshold("low", "high", -1.0)).pieces(*BOUNDS)
        other_low, other_high = merge(pair, Threshold("low", "high", 2.0)).pieces(*BOUNDS)
        assert low.identity == other_low.identity != high.identity == other_high.identity
        elsewhere = merge({**pair, "low": pair["high"]}, Threshold("low", "high", -1.0))
        assert next(iter(elsewhere.pieces(*BOUNDS))).identity != low.identity


class TestMergesOfMerges:
    def test_a_merge_of_merges_is_the_flat_route(self, oracles, pair):
        third = oracles.gaussian(seed=5, name="third")
        inner = merge(pair, Threshold("low", "high", -1.0))
        nested = merge({"inner": inner, "third": third}, Threshold("inner", "third", 2.0))
        flat = merge({**pair, "third": third}, Piecewise([Stretch("low", -1.0), Stretch("high", 2.0), Stretch("third")]))
        assert nested.seams == flat.seams == (-1.0, 2.0)
        z, gamma = states(), torch.tensor(MIXED, dtype=torch.float64)
        torch.testing.assert_close(nested.eps_hat(z, gamma), flat.eps_hat(z, gamma), rtol=1e-13, atol=1e-13)
        assert nested(z, gamma).calls == {"inner.low": 4, "inner.high": 2, "third": 1}
        for ours, theirs in zip(nested.pieces(*BOUNDS), flat.pieces(*BOUNDS), strict=True):
            assert ours[:2] == theirs[:2]
            for end in ours[:2]:
                assert torch.equal(ours.expert.eps_hat(z, end), theirs.expert.eps_hat(z, end))
        for solver in (snrouter.ODE(), snrouter.Heun(5), snrouter.Ancestral(5)):
            ours, theirs = (snrouter.sample(e, 3, (6,), BOUNDS, solver, final="denoise") for e in (nested, flat))
            torch.testing.assert_close(ours.x, theirs.x, rtol=1e-5, atol=1e-5)
            assert ours.nfe == theirs.nfe
            assert sorted(ours.nfe_per_expert) == ["inner.high", "inner.low", "third"]

    def test_a_seam_of_an_expert_where_the_route_does_not_use_it_is_none(self, pair):
        inner = merge(pair, Threshold("low", "high", -1.0))
        assert merge({"a": pair["low"], "i": inner}, Threshold("a", "i", 2.0)).seams == (2.0,)
        assert merge({"a": pair["low"], "i": inner}, Threshold("a", "i", -1.0)).seams == (-1.0,)
        assert merge({"a": pair["low"], "i": inner}, Threshold("a", "i", -3.0)).seams == (-3.0, -1.0)
        assert merge({"i": inner}, Single("i")).seams == (-1.0,)


class Labelled(nn.Module):
    """A network whose noise is its condition."""

    def forward(self, scaled, level, condition):
        return torch.zeros_like(scaled) if condition is None else torch.zeros_like(scaled) + condition[:, None]


def test_a_conditional_expert_merges_with_an_unconditional_one(pair):
    labelled = snrouter.wrap(Labelled(), "eps", (-20, 20), conditional=True)
    merged = merge({"labelled": labelled, "high": pair["high"]}, Threshold("labelled", "high", -1.0))
    z, gamma, labels = states(), torch.tensor(MIXED, dtype=torch.float64), torch.arange(7.0, dtype=torch.float64)
    eps = merged.eps_hat(z, gamma, labels)
    mine = gamma <= -1.0
    assert torch.equal(eps[mine], labels[mine][:, None].expand(-1, 6))  # each row with its own label
    torch.testing.assert_close(eps[~mine], pair["high"].eps_hat(z[~mine], gamma[~mine]), rtol=1e-12, atol=1e-12)
    images = torch.zeros(7, 6, dtype=torch.float64)
    for estimator in ("ode", "vlb"):
        values = [
            snrouter.bits_per_dim(merged, images, BOUNDS, estimator, "none", condition=c, times=8).value
            for c in (labels, labels.flip(0), 2 * labels)
        ]
        assert values[0] == pytest.approx(values[1], rel=0.2)
        assert abs(values[2] - values[0]) > 0.01
    solver = snrouter.Heun(5)
    samples = snrouter.sample(merged, 7, (6,), BOUNDS, solver, condition=labels, batch_size=3, final="none").x
    assert torch.allclose(samples, snrouter.sample(merged, 7, (6,), BOUNDS, solver, condition=labels, final="none").x, atol=1e-5)
    assert not torch.allclose(samples, snrouter.sample(merged, 7, (6,), BOUNDS, solver, final="none").x)


class TestSupport:
    def test_a_route_asked_beyond_its_support_names_the_expert(self, oracles):
        experts = {
            "low": oracles.gaussian(support=(-13.3, 5.0), name="low"),
            "high": oracles.gaussian(support=(-12.43, 8.76), name="high"),
        }
        merged = merge(experts, Threshold("low", "high", -5.0))
        assert merged.support == (-13.3, 8.76)
        for bounds, name in (((-14.0, 5.0), "low"), ((-13.3, 9.0), "high")):
            for call in (
                lambda bounds: snrouter.sample(merged, 2, (6,), bounds),
                lambda bounds: snrouter.sample(merged, 2, (6,), bounds, snrouter.Ancestral(2)),
                lambda bounds: snrouter.bits_per_dim(merged, oracles.images(2), bounds),
                lambda bounds: merged.require(*bounds),
                lambda bounds: merge({"r": merged}, Single("r")).require(*bounds),
            ):
                with pytest.raises(SupportError, match=f"expert '{name}' was asked at gamma in .* beyond its support"):
                    call(bounds)
        with pytest.raises(SupportError, match="expert 'low' was asked at gamma=-14"):
            merged.eps_hat(states(), torch.tensor([0.0, -14.0, 0, 0, 0, 0, 0]))
        with pytest.raises(SupportError, match="expert 'low' was asked at gamma in"):
            snrouter.bits_per_dim(merged, oracles.images(2), (-14.0, 5.0), "vlb", times=2)

    def test_extrapolation_is_the_permission_of_one_expert_and_warns(self, oracles):
        low = oracles.gaussian(support=(-13.3, 5.0), name="low")
        bold = oracles.gaussian(support=(-12.43, 8.76), name="bold", allow_extrapolation=True)
        merged = merge({"low": low, "bold": bold}, Threshold("low", "bold", -13.0))
        with pytest.warns(UserWarning, match=r"expert 'bold' runs up to 0\.57 in gamma beyond its support"):
            snrouter.sample(merged, 2, (6,), (-13.3, 5.0), snrouter.Ancestral(2))
        with pytest.raises(SupportError, match="expert 'low' was asked at gamma in"):
            snrouter.sample(merged, 2, (6,), (-14.0, 5.0))
        with pytest.raises(SupportError, match="expert 'low' was asked at gamma=-14"):
            merged.eps_hat(states(), -14.0)


class Faulty(nn.Module):
    def forward(self, scaled, level, condition):
        return scaled.masked_fill((level > 1.0)[:, None], torch.nan)


@pytest.mark.parametrize("solver", SOLVERS)
def test_nan_from_one_expert_of_a_route_names_it_and_its_gamma(pair, solver):
    faulty = snrouter.wrap(Faulty(), "v", (-20, 20), name="quality")
    merged = merge({"low": pair["low"], "quality": faulty}, Threshold("low", "quality", -1.0))
    with pytest.raises(NonFiniteError, match=r"expert 'quality' returned NaN or infinity at gamma=5 for 2 of 2 images"):
        snrouter.sample(merged, 2, (6,), BOUNDS, SOLVERS[solver])


class TestIdentities:
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("bounds", [BOUNDS, (-13.3, 5.1), (-8.0, 4.0)])
    def test_a_threshold_at_either_end_is_the_single_expert_bit_for_bit_in_samples(self, pair, bounds, solver):
        for eta, alone in ((0, "high"), (1, "low")):
            for switch in (snrouter.position({"eta": eta}, bounds), bounds[eta]):
                merged = merge(pair, Threshold("low", "high", switch))
                for final in ("none", "denoise"):
                    ours, single = (
                        snrouter.sample(e, 5, (6,), bounds, SOLVERS[solver], final=final) for e in (merged, pair[alone])
                    )
                    assert torch.equal(ours.x, single.x)
                assert ours.nfe_per_expert == {alone: single.nfe}

    @pytest.mark.parametrize(
        "options",
        [
            {"estimator": "vlb", "times": 8},
            {"estimator": "vlb", "times": 8, "steps": 4},
            {"estimator": "ode", "solver": snrouter.ODE(rtol=1e-3, atol=1e-3)},
            {"estimator": "ode", "solver": snrouter.ODE("rk4", steps=5), "divergence": "exact"},
        ],
    )
    @pytest.mark.parametrize("bounds", [BOUNDS, (-13.3, 5.1), (-8.0, 4.0)])
    def test_a_threshold_at_either_end_is_the_single_expert_bit_for_bit_in_likelihood(self, oracles, pair, bounds, options):
        images = oracles.images(3)
        for eta, alone in ((0, "high"), (1, "low")):
            merged = merge(pair, Threshold("low", "high", snrouter.position({"eta": eta}, bounds)))
            ours, single = (snrouter.bits_per_dim(e, images, bounds, **options) for e in (merged, pair[alone]))
            assert torch.equal(ours.values, single.values)
            assert ours.nfe_per_expert == {alone: single.nfe}

    @pytest.mark.parametrize("eta", [0.25, 0.5])
    def test_a_route_over_copies_of_one_expert_is_that_expert(self, oracles, mixture, eta):
        merged = merge({"a": mixture, "b": oracles.mixture()}, Threshold("a", "b", snrouter.position({"eta": eta}, BOUNDS)))
        images = oracles.images(3)
        for solver in (snrouter.ODE("rk4", steps=8), snrouter.DDIM(8), snrouter.Ancestral(8)):  # the switch is a node
            ours, single = (snrouter.sample(e, 5, (6,), BOUNDS, solver, final="none") for e in (merged, mixture))
            torch.testing.assert_close(ours.x, single.x, rtol=1e-5, atol=1e-5)
            assert ours.nfe == single.nfe
        tight = snrouter.ODE(rtol=1e-9, atol=1e-9)
        ours, single = (snrouter.sample(e, 5, (6,), BOUNDS, tight, final="none", dtype=torch.float64) for e in (merged, mixture))
        torch.testing.assert_close(ours.x, single.x, rtol=1e-7, atol=1e-7)
        for options in (
            {"estimator": "vlb", "times": 8},
            {"solver": snrouter.ODE("rk4", steps=8)},
            {"solver": snrouter.ODE("rk4", steps=8), "divergence": "exact"},
        ):
            ours, single = (snrouter.bits_per_dim(e, images, BOUNDS, **options) for e in (merged, mixture))
            torch.testing.assert_close(ours.values, single.values, rtol=1e-12, atol=1e-12)


class Jumpy(Crossfade):
    invertible = False


def test_a_policy_that_jumps_in_z_has_a_bound_but_no_exact_likelihood(oracles, pair):
    merged = merge(pair, Jumpy())
    assert not merged.invertible
    assert not merge({"r": merged, "low": pair["low"]}, Threshold("low", "r", 0.0)).invertible
    assert merge(pair, Crossfade()).invertible
    with pytest.raises(SpecError, match=r"needs an invertible flow.*use estimator: vlb"):
        snrouter.bits_per_dim(merged, oracles.images(2), BOUNDS)
    assert snrouter.bits_per_dim(merged, oracles.images(2), BOUNDS, "vlb", times=4).value > 0
