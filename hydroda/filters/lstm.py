"""A gain learned inside a rainfall-runoff model: a recurrent network reads stores and innovation and says how much of
the innovation goes where (the idea of Sun et al. 2026, EGU26-8698).

The state is that of the model, of one gauge, and an output error in a few components (`guided`). It stands beside a
classical filter: the one errs by the laws it assumes, the other by the years it has seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters import guided
from hydroda.filters.algebra import product
from hydroda.filters.beliefs import Guided
from hydroda.filters.guided import DECAYS, EMPTY, heard, said, with_output_error
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble

EARLY = 0.2  # of an innovation, what each component of the output error takes before anything is learned
MODEST = 0.3  # what the gain begins with at stores that soon forget


def initial(scales: Mapping[str, Tensor], stores: Tensor, seeds: Iterable[int]) -> dict[str, Tensor]:
    """Untrained weights, a network for each seed, that begin with a modest gain at stores that soon forget and with
    none elsewhere."""
    n, k = stores.shape[-1], len(DECAYS)
    found = guided.initial(scales, stores, seeds, n + 2 * k, torch.full((k,), EARLY, dtype=torch.float64))
    soon = stores & (scales["reach"] > 0.5)
    found["last.bias"][:, :n] = torch.where(soon, MODEST, 0.0).unsqueeze(-1)
    return found


def lstm_gain(system: System, *, weights: Mapping[str, Tensor]) -> Filter:
    """Relative, bounded gains from an LSTM, and an output error learned with them.

    With q the model's runoff before the observation y, d = y − q and r = d / ((y + q)/2 + 0.02 q̄), a store w of mean w̄
    becomes w + c tanh(g) (w + 0.1 w̄) r, a rain error b + 0.5 tanh(g) r, an output error (A + a) d + a' d₋, where d₋ is
    the innovation before; g, a and a' are the network's, A is constant, c is 1 for stores that soon forget and less for
    others. Stores stay between zero and a ceiling. Covariances that are asked for are NaN. Raises ValueError unless
    the system says which states are stores and the weights are for as many.
    """
    stores = guided.stores_of(system, weights, "lstm.lstm_gain")
    system = guided.with_own_parameters(system, weights)
    n, k = stores.shape[-1], len(DECAYS)
    world = with_output_error(system)
    scale = guided.scaled(weights)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Guided:
        c = mean.shape[0]
        units = mean.new_zeros(c, 1, guided.UNITS)
        q = system.see(mean)[:, 0]
        wide = torch.cat((mean, mean.new_zeros(c, 1, k)), -1)
        return Guided(wide, units, units, torch.zeros_like(q), q, mean.new_zeros(c, 1, guided.RAIN_HOURS))

    def forecast(belief: Guided, hour: Hour) -> Guided:
        return replace(belief, guided=world.move(belief.mean, hour.forcing), rain=guided.rained(belief.rain, hour))

    def observe(belief: Guided) -> Predicted:
        mean = world.see(belief.mean)[:, 0]
        unknown = belief.mean.mT * torch.nan
        return Predicted(mean, unknown, unknown[:, :1])

    def attend(belief: Guided, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Guided:
        """With its memory, with d, and with the part of the output error that the innovation before tells."""
        y = predicted.mean + innovation
        d = y - system.see(belief.mean[..., :n])[:, 0]
        hidden, cell = heard(weights, scale, stores, belief, belief.mean[:, 0, :n], d, y, seen)
        error = (said(weights, hidden, n)[2] * belief.innovation).unsqueeze(1)
        return replace(
            belief, guided=torch.cat((belief.mean[..., :n], error), -1), hidden=hidden, cell=cell, innovation=d
        )

    def gain(belief: Guided, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        c = len(innovation)
        g, a, _ = said(weights, belief.hidden, n)
        of = guided.size(belief.innovation, predicted.mean + innovation, scale("flow", c))
        room = torch.where(stores, belief.mean[:, 0, :n] + EMPTY * scale("content", c), 1.0)
        return torch.cat((scale("reach", c) * torch.tanh(g) * room / of, a), -1).unsqueeze(-1)

    def correct(belief: Guided, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Guided:
        state, error = (belief.mean + product(belief.innovation.unsqueeze(-2), update.gain)).split((n, k), -1)
        ceiling = scale("ceiling", len(update.innovation)).unsqueeze(1)
        state = torch.minimum(torch.maximum(state, torch.where(stores, 0.0, -ceiling)), ceiling)
        return replace(belief, guided=torch.cat((state, error), -1), observation=predicted.mean + update.innovation)

    return assemble(world, Recipe(init, forecast, observe, gain, correct, attend))
