"""The built-ins pass the contract suite that plugin authors run, and the suite catches what breaks a promise."""

import dataclasses
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import snrouter
from snrouter.data.digits import digits
from snrouter.data.npz import npz
from snrouter.experts.base import Expert
from snrouter.experts.gaussian import gaussian
from snrouter.experts.gaussian_mixture import gaussian_mixture
from snrouter.experts.networks.gate import GateNetwork
from snrouter.experts.networks.unet import UNet
from snrouter.metrics.base import PairMetric, RouteMetric, SampleMetric, Summary
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.metrics.cost import Cost
from snrouter.metrics.frechet import Frechet
from snrouter.metrics.gating import Gating
from snrouter.metrics.inception_score import InceptionScore
from snrouter.metrics.kernel_distance import KernelDistance
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.nearest_neighbour import NearestNeighbour
from snrouter.metrics.pairs import PSNR, SSIM
from snrouter.metrics.precision_recall import Precision, Recall
from snrouter.router.base import GammaPolicy
from snrouter.solvers.base import Solver
from snrouter.testing import DatasetContract, ExpertContract, MetricContract, PolicyContract, SolverContract

EMBEDDED = Path(str(files("snrouter.embedded")))
SUPPORT = (-13.3, 5.0)


# --- experts ---------------------------------------------------------------------------------------------------------


class TestGaussian(ExpertContract):
    def make(self):
        return gaussian([0.1], [0.4], shape=self.shape)


class TestGaussianMixture(ExpertContract):
    def make(self):
        return gaussian_mixture([1, 3], [-0.5, 0.4], [0.1, 0.2], shape=self.shape)


class TestDiscrete(ExpertContract):
    network = False

    def make(self):
        return snrouter.Discrete(17)


class TestMarginalDiscrete(ExpertContract):
    shape, network = (3, 4, 4), False

    def make(self):
        return snrouter.Discrete(256, torch.arange(3 * 256).reshape(3, 256) % 50)


class TestUNet(ExpertContract):
    shape = (2, 4, 4)
    prediction, clock, support, classes = "v", "cosine", (-12.0, 9.0), 0

    def make(self):
        network = UNet(in_channels=2, channels=(4, 8), fourier=(1,), classes=self.classes, dropout=0.5).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return snrouter.wrap(network, self.prediction, self.support, clock=self.clock, conditional=bool(self.classes))


class TestEDM(TestUNet):
    prediction, clock, support, classes = "edm", "edm_c_noise", (-12.43, 8.76), 3

    def condition(self, batch):
        return torch.arange(batch) % 3


class TestRoutedExpert(ExpertContract):
    def make(self):
        experts = {name: gaussian([0.1], [scale], shape=self.shape) for name, scale in (("low", 0.2), ("high", 0.5))}
        inner = snrouter.merge(experts, snrouter.Threshold("low", "high", -1.5))
        return snrouter.merge({"inner": inner, "low": experts["low"]}, snrouter.Threshold("low", "inner", -4.0))


class TestEmbedded(ExpertContract):
    def make(self):
        return snrouter.load_expert("vdm", EMBEDDED / "digits-likelihood.safetensors")


# --- policies --------------------------------------------------------------------------------------------------------


class TestThreshold(PolicyContract):
    def make(self):
        return snrouter.Threshold("likelihood", "quality", -5.98)


class TestSingle(PolicyContract):
    def make(self):
        return snrouter.Single("quality")


class TestPiecewise(PolicyContract):
    def make(self):
        stretches = [("a", -6.0), ("b", -2.5), ("a", -1.0), ("a", 2.0), ("c", None)]
        return snrouter.Piecewise([snrouter.Stretch(*stretch) for stretch in stretches])


class TestFixed(PolicyContract):
    def make(self):
        return snrouter.Fixed({"a": 0.25, "idle": 0, "b": 0.75})


class TestRandom(PolicyContract):
    def make(self):
        return snrouter.Random(["a", "b", "c"], seed=3)


class TestByClass(PolicyContract):
    def make(self):
        return snrouter.ByClass({"round": [0, 6], "straight": [1]})

    def condition(self, batch):
        return torch.ones(batch, dtype=torch.long)


class TestGate(PolicyContract):
    def make(self):
        torch.manual_seed(0)
        network = GateNetwork(experts=3, channels=[4]).double().eval().requires_grad_(False)
        torch.nn.init.normal_(network.mix[-1].weight, std=2.0)
        return snrouter.Gate(network, ("a", "b", "c"))


class TestTopK(TestGate):
    def make(self):
        return snrouter.TopK(super().make(), 2)


class TestTopKOfRandom(PolicyContract):
    def make(self):
        return snrouter.TopK(snrouter.Random(["a", "b", "c"]), 1)


