"""What networks inside a rainfall-runoff model have in common, whatever they then do with what they know.

A recurrent memory that reads stores, innovation and rain, all in logarithms or relative to flow; the scales that make
these numbers about one; and an output error in a few components that decay at their own rates, so that a forecast for a
lead of l hours is the model's plus Σ_k e_k exp(−l/τ_k) (the idea of Sun et al. 2026, EGU26-8698).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from hydroda.filters import networks
from hydroda.filters.networks import FIXED, Layer, dense, lstm, shared, stacked, unstacked
from hydroda.filters.recipe import Hour, System

UNITS = 16
DECAYS = (1.5, 5.0, 20.0)  # h, e-folding times τ of the output error
SMALL = 0.02  # share of mean flow below which an innovation no longer counts as relative
EMPTY = 0.1  # share of its mean content by which an empty store can still be filled
LASTING = 0.975  # autocorrelation after a day of a store that remembers for more than forty days
RAIN_STEP, RAIN_LIMIT = 0.5, 0.7  # of the logarithm of a rain error: largest correction by r = 1, and at all
OVERFLOW = 20.0  # a store may hold that many times the most it ever held; a lower ceiling would cut greater floods
RAIN_HOURS = 3  # that a network sees
DAY = 24
PARAMETERS = "parameters"  # of the model, among the weights of networks that learn them too
EDGE = 1e-3  # of a parameter's range, from which it can still be moved


Scale = Callable[[str, int], Tensor]


class Reader(Protocol):
    """A belief with what a network remembers, as `Guided`."""

    @property
    def hidden(self) -> Tensor: ...
    @property
    def cell(self) -> Tensor: ...
    @property
    def innovation(self) -> Tensor: ...
    @property
    def observation(self) -> Tensor: ...
    @property
    def rain(self) -> Tensor: ...


def scales(states: Tensor, runoff: Tensor, stores: Tensor, *, rain: bool = False) -> dict[str, Tensor]:
    """What makes the inputs of a network numbers about one, (1, k) each, from an open loop: states (T, n), observed
    runoff (T,) [mm/h] with NaN, which states are stores (n,).

    A store that forgets within a day may be corrected by as much as the flow is wrong, one that remembers by three
    tenths of that, and one that remembers for months not at all: a soil that dry weeks fill little by little shows in
    no flow, and so in no loss, before the rain that ends them. The error of the rain may be corrected where `rain` says
    so; what a network learns of it in one year is often wrong in another.
    """
    content = torch.where(stores, states.mean(0), 1.0)
    logs = (states.clamp(min=0.0) + EMPTY * content).log()
    kept = remembered(states)
    within_reach = torch.where(kept < LASTING, (1.3 - kept).clamp(0.3, 1.0), 0.0)
    return {
        "log_mean": torch.where(stores, logs.mean(0), 0.0)[None],
        "log_deviation": torch.where(stores, logs.std(0).clamp(min=0.05), 1.0 / 3.0)[None],
        "content": content[None],
        "reach": torch.where(stores, within_reach, RAIN_STEP if rain else 0.0)[None],
        "ceiling": torch.where(stores, OVERFLOW * states.amax(0).clamp(min=1e-3), RAIN_LIMIT)[None],
        "flow": torch.nanmean(runoff).reshape(1, 1),
    }


def remembered(series: Tensor) -> Tensor:
    """The autocorrelation (…,) of series (T, …) after a day."""
    a = series - series.mean(0)
    return (a[DAY:] * a[:-DAY]).sum(0) / a.square().sum(0).clamp(min=1e-12)


def attributes(area_km2: float, rain: Tensor, runoff: Tensor) -> Tensor:
    """What tells a catchment from others (1, 4), numbers about one: its size, its mean rain (T,) and what share of it
    becomes runoff (T,) [mm/h] with NaN, and how much of that is remembered after a day."""
    flow = torch.where(torch.isfinite(runoff), runoff, torch.nanmean(runoff))
    size, wet = math.log10(area_km2) - 2.0, torch.log(rain.mean().clamp(min=1e-3) / 0.1)
    share = (flow.mean() / rain.mean().clamp(min=1e-3)).clamp(max=2.0)
    return torch.stack((torch.as_tensor(size, dtype=wet.dtype), wet, share, remembered(flow)))[None]


def initial(
    scales: Mapping[str, Tensor], stores: Tensor, seeds: Iterable[int], outputs: int, error: Tensor
) -> dict[str, Tensor]:
    """Untrained weights, a network for each seed: an LSTM of 16 units, one layer of `outputs` that begin at zero, and
    what each component of the output error takes whatever they say (k,). It is told `attributes` that are among the
    scales."""
    seeds, n = list(seeds), stores.shape[-1]
    told = n + 9 + (scales["attributes"].shape[-1] if "attributes" in scales else 0)
    layers = (Layer("memory", told, UNITS, recurrent=True, gates=4), Layer("last", UNITS, outputs, size=0.0))
    found = networks.weights(layers, seeds, **{name: value.expand(len(seeds), -1) for name, value in scales.items()})
    found["memory.bias"][:, UNITS : 2 * UNITS] += 1.0  # to remember, until taught otherwise
    return found | {"error": error.double().expand(len(seeds), -1).clone()}


def stores_of(system: System, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Which states are stores (n,). Raises ValueError, for the filter of this name, unless the system says so and the
    weights are for as many."""
    stores, count = system.stores, weights[f"{FIXED}content"].shape[-1]
    if stores is None or count != stores.shape[-1]:
        raise ValueError(
            f"{name}: weights are for {count} states, the model has "
            f"{'no stores' if stores is None else stores.shape[-1]}; train again"
        )
    return stores


