"""Error levels that a network sets hour by hour: gain, covariance and likelihood are those of an ordinary filter.

A classical filter is told how wrong model and gauge are, once and for all; here a recurrent network that reads stores,
innovation and rain says by how much more or less they are in this hour. What a gain may do is thus what some errors
would justify, and stores are corrected in the proportions in which they are correlated with what is seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters import guided
from hydroda.filters.beliefs import chosen
from hydroda.filters.guided import DECAYS, faded, heard, rained, said, with_output_error
from hydroda.filters.nested import Steered
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, System, Update

RANGE = 2.0  # of the logarithm of a factor on an error: between a seventh of it and seven times


def initial(
    scales: Mapping[str, Tensor], stores: Tensor, seeds: Iterable[int], now: Tensor, before: Tensor
) -> dict[str, Tensor]:
    """Untrained weights, a network for each seed, that leave all error levels as they are.

    `now` and `before` (k,) are the shares of the residual of an analysis, and of that an hour before, that each
    component of the output error takes.
    """
    k = len(DECAYS)
    found = guided.initial(scales, stores, seeds, stores.shape[-1] + 1 + 2 * k, now)
    found["last.bias"][:, -k:] = before.unsqueeze(-1)
    return found


def learned_levels(system: System, *, inside: Build, weights: Mapping[str, Tensor]) -> Filter:
    """The filter `inside` with error levels from an LSTM, and an output error learned with them.

    In an hour with an observation y the error of each state is multiplied by exp(2 tanh g_i), that of the gauge by
    exp(2 tanh g_0), and the filter makes its step with them; ρ being y less what is seen of the analysis, and ρ₋ the
    residual before, the output error becomes (A + a) ρ + a' ρ₋. g, a and a' are the network's, A is constant. Without
    an observation all factors are one. Covariances are those of the filter and know nothing of the output error.
    Raises ValueError unless filter and system say which states are stores and the weights are for as many.
    """
    stores = guided.stores_of(system, weights, "levels.learned_levels")
    system = guided.with_own_parameters(system, weights)
    n = stores.shape[-1]
    plain = inside(system)  # others are built every hour, for its errors: some closures, microseconds
    if plain.system.stores is None:
        raise ValueError("levels.learned_levels: no networks that set the errors of coloured noise; leave it out")
    world, scale = with_output_error(plain.system), guided.scaled(weights)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Steered:
        c, state = mean.shape[0], plain.init(mean, cov, noise)
        units, q = mean.new_zeros(c, 1, guided.UNITS), system.see(mean)[:, 0]
        none, rain = torch.zeros_like(q), mean.new_zeros(c, 1, guided.RAIN_HOURS)
        return Steered(state, mean.new_zeros(c, 1, len(DECAYS)), units, units, none, q, none, rain)

    def forecast(belief: Steered, hour: Hour) -> Steered:
        state = plain.forecast(belief.state, hour)
        return replace(belief, state=state, error=faded(belief.error), rain=rained(belief.rain, hour))

    def observe(belief: Steered) -> Predicted:
        return plain.observe(belief.state)

    def step(belief: Steered, hour: Hour) -> tuple[Steered, Update]:
        prior = plain.system.move(belief.state.mean, hour.forcing)
        expected, seen = plain.system.see(prior)[:, 0], torch.isfinite(hour.observation)
        y = torch.where(seen, hour.observation, expected)
        d, rain = y - expected, rained(belief.rain, hour)
        hidden, cell = heard(weights, scale, stores, replace(belief, rain=rain), prior[:, 0, :n], d, y, seen)
        g, a, before = said(weights, hidden, n + 1)
        factor = torch.where(seen, torch.exp(RANGE * torch.tanh(g)), 1.0)
        steered = inside(system.with_errors(factor[:, :n], factor[:, n:]))
        state, update = steered.step(belief.state, hour)
        residual = y - plain.system.see(state.mean)[:, 0]
        error = (a * residual + before * belief.residual).unsqueeze(1)
        posterior = Steered(state, error, hidden, cell, d, y, residual, rain)
        some = seen.any(-1)
        if some.all():
            return posterior, update
        return chosen(some, posterior, replace(belief, state=state, error=faded(belief.error), rain=rain)), update

    return Filter(world, init, forecast, observe, step)
