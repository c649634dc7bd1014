"""Biased forecasts: filters that estimate a bias beside the state.

Bias convention: x^f = truth + b, so that a positive b is a forecast that is too high. Observations must have none: a
constant offset of a gauge cannot be told from −H b.
"""

from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, jacobian, joseph, product, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian, chosen
from hydroda.filters.nested import Separate, WithBias
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, Recipe, System, Update, likelihood, weighed

VARIANTS = ("blind", "online", "feedback")


def aware(build: Build, *, variant: str = "online", bias_share: float = 0.02) -> Build:
    """A filter beside which the bias of the forecast is estimated (Dee & Da Silva 1998; Drécourt 2003, eqs 3.24–3.45).

    The bias has the share γ of the forecast covariance: b ← b − L (y − h(x^f − b)) with L = γ C S⁻¹, and the state is
    corrected with K = (1 − γ) C ((1 − γ) cov(y) + R)⁻¹.

    - blind: x^f + K (y − h(x^f)), the bias is only looked at;
    - online: the same is handed to the model, the mean is (x^f − b) + K (y − h(x^f − b));
    - feedback: that mean is handed to the model, so that b is what each hour adds, not what has piled up.

    With feedback the error of a store that the gauge hardly sees is fed back every hour and grows; the default costs a
    model without bias nothing. γ = 0 is the filter itself, bit for bit. Raises ValueError for another variant or γ
    outside [0, 1].
    """
    if variant not in VARIANTS:
        raise ValueError(f"bias.aware: variant is {variant!r}, it must be one of {', '.join(VARIANTS)}")
    if not 0.0 <= bias_share <= 1.0:
        raise ValueError(f"bias.aware: bias_share is {bias_share}, it must be from 0 to 1")

    def made(system: System) -> Filter:
        inner = build(system)
        recipe, world = inner.verbs("bias.aware"), inner.system

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> WithBias:
            state = inner.init(mean, cov, noise)
            none = torch.zeros_like(state.mean)
            return WithBias(state, none, none)

        def forecast(belief: Belief, hour: Hour) -> WithBias:
            start = belief.state.shifted(-belief.offset) if variant == "feedback" else belief.state
            offset = torch.zeros_like(belief.bias) if variant == "blind" else belief.bias
            return WithBias(inner.forecast(start, hour), belief.bias, offset)

        def observe(belief: Belief) -> Predicted:
            return recipe.observe(belief.state.shifted(-belief.offset))

        def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
            prior = forecast(belief, hour)
            expected = recipe.observe(prior.state.shifted(-prior.bias))
            predicted, r, innovation, seen = weighed(world, expected, hour)
            s = predicted.cov + r
            bias = prior.bias - product(innovation.unsqueeze(-2), bias_share * divided(predicted.cross, s))
            fair = prior.state.shifted(-bias)
            state, own = _corrected(
                world, recipe, fair if variant == "feedback" else prior.state, 1.0 - bias_share, hour
            )
            offset = torch.zeros_like(bias)
            if variant == "online":  # (I − K H) b
                e = weighed(world, recipe.observe(fair), hour)[2]
                offset = bias - product((e - own.innovation).unsqueeze(-2), own.gain)
            posterior = WithBias(state, bias, offset)
            some = seen.any(-1)
            update = Update(innovation, s, own.gain, likelihood(innovation, s, seen), seen, expected, r)
            return posterior if some.all() else chosen(some, posterior, prior), update

        return Filter(world, init, forecast, observe, step)

    return made


def _corrected(world: System, recipe: Recipe, state: Belief, share: float, hour: Hour) -> tuple[Belief, Update]:
    """A state corrected by the gain for a `share` of its covariance, and how."""
    expected = recipe.observe(state)
    predicted, r, d, seen = weighed(world, expected, hour)
    part = predicted._replace(cross=share * predicted.cross, cov=share * predicted.cov)
    s = predicted.cov + r
    update = Update(d, s, recipe.gain(state, part, d, r), likelihood(d, s, seen), seen, expected, r)
    return recipe.correct(state, predicted, update, r, hour), update


def friedland(system: System, *, on_state: Tensor, on_gauge: Tensor, cov: Tensor) -> Filter:
    """Friedland's filter with a separate constant bias (Friedland 1969), exact on a linear system.

    x_{k+1} = M(x, u) + B b + w, y = h(x) + D b + v for B = `on_state` (c or 1, n, k), D = `on_gauge` (c or 1, q, k) and
    the first covariance of b (c or 1, k, k). A filter that knows nothing of the bias runs beside the bias and what it
    has done to the state, U = F V + B, T = H U + D, V ← U − K T; F and H are derivatives as in `linear.extended`.
    """

    def init(mean: Tensor, p: Tensor, noise: Noise) -> Separate:
        c = mean.shape[0]
        bias = torch.zeros_like(mean[..., :1]).expand(-1, -1, cov.shape[-1])
        effect = torch.zeros_like(on_state).expand(c, -1, -1)
        return Separate(Gaussian(mean, p), bias, cov.expand(c, -1, -1), effect)

    def forecast(belief: Belief, hour: Hour) -> Separate:
        free = belief.free
        mean = system.move(free.mean, hour.forcing)
        slope = jacobian(lambda x: system.move(x, hour.forcing), free.mean, mean.shape[-1])
        error = system.model_error(mean)
        p = symmetric(slope @ free.cov @ transposed(slope)) + error @ transposed(error)
        return replace(belief, free=Gaussian(mean, p), effect=slope @ belief.effect + on_state)

    def parts(belief: Belief) -> tuple[Tensor, Tensor, Tensor]:
        """h(x̃) (c, q), H (c, q, n) and T (c, q, k)."""
        mean = system.see(belief.free.mean)[:, 0]
        h = jacobian(system.see, belief.free.mean, mean.shape[-1])
        return mean, h, h @ belief.effect + on_gauge

    def observe(belief: Belief) -> Predicted:
        mean, h, t = parts(belief)
        cross = belief.free.cov @ transposed(h) + belief.effect @ belief.bias_cov @ transposed(t)
        cov_y = h @ belief.free.cov @ transposed(h) + t @ belief.bias_cov @ transposed(t)
        return Predicted(mean + product(belief.bias, t)[:, 0], cross, symmetric(cov_y))

    def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
        prior = forecast(belief, hour)
        expected = observe(prior)
        predicted, r, innovation, seen = weighed(system, expected, hour)
        _, h, t = parts(prior)
        h, t = (torch.where(seen.unsqueeze(-1), x, 0.0) for x in (h, t))
        cross, s = prior.free.cov @ transposed(h), predicted.cov + r
        free_s = symmetric(h @ cross) + r
        gain = divided(cross, free_s)
        bias_gain = divided(prior.bias_cov @ transposed(t), s)
        free_innovation = innovation.unsqueeze(-2) + product(prior.bias, t)
        free = Gaussian(prior.free.mean + product(free_innovation, gain), joseph(prior.free.cov, gain, cross, free_s))
        bias = prior.bias + product(innovation.unsqueeze(-2), bias_gain)
        bias_cov = joseph(prior.bias_cov, bias_gain, prior.bias_cov @ transposed(t), s)
        posterior = Separate(free, bias, bias_cov, prior.effect - gain @ t)
        k = divided(predicted.cross, s)
        update = Update(innovation, s, k, likelihood(innovation, s, seen), seen, expected, r)
        return chosen(seen.any(-1), posterior, prior), update

    return Filter(system, init, forecast, observe, step)
