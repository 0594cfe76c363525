"""What every expert promises."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SupportError
from snrouter.experts.base import Expert, expand
from snrouter.gamma import SUPPORT_TOLERANCE, alpha, sigma
from snrouter.testing.oracles import EXACT, close, noisy, refuses


class ExpertContract(ABC):
    """What every expert promises."""

    shape: tuple[int, ...] = (1, 8, 8)
    """Shape of an image it takes."""

    network = True
    """Whether it has a network, whose calls are counted."""

    @abstractmethod
    def make(self) -> Expert:
        """A new expert, without `allow_extrapolation`."""

    def condition(self, batch: int) -> Tensor | None:
        """What it is conditioned on, one row an image."""
        return None

    def question(self, dtype: torch.dtype = torch.float64) -> tuple[Expert, Tensor, Tensor, Tensor | None]:
        """An expert, and states of images at gammas over its whole support, both ends included: expert, z, gamma, condition."""
        expert = self.make().to(dtype).requires_grad_(False)
        gamma = torch.linspace(*expert.support, 7, dtype=torch.float64)
        return expert, noisy(self.shape, gamma).to(dtype), gamma, self.condition(len(gamma))

    def test_image_and_noise_make_up_the_state(self) -> None:
        """Alpha x_hat + sigma eps_hat = z, in the precision of z."""
        for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, 1e-4)):
            expert, z, gamma, condition = self.question(dtype)
            prediction = expert(z, gamma, condition)
            image, noise = expand(alpha(gamma), z) * prediction.x_hat, expand(sigma(gamma), z) * prediction.eps_hat
            scale = float((image.abs() + noise.abs()).max())
            close(image + noise, z, tolerance * max(scale, 1.0), f"alpha x_hat + sigma eps_hat = z in {dtype}")

    def test_precision_and_shape_are_kept_and_all_is_finite(self) -> None:
        """Outputs have the shape and dtype of z, and are finite at every gamma of the support."""
        for dtype in (torch.float64, torch.float32):
            expert, z, gamma, condition = self.question(dtype)
            for state in (z, torch.zeros_like(z)):
                for output in expert(state, gamma, condition)[:2]:
                    assert output.shape == z.shape, f"expected shape {list(z.shape)}, got {list(output.shape)}"
                    assert output.dtype == dtype, f"expected {dtype} as z is, got {output.dtype}"
                    finite = output.flatten(1).isfinite().all(1)
                    assert bool(finite.all()), f"NaN or infinity in {dtype} at gamma {gamma[~finite].tolist()}"

    def test_rows_do_not_depend_on_batch_mates(self) -> None:
        """A batch of mixed gammas gives each row what it gets alone, its gamma written as a number."""
        expert, z, gamma, condition = self.question()
        mixed = expert(z, gamma, condition)
        for i, value in enumerate(gamma.tolist()):
            alone = expert(z[i : i + 1], value, None if condition is None else condition[i : i + 1])
            close(mixed.eps_hat[i : i + 1], alone.eps_hat, EXACT, f"eps_hat of a row at gamma={value:g} alone and in a batch")
            close(mixed.x_hat[i : i + 1], alone.x_hat, EXACT, f"x_hat of a row at gamma={value:g} alone and in a batch")

    def test_asking_twice_gives_the_same_and_leaves_the_state(self) -> None:
        """No hidden state, no dropout, no draw; z is not written to."""
        expert, z, gamma, condition = self.question()
        before, first, second = z.clone(), expert(z, gamma, condition), expert(z, gamma, condition)
        assert torch.equal(z, before), "z was changed in place"
        assert torch.equal(first.eps_hat, second.eps_hat), "the same question got two answers; is the network in evaluation mode?"

    def test_calls_are_counted_by_row(self) -> None:
        """`calls` are positive, none where there is no network, and those of a batch are the sum of its rows'."""
        expert, z, gamma, condition = self.question()
        calls = expert(z, gamma, condition).calls
        assert self.network or not calls, f"expected no calls of what has no network, got {dict(calls)}"
        assert not self.network or sum(calls.values()) >= len(z), f"expected at least one call a row of {len(z)}, got {dict(calls)}"
        alone: dict[str, int] = {}
        for i in range(len(z)):
            rows = slice(i, i + 1)
            for name, count in expert(z[rows], gamma[rows], None if condition is None else condition[rows]).calls.items():
                alone[name] = alone.get(name, 0) + count
        assert dict(calls) == alone, f"calls of a batch {dict(calls)} are not the sum of its rows' {alone}"

    def test_beyond_the_support_is_refused(self) -> None:
        """One row beyond the support is a `SupportError`; half the tolerance beyond it is not."""
        expert, z, gamma, condition = self.question()
        for end, outward in ((0, -SUPPORT_TOLERANCE), (-1, SUPPORT_TOLERANCE)):
            near, far = gamma.clone(), gamma.clone()
            near[end] += outward / 2
            far[end] += 2 * outward
            expert(z, near, condition)
            refuses(f"asked beyond its support {expert.support}", SupportError, expert, z, far, condition)

    def test_gradients_reach_the_state(self) -> None:
        """Autograd through eps_hat agrees with finite differences; exact likelihoods need its divergence."""
        expert, z, gamma, condition = self.question()
        if not expert.invertible:
            return
        draws, h = Draws(1), 1e-7
        along, onto = (draws.normal(purpose, range(len(z)), self.shape) for purpose in ("along", "onto"))
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(expert(z, gamma, condition).eps_hat, z, onto)
        with torch.no_grad():
            ahead, behind = (expert(z + step * along, gamma, condition).eps_hat for step in (h, -h))
        difference = (ahead - behind) / (2 * h)
        close((gradient * along).flatten(1).sum(1), (difference * onto).flatten(1).sum(1), 1e-4, "gradient of eps_hat in z")

    def test_pieces_cover_the_axis_and_own_both_ends(self) -> None:
        """`pieces` tile the support at `seams`; each piece's expert agrees inside and is smooth up to both ends."""
        expert, z, _, condition = self.question()
        pieces = list(expert.pieces(*expert.support))
        edges, (start, end) = [pieces[0].lo, *(piece.hi for piece in pieces)], expert.support
        assert edges == [start, *expert.seams, end], f"pieces end at {edges}, seams are {expert.seams}"
        for piece, after in itertools.pairwise(pieces):
            assert piece.hi == after.lo, f"neighbouring pieces end at {piece.hi:g} and start at {after.lo:g}"
        for lo, hi, held, _ in pieces:
            assert lo < hi, f"a piece from {lo:g} to {hi:g}"
            close(held(z, (lo + hi) / 2, condition).eps_hat, expert(z, (lo + hi) / 2, condition).eps_hat, EXACT, "inside a piece")
            step = 1e-6 * (hi - lo)
            for end, inside in ((lo, lo + step), (hi, hi - step)):
                there, near = held(z, end, condition).eps_hat, held(z, inside, condition).eps_hat
                close(there, near, 1e-2, f"the expert of [{lo:g}, {hi:g}] jumps at gamma={end:g}")