# --- solvers ---------------------------------------------------------------------------------------------------------


class TestODE(SolverContract):
    tolerance, order, coupled = 1e-3, None, True

    def make(self, steps):
        return snrouter.ODE()


class TestRungeKutta(SolverContract):
    tolerance, order = 1e-4, 4

    def make(self, steps):
        return snrouter.ODE("rk4", steps=steps)


class TestEuler(SolverContract):
    tolerance = 0.1

    def make(self, steps):
        return snrouter.Euler(steps)


class TestHeun(SolverContract):
    order = 2

    def make(self, steps):
        return snrouter.Heun(steps)


class TestDDIM(SolverContract):
    tolerance = 0.1

    def make(self, steps):
        return snrouter.DDIM(steps)


class TestStochasticDDIM(SolverContract):
    tolerance, stochastic, encodes = 0.05, True, False

    def make(self, steps):
        return snrouter.DDIM(steps, stochasticity=0.7)


class TestAncestral(SolverContract):
    tolerance, stochastic, encodes = 0.1, True, False

    def make(self, steps):
        return snrouter.Ancestral(steps)


# --- datasets --------------------------------------------------------------------------------------------------------


class TestDigits(DatasetContract):
    def make(self):
        return digits("test")


class TestNpz(DatasetContract):
    @pytest.fixture(autouse=True)
    def archive(self, tmp_path):
        self.path = tmp_path / "images.npz"
        np.savez(self.path, images=np.arange(96, dtype=np.uint8).reshape(6, 1, 4, 4), classes=np.arange(6))

    def make(self):
        return npz(self.path, labels="classes", levels=100)


# --- metrics ---------------------------------------------------------------------------------------------------------


class TestVLB(MetricContract):
    def make(self):
        return BitsPerDim("vlb", times=4)


class TestExactBitsPerDim(MetricContract):
    tolerance = 1e-3

    def make(self):
        return BitsPerDim("ode", images=12)


class TestFrechet(MetricContract):
    images = 32

    def make(self):
        return Frechet(EMBEDDED / "digits-classifier.safetensors", samples=32)


class TestFrechetOfBlocks(MetricContract):
    images, order_matters = 64, True

    def make(self):
        return Frechet(EMBEDDED / "digits-classifier.safetensors", samples=32, repeats=2)


class TestKernelDistance(MetricContract):
    def make(self):
        return KernelDistance(EMBEDDED / "digits-classifier.safetensors", samples=12)


class TestInceptionScore(MetricContract):
    images, order_matters = 20, True

    def make(self):
        return InceptionScore(EMBEDDED / "digits-classifier.safetensors", samples=20)


class TestPrecision(MetricContract):
    def make(self):
        return Precision(EMBEDDED / "digits-classifier.safetensors", samples=12)


class TestRecall(MetricContract):
    def make(self):
        return Recall(EMBEDDED / "digits-classifier.safetensors", samples=12)


class TestSSIM(MetricContract):
    def make(self):
        return SSIM(images=12)


class TestPSNR(MetricContract):
    def make(self):
        return PSNR(pairs="same_noise", against="quality", images=12)


class TestCost(MetricContract):
    images = 4

    def make(self):
        return Cost(batch=2, repetitions=4)


class TestGating(MetricContract):
    def make(self):
        return Gating(times=4)

    def expert(self):
        experts = {name: super(TestGating, self).expert() for name in ("low", "high")}
        return snrouter.merge(experts, snrouter.router.mixture.Random(("low", "high")))


class TestNearestNeighbour(MetricContract):
    def make(self):
        return NearestNeighbour(samples=12)


class TestNearestNeighbourInFeatures(MetricContract):
    def make(self):
        return NearestNeighbour(12, "classifier", EMBEDDED / "digits-classifier.safetensors")


# --- a contract that is broken ---------------------------------------------------------------------------------------


class Leaky(Expert):
    """A Gaussian whose prediction is spoilt by a function of it."""

    def __init__(self, spoil):
        super().__init__(snrouter.GammaInterval(*SUPPORT), "leaky")
        self.inner, self.spoil = gaussian([0.0], [0.5], shape=(1, 8, 8)), spoil

    def predict(self, z, gamma, condition=None):
        return self.spoil(self, self.inner.predict(z, gamma, condition), z, gamma)


def inside(expert, prediction, gamma):
    expert.require(float(gamma.min()), float(gamma.max()))
    return prediction


