"""Coloured noise: errors that remember. A system in, a larger system out, for any filter with a gain.

With η_k = Λ η_{k−1} + μ_k and ε_k = Γ ε_{k−1} + φ_k (Drécourt 2003, eqs 3.18–3.23) the state becomes (x, η, ε), in the
augmented form, which gaps do not disturb. The errors of the system given are those of the driving noises μ and φ; what
they add up to in the long run has variance σ² / (1 − λ²).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from hydroda.filters.algebra import root
from hydroda.filters.beliefs import Belief
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, System


def augmented(system: System, model: Tensor | None = None, gauge: Tensor | None = None) -> System:
    """The system on (x, η, ε) for Λ = `model` (c or 1, n, n) and Γ = `gauge` (c or 1, q, q), or (1, 1, 1) where all
    components forget alike; without one of them that noise stays white and is no part of the state.

    With `gauge` nothing is left of R: filters that weigh by the density of an observation cannot use the system.
    """

    def parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = 0 if gauge is None else gauge.shape[-1]
        n = (z.shape[-1] - q) // (1 if model is None else 2)
        return z[..., :n], z[..., n : z.shape[-1] - q], z[..., z.shape[-1] - q :]

    def move(z: Tensor, forcing: Tensor) -> Tensor:
        x, eta, epsilon = parts(z)
        moved = system.move(x, forcing)
        if model is not None:
            moved, eta = moved + eta, _forgotten(eta, model)
        if gauge is not None:
            epsilon = epsilon @ gauge.mT.to(epsilon)
        return torch.cat((moved, eta, epsilon), -1)

    def see(z: Tensor) -> Tensor:
        x, _, epsilon = parts(z)
        return system.see(x) if gauge is None else system.see(x) + epsilon

    def model_error(mean: Tensor) -> Tensor:
        x, eta, _ = parts(mean)
        driving = system.model_error(x)
        every = pad(driving, (0, 0, eta.shape[-1], 0))  # on η where there is one, on x elsewhere
        if gauge is None:
            return every
        own = root(system.observation_error(system.see(x)[:, 0])).expand(every.shape[0], -1, -1)
        above = pad(every.expand(own.shape[0], -1, -1), (0, own.shape[-1]))
        return torch.cat((above, pad(own, (every.shape[-1], 0))), -2)

    def observation_error(y: Tensor) -> Tensor:
        r = system.observation_error(y)
        return r if gauge is None else torch.zeros_like(r)

    return System(move, see, model_error, observation_error)  # noises have a sign: nothing is known of stores


def coloured(build: Build, model: Tensor | None = None, gauge: Tensor | None = None) -> Build:
    """A filter of the augmented system, whose noises begin with the covariance of one hour's driving noise.

    Raises ValueError for `gauge` with a filter that weighs its members, all of which an observation without white noise
    would exclude.
    """

    def made(system: System) -> Filter:
        wide = augmented(system, model, gauge)
        inner = build(wide)
        if gauge is not None:
            inner.verbs("coloured noise of the gauge")

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Belief:
            n = mean.shape[-1]
            extra = (0 if model is None else n) + (0 if gauge is None else gauge.shape[-1])
            z = pad(mean, (0, extra))
            driving = wide.model_error(z)
            own = (driving @ driving.mT).expand(mean.shape[0], -1, -1)
            blank = torch.zeros_like(own)
            blank[:, n:, n:] = own[:, n:, n:]
            return inner.init(z, blank + pad(cov, (0, extra, 0, extra)), noise)

        return inner.begun(init)

    return made


def remembered(build: Build, *, model_hours: float = 0.0, gauge_hours: float = 0.0) -> Build:
    """A filter of one gauge whose model and gauge errors are forgotten with these e-folding times; zero is white noise.

    λ = e^(−1/τ) an hour. Raises ValueError for a negative time, or when neither is coloured.
    """
    if min(model_hours, gauge_hours) < 0 or model_hours == gauge_hours == 0:
        raise ValueError(
            f"coloured.remembered: model_hours is {model_hours}, gauge_hours is {gauge_hours}; give at least one "
            "positive and none negative"
        )

    def memory(hours: float) -> Tensor | None:
        return torch.full((1, 1, 1), math.exp(-1.0 / hours), dtype=torch.float64) if hours > 0 else None

    return coloured(build, memory(model_hours), memory(gauge_hours))


def _forgotten(eta: Tensor, model: Tensor) -> Tensor:
    """Λ η; a Λ of one number is the same for every component."""
    memory = model.to(eta)
    return eta * memory if memory.shape[-1] == 1 else eta @ memory.mT