def with_own_parameters(system: System, weights: Mapping[str, Tensor]) -> System:
    """The world with the parameters of networks that learned some: between its bounds each calibrated one is moved, by
    an amount (net, p) on the scale of its log-odds."""
    known = system.unknowns
    if PARAMETERS not in weights or known is None:
        return system
    extent = known.upper - known.lower
    share = ((known.values - known.lower) / extent).clamp(EDGE, 1.0 - EDGE)
    moved = torch.sigmoid(torch.logit(share) + shared(weights[PARAMETERS], len(share)).unsqueeze(1))
    p = torch.minimum(torch.maximum(known.values + (moved - share) * extent, known.lower), known.upper)
    return replace(system, move=lambda x, u: known.move(x, u, p), see=lambda x: known.see(x, p), unknowns=None)


def scaled(weights: Mapping[str, Tensor]) -> Scale:
    """One of `scales` for each of so many catchments (c, k), made once and not every hour."""
    return cache(lambda name, count: shared(weights[f"{FIXED}{name}"], count))


def rained(rain: Tensor, hour: Hour) -> Tensor:
    """The rain of the last hours (c, 1, 3) an hour later."""
    return torch.cat((rain[..., 1:], hour.forcing[..., :1]), -1)


def faded(error: Tensor) -> Tensor:
    """An output error (…, k) an hour later."""
    return error * torch.exp(-1.0 / torch.tensor(DECAYS, dtype=error.dtype))


def with_output_error(system: System) -> System:
    """The world of states with an output error (c, k, n + e), which decays and is seen beside the model's runoff."""
    assert system.stores is not None
    n, count = system.stores.shape[-1], len(DECAYS)

    def move(x: Tensor, forcing: Tensor) -> Tensor:
        return torch.cat((system.move(x[..., :n], forcing), faded(x[..., n:])), -1)

    def see(x: Tensor) -> Tensor:
        return (system.see(x[..., :n]) + x[..., n:].sum(-1, keepdim=True)).clamp(min=0.0)

    stores = torch.cat((system.stores, torch.zeros(count, dtype=torch.bool)))
    return replace(system, move=move, see=see, stores=stores, unknowns=None, networks=None)


def size(d: Tensor, y: Tensor, flow: Tensor) -> Tensor:
    """What an innovation d = y − q is divided by to be relative, (y + q)/2 + 0.02 q̄, (c, 1)."""
    return y - 0.5 * d + SMALL * flow


def heard(
    weights: Mapping[str, Tensor],
    scale: Scale,
    stores: Tensor,
    belief: Reader,
    content: Tensor,
    d: Tensor,
    y: Tensor,
    seen: Tensor,
) -> tuple[Tensor, Tensor]:
    """The memory (c, 1, h) twice of a network that is told of states before an observation (c, n), the innovation d of
    the model alone and the observation y (c, 1), where one was `seen` (c, 1)."""
    c, like = len(d), weights["error"]
    flow = scale("flow", c)
    of = size(d, y, flow)
    before = belief.innovation / size(belief.innovation, belief.observation, flow)
    level, last = (((value + SMALL * flow) / flow).log() for value in (y, belief.observation))
    logs = (content + EMPTY * scale("content", c)).clamp(min=1e-9).log() - scale("log_mean", c)
    rain = belief.rain[:, 0]
    inputs = (
        (torch.where(stores, logs, content) / scale("log_deviation", c)).clamp(-4.0, 4.0),
        3.0 * d / of,
        torch.tanh(10.0 * d / of),
        level,
        10.0 * (level - last),
        torch.stack((rain[:, -1], rain.sum(-1)), -1).log1p(),
        3.0 * before,
        torch.tanh(10.0 * before),
    )
    which = (scale("attributes", c),) if f"{FIXED}attributes" in weights else ()
    told = torch.where(seen, torch.cat((*inputs, *which, torch.ones_like(d)), -1), 0.0)
    memory = (stacked(part[:, 0], like) for part in (belief.hidden, belief.cell))
    hidden, cell = lstm(weights, "memory", stacked(told, like), *memory)
    return unstacked(hidden, like).unsqueeze(1), unstacked(cell, like).unsqueeze(1)


def said(weights: Mapping[str, Tensor], hidden: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a network says after that: `count` numbers for its filter (c, count), and the shares of this residual and
    of the one before that the output error takes, (c, k) each."""
    like, k = weights["error"], len(DECAYS)
    out = unstacked(dense(weights, "last", stacked(hidden[:, 0], like)), like)
    return out[:, :count], shared(like, len(out)) + out[:, count : count + k], out[:, count + k :]