SPOILT_EXPERTS = {
    "test_image_and_noise_make_up_the_state": lambda e, p, z, g: inside(e, p._replace(x_hat=p.x_hat * 1.001), g),
    "test_precision_and_shape_are_kept_and_all_is_finite": lambda e, p, z, g: inside(e, p._replace(x_hat=p.x_hat.double()), g),
    "test_rows_do_not_depend_on_batch_mates": lambda e, p, z, g: inside(e, p._replace(eps_hat=p.eps_hat + 1e-6 * z.mean(0)), g),
    "test_asking_twice_gives_the_same_and_leaves_the_state": lambda e, p, z, g: p._replace(eps_hat=torch.rand_like(z)),
    "test_calls_are_counted_by_row": lambda e, p, z, g: p._replace(calls={"": 1}),
    "test_beyond_the_support_is_refused": lambda e, p, z, g: p,
    "test_gradients_reach_the_state": lambda e, p, z, g: p._replace(eps_hat=p.eps_hat - 0.1 * z + 0.1 * z.detach()),
}


@pytest.mark.parametrize("promise", SPOILT_EXPERTS)
def test_a_broken_expert_is_caught(promise):
    class Contract(ExpertContract):
        def make(self):
            return Leaky(SPOILT_EXPERTS[promise])

    with pytest.raises(AssertionError):
        getattr(Contract(), promise)()


def test_calls_of_what_has_no_network_are_caught():
    contract = TestGaussian()
    contract.network = False
    with pytest.raises(AssertionError, match="expected no calls of what has no network"):
        contract.test_calls_are_counted_by_row()


@dataclasses.dataclass(frozen=True)
class Forgetful(GammaPolicy):
    """A threshold that forgets its seam, or the piece it is restricted to."""

    forgets: str

    @property
    def route(self):
        return ("a", "b"), (-2.0,)

    @property
    def seams(self):
        return () if self.forgets == "seam" else (-2.0,)

    def restrict(self, lo, hi):
        return snrouter.Single("a")


@pytest.mark.parametrize(
    ("forgets", "promise"),
    [
        ("seam", "test_weights_jump_at_seams_and_nowhere_else"),
        ("piece", "test_a_restricted_policy_holds_on_the_piece_both_ends"),
    ],
)
def test_a_broken_policy_is_caught(forgets, promise):
    class Contract(PolicyContract):
        def make(self):
            return Forgetful(forgets)

    with pytest.raises(AssertionError):
        getattr(Contract(), promise)()


@dataclasses.dataclass(frozen=True)
class Sly(snrouter.Fixed):
    """Weights that do what they promise not to."""

    does: str = ""

    def weights(self, gamma, z, condition=None):
        rows = super().weights(gamma, z, condition)
        swapped = {
            "jumps in z": z.flatten(1).sum(1) > 0.1,
            "knows its row": torch.arange(len(z)) % 2 == 1,
            "is below zero": torch.zeros(len(z), dtype=torch.bool),
        }[self.does]
        rows = torch.where(swapped[:, None], rows.flip(1), rows)
        return torch.tensor([1.5, -0.5]) + 0 * rows if self.does == "is below zero" else rows


@pytest.mark.parametrize(
    ("does", "promise", "message"),
    [
        ("jumps in z", "test_weights_of_an_invertible_policy_do_not_jump_in_z", r"weights jump by 0\.5\d* in z .* not invertible"),
        ("knows its row", "test_weights_of_a_sample_are_its_own", "weight of 'a' in another order"),
        ("is below zero", "test_weights_sum_to_one", "a weight is -0.5, below zero"),
    ],
)
def test_a_mixture_that_breaks_a_promise_is_caught(does, promise, message):
    class Contract(PolicyContract):
        def make(self):
            return Sly({"a": 0.25, "b": 0.75}, does)

    with pytest.raises(AssertionError, match=message):
        getattr(Contract(), promise)()


class Careless(Solver):
    """Heun that steps over the seam, miscounts, drops condition and progress, and knows no index."""

    def __init__(self, steps):
        self.steps = steps

    def solve(self, expert, z, interval, *, indices=None, condition=None, seed=0, direction="sample", progress=None):
        class Seamless(Expert):
            predict = staticmethod(lambda z, gamma, condition=None: expert.predict(z, gamma))

        whole = Seamless(expert.support, expert.name)
        solution = snrouter.Heun(self.steps).solve(whole, z, interval)
        return solution._replace(nfe=1.0, z=solution.z + 1e-8 * torch.rand_like(z))


