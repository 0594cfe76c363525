"""NetworkExpert: a trained network, what its output means, its clock and the noise it was trained on.

A network trained on pixels r x (`data_scale` r; 256/255 for EDM, whose grid is k/127.5 - 1) is fed r x at edm_sigma r s:
gamma' = gamma + 2 ln r, z' = r (alpha'/alpha) z. Noise is unchanged by this, and the image it returns is divided by r.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from snrouter.errors import CheckpointError, NonFiniteError, SnrouterError, SpecError
from snrouter.experts.base import Expert, Prediction, batch_gamma, expand, one_value
from snrouter.experts.networks.adapter_unet import Joined
from snrouter.experts.parameterization import Parameterization
from snrouter.gamma import GammaInterval, alpha
from snrouter.schedules import Clock


class NetworkExpert(Expert):
    """A network on the axis.

    Args:
        network: called as `network(c_in z, noise_level, condition)`; z [B, ...] and noise_level [B] in its own dtype. Of a `Joined`
            several experts may share the trunk, which then runs once for all that are asked together.
        parameterization: gamma -> `Coefficients`, in the network's own gamma.
        clock: gamma [B] -> noise level [B], likewise.
        support: the network's own gammas, before `data_scale`.
        data_scale: pixels are multiplied by this before they reach the network.
        conditional: whether the network takes `condition`; others are given None.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        clock: Clock,
        support: GammaInterval,
        *,
        data_scale: float = 1.0,
        conditional: bool = False,
        name: str = "network",
        allow_extrapolation: bool = False,
    ) -> None:
        if not (math.isfinite(data_scale) and data_scale > 0):
            raise SpecError(f"data_scale of expert {name!r}: expected a positive number, got {data_scale:g}")
        self_shift = 2 * math.log(data_scale)
        shifted = GammaInterval(support.gamma_min - self_shift, support.gamma_max - self_shift)
        super().__init__(shifted, name, allow_extrapolation)
        self.network = network
        self.parameterization = parameterization
        self.clock = clock
        self.data_scale = data_scale
        self.conditional = conditional

    @property
    def trunk(self) -> tuple[object, ...] | None:
        """What its network may share, and how that is fed: experts of equal ones have the same features. None without a trunk."""
        if not isinstance(self.network, Joined):
            return None
        return self.network.trunk, self.parameterization, self.clock, self.data_scale, self.conditional

    def features(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Tensor:
        """What its trunk gives for a batch, to be handed to `predict` of every expert with an equal `trunk`.

        Args:
            z: noisy states in the VP frame, [B, ...].
            gamma: float64 [B] on the CPU.
            condition: class labels or another condition, [B, ...], or None.

        Raises:
            SpecError: where it has no trunk.
        """
        if not isinstance(self.network, Joined):
            raise SpecError(f"expert {self.name!r}: expected a network with a trunk and a head; it has no features to share")
        own, scale = self._place(gamma)
        return self._run(self.network.trunk, z, own, scale * self.parameterization(own).c_in, condition)

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None, features: Tensor | None = None) -> Prediction:
        """One call of the network, or of its head alone where its `features` of this batch are given."""
        self.require(*map(float, gamma.detach().aminmax()))
        own, scale = self._place(gamma)
        c_in, a, b, c, d = self.parameterization(own)
        output = self._run(self.network, z, own, c_in * scale, condition) if features is None else self._read(features)
        if output.shape != z.shape:
            raise CheckpointError(
                f"expert {self.name!r} returned shape {list(output.shape)} for an input of {list(z.shape)}; "
                f"expected the same shape: is this the right network for these images?"
            )
        if not math.isfinite(float(output.detach().sum())):
            self._refuse_non_finite(output, gamma)
        output = output.to(z.dtype)
        return Prediction(
            eps_hat=expand(a * scale, z) * z + expand(b, z) * output,
            x_hat=expand(c * scale / self.data_scale, z) * z + expand(d / self.data_scale, z) * output,
            calls={"": len(z)},
        )

    def _read(self, features: Tensor) -> Tensor:
        assert isinstance(self.network, Joined)
        output: Tensor = self.network.head(features)
        return output

    def _place(self, gamma: Tensor) -> tuple[Any, Any]:
        """The network's own gamma, and the factor from our z to its own; floats where one gamma is the whole batch's."""
        at: Any = one_value(gamma)  # the arithmetic is the same for a float and for a tensor
        own = at + 2 * math.log(self.data_scale)
        return own, self.data_scale * alpha(own) / alpha(at)

    def _run(self, module: nn.Module, z: Tensor, own: Any, factor: Any, condition: Tensor | None) -> Tensor:
        """The network, or its trunk, fed `factor` z."""
        weight = next(self.network.parameters(), z)
        try:
            output: Tensor = module(
                (expand(factor, z) * z).to(weight.dtype),
                self.clock(batch_gamma(own, len(z))).to(weight),
                condition if self.conditional else None,
            )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, SpecError):
                raise SpecError(f"expert {self.name!r}: {error}") from None
            if isinstance(error, SnrouterError):
                raise
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"expert {self.name!r} cannot take images of shape {list(z.shape[1:])} ({reason}); "
                f"is this the right network, and condition, for these images?"
            ) from error
        return output

    def _refuse_non_finite(self, output: Tensor, gamma: Tensor) -> None:
        """Raise unless it was only the sum that overflowed."""
        bad = ~torch.isfinite(output).flatten(1).all(1).cpu()
        if bool(bad.any()):
            raise NonFiniteError(
                f"expert {self.name!r} returned NaN or infinity at gamma={float(gamma[bad][0]):g} for "
                f"{int(bad.sum())} of {len(output)} images; check its weights, or run it in float32"
            )
