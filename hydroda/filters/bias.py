"""Biased forecasts and gauges: filters that estimate a bias beside the state.

Bias convention: x^f = truth + b, so that a positive b is a forecast that is too high. For `aware` observations must
have none, as a constant offset of a gauge cannot be told from −H b in one hour; `two_stage` divides what cannot be told
apart by fixed shares.
"""

from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, jacobian, joseph, product, symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian, chosen
from hydroda.filters.nested import Separate, TwoBiases, WithBias
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, Recipe, System, Update, weighed

VARIANTS = ("blind", "online", "feedback")
LEAST = 1e-12  # share of the state below which its gain is zero to rounding


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
            update = Update(innovation, s, own.gain, seen, expected, r)
            return posterior if some.all() else chosen(some, posterior, prior), update

        return Filter(world, init, forecast, observe, step)

    return made


def _corrected(world: System, recipe: Recipe, state: Belief, share: float, hour: Hour) -> tuple[Belief, Update]:
    """A state corrected by the gain for a `share` of its covariance, and how."""
    expected = recipe.observe(state)
    predicted, r, d, seen = weighed(world, expected, hour)
    part = predicted._replace(cross=share * predicted.cross, cov=share * predicted.cov)
    s = predicted.cov + r
    update = Update(d, s, recipe.gain(state, part, d, r), seen, expected, r)
    return recipe.correct(state, predicted, update, r, hour), update


def two_stage(
    build: Build, *, state_fraction: float = 1.0, gauge_ratio: float = 0.003, relative: bool = False
) -> Build:
    """A filter beside which the biases of forecast and gauge are estimated (Pauwels et al. 2013, HESS 17, 3499).

    x = x̃ − b^m and y = h(x) + b^o + v: x̃ is what the model integrates. The state has the share γ (`state_fraction`)
    of the covariance P̃ of x̃, P = γ P̃ and P^m = (1 − γ) P̃, the gauge P^o = κ cov(z), κ the `gauge_ratio` and z = h(x̃)
    (eqs 16, 17). After each forecast, with C = cov(x̃, z), Z = cov(z) and r = y − b^o − h(x̃ − b^m) (Fig. 1; eqs 18–21):

        D = (2 − γ + κ) Z + R    b^o ← b^o + κ Z D⁻¹ r    b^m ← b^m − (1 − γ) C D⁻¹ r    P^o+ = P^o − P^o D⁻¹ P^o
        K = γ C (γ Z + P^o+ + R)⁻¹                        x̃ ← x̃ + K (y − b^o − h(x̃ − b^m) + v)

    The mean is x̃ − b^m. γ = 1 leaves the gauge's bias only, κ = 0 the forecast's only, both together the filter itself,
    bit for bit. `relative`: b^o = β h(x̃ − b^m), an error of the rating that grows with flow; β is what persists, and
    P^o divided by the square of the flow is its variance.

    Where the paper contradicts itself: P + P^m = P̃ (eq. 16), not P̃ = P − P^m (eqs 15, B25). D has the covariance of the
    biased state (B5, B10), not that of the unbiased (Fig. 1, B16). γ = 0 makes everything bias; that an unbiased system
    had γ = 0 (§3.3) cannot be. The model goes on from the biased state: from the unbiased one (eqs 9, 21) every bias
    would count again each hour. C is multiplied by γ: taking b^m off members does not change their covariance (§2.6).
    P^o+ = (I − K^o) P^o (B17), not P^o (I − K^o) (eq. 20). Raises ValueError for γ outside [0, 1] or κ below zero.
    """
    if not 0.0 <= state_fraction <= 1.0:
        raise ValueError(f"bias.two_stage: state_fraction is {state_fraction}, it must be from 0 to 1")
    if not gauge_ratio >= 0.0:
        raise ValueError(f"bias.two_stage: gauge_ratio is {gauge_ratio}, it must not be negative")
    shares = (torch.tensor(share, dtype=torch.float64) for share in (state_fraction, gauge_ratio))
    return divided_by(build, *shares, relative=relative)


def divided_by(build: Build, gamma: Tensor, kappa: Tensor, *, relative: bool = False) -> Build:
    """`two_stage` with γ and κ (c, 1, 1) that differ by catchment, so that many pairs are tried as one batch."""

    def made(system: System) -> Filter:
        inner = build(system)
        recipe, world = inner.verbs("bias.two_stage"), inner.system

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> TwoBiases:
            state = inner.init(mean, cov, noise)
            first = state.mean
            none, own = torch.zeros_like(first), recipe.observe(state)
            gauge = torch.zeros_like(own.mean.unsqueeze(-2))
            return TwoBiases(state, none, torch.zeros_like(state.cov), gauge, torch.zeros_like(own.cov), gauge + 1.0)

        def forecast(belief: Belief, hour: Hour) -> TwoBiases:
            state = inner.forecast(belief.state, hour)
            if not relative:
                return replace(belief, state=state)
            return replace(belief, state=state, scale=recipe.observe(state.shifted(-belief.bias)).mean.unsqueeze(-2))

        def observe(belief: Belief) -> Predicted:
            """Covariances are those of the biased state."""
            fair = recipe.observe(belief.state.shifted(-belief.bias)).mean
            return recipe.observe(belief.state)._replace(mean=fair + belief.gauge[:, 0])

        def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
            prior = forecast(belief, hour)
            expected = observe(prior)
            predicted, r, innovation, seen = weighed(world, expected, hour)
            z, d, g, k = predicted.cov, innovation.unsqueeze(-2), gamma.to(r), kappa.to(r)
            s = (2.0 - g + k) * z + r
            gauge_gain, bias_gain = k * divided(z, s), (g - 1.0) * divided(predicted.cross, s)
            gauge_cov = k * symmetric(z - product(gauge_gain, z))
            bias = prior.bias + product(d, bias_gain)
            bias_cov = (1.0 - g) * symmetric(prior.state.cov + product(bias_gain, predicted.cross))
            unit = torch.where(prior.scale > 0.0, prior.scale, 1.0)
            own = replace(
                prior,
                bias=bias,
                bias_cov=bias_cov,
                share=prior.share + product(d, gauge_gain) / unit,
                share_cov=gauge_cov / product(unit.mT, unit.mT),
            )
            fair = prior.state.shifted(-bias)
            seen_by = recipe.observe(fair)
            here, _, left, _ = weighed(world, seen_by._replace(mean=seen_by.mean + own.gauge[:, 0]), hour)
            # γ C (γ Z + P^o+ + R)⁻¹ is the gain of an observation with this error, whatever the recipe makes of it
            doubted = (r + gauge_cov) / g.clamp(min=LEAST)
            gain = recipe.gain(fair, predicted, left, doubted)
            inside = Update(left, here.cov + r, gain, seen, seen_by, r)
            state = recipe.correct(fair, here, inside, doubted, hour).shifted(bias)
            posterior, some = replace(own, state=state), seen.any(-1)
            update = Update(innovation, z + r, gain, seen, expected, doubted)
            return posterior if some.all() else chosen(some, posterior, prior), update

        return Filter(world, init, forecast, observe, step)

    return made


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
        update = Update(innovation, s, k, seen, expected, r)
        return chosen(seen.any(-1), posterior, prior), update

    return Filter(system, init, forecast, observe, step)