@pytest.mark.parametrize(
    ("promise", "message"),
    [
        ("test_it_follows_the_flow_also_across_a_seam", r"order .* across a seam, declared 2|flow across a seam is missed"),
        ("test_a_sample_does_not_depend_on_its_batch", "alone and in a batch"),
        ("test_network_calls_are_counted", "nfe is 1, the expert saw 64"),
        ("test_condition_and_progress_are_passed_on", "without its rows of the condition"),
        ("test_encoding_is_undone_by_sampling", "encoded, then sampled"),
        ("test_what_it_is_given_is_kept", "tells an address"),
    ],
)
def test_a_broken_solver_is_caught(promise, message):
    class Contract(SolverContract):
        order = 2

        def make(self, steps):
            return Careless(steps)

    with pytest.raises(AssertionError, match=message):
        getattr(Contract(), promise)()


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (lambda data: {"labels": torch.arange(3)}, "test_labels_are_one_an_image"),
        (lambda data: {"pixels": torch.randint_like(data.pixels.long(), 17)}, "test_it_is_the_same_each_time"),
        (lambda data: {"pixels": 1.5 * data.pixels}, "test_images_lie_on_their_levels"),
        (lambda data: {"pixels": data.pixels[:, 0]}, "test_images_lie_on_their_levels"),
    ],
)
def test_a_broken_dataset_is_caught(change, promise):
    class Contract(DatasetContract):
        def make(self):
            data = dataclasses.replace(digits("test"), levels=32)
            return dataclasses.replace(data, **change(data))

    with pytest.raises(AssertionError):
        getattr(Contract(), promise)()


@dataclasses.dataclass(frozen=True)
class Brightness(SampleMetric):
    """Mean pixel of samples, spoilt by a function of its images or of its summary."""

    images: Callable = lambda images: images
    summary: Callable = lambda summary: summary

    def count(self, context):
        return 12

    def summarise(self, context, measured):
        each = self.images(measured["images"][:12]).double().mean((1, 2, 3))
        return self.summary(Summary(float(each.mean()), standard_error(each), each))


def first_is_double(images):
    return torch.cat([2 * images[:1], images[1:]])


@pytest.mark.parametrize(
    ("spoilt", "promise"),
    [
        ({"images": first_is_double}, "test_order_does_not_matter"),
        ({"summary": lambda s: dataclasses.replace(s, standard_error=1.0)}, "test_the_number_comes_with_its_error"),
        ({"summary": lambda s: dataclasses.replace(s, influence=s.influence[1:])}, "test_the_number_comes_with_its_error"),
        ({"images": lambda images: images / 0}, "test_fewer_rows_than_asked_for_will_do"),
    ],
)
def test_a_broken_metric_is_caught(spoilt, promise):
    class Contract(MetricContract):
        def make(self):
            return Brightness(**spoilt)

    with pytest.raises(AssertionError):
        getattr(Contract(), promise)()


def test_a_metric_of_blocks_says_that_order_matters():
    contract = TestInceptionScore()
    contract.test_order_does_not_matter()
    contract.order_matters = False
    with pytest.raises(AssertionError, match=r" then \d"):
        contract.test_order_does_not_matter()


@dataclasses.dataclass(frozen=True)
class Coupled(PairMetric):
    """A difference of pairs relative to all of them, or of all pairs there are rather than those asked for."""

    pairs = "reconstruction"
    against = None
    relative: bool

    def count(self, context):
        return 12

    def summarise(self, context, measured):
        each = (measured["images"] - measured["others"]).double().abs().mean((1, 2, 3))
        each = each[:12] / each.mean() if self.relative else each
        return Summary(float(each.mean()), standard_error(each), each - each.mean())


@pytest.mark.parametrize(
    ("relative", "promise"),
    [(True, "test_each_pair_is_compared_by_itself"), (False, "test_fewer_rows_than_asked_for_will_do")],
)
def test_a_metric_that_couples_pairs_is_caught(relative, promise):
    class Contract(MetricContract):
        def make(self):
            return Coupled(relative)

    with pytest.raises(AssertionError):
        getattr(Contract(), promise)()


@dataclasses.dataclass(frozen=True)
class Lengthy(RouteMetric):
    """Calls of a draw, spoilt by a function of its rows."""

    rows: Callable

    def count(self, context):
        return 5

    def measure(self, context, expert):
        return self.rows({"calls": torch.full((5,), context.draw(expert, range(2)).nfe)})

    def summarise(self, context, measured):
        return Summary(float(measured["calls"].mean()), 0.0, None, {"first": measured["calls"][0].item()})


@pytest.mark.parametrize(
    ("rows", "promise"),
    [
        (lambda rows: rows | {"seconds": rows["calls"]}, "test_measurements_are_one_a_row_and_independent"),
        (lambda rows: {"calls": rows["calls"] / 0}, "test_the_number_comes_with_its_error"),
    ],
)
def test_a_broken_route_metric_is_caught(rows, promise):
    def contract(spoil):
        class Contract(MetricContract):
            def make(self):
                return Lengthy(spoil)

        return Contract()

    getattr(contract(lambda rows: rows), promise)()
    with pytest.raises(AssertionError):
        getattr(contract(rows), promise)()
