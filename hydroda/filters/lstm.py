"""A gain learned inside a rainfall-runoff model: a recurrent network reads stores and innovation and says how much of
the innovation goes where (the idea of Sun et al. 2026, EGU26-8698).

The state is that of the model, of one gauge, and an output error in a few components that decay at their own rates, so
that a forecast for a lead of l hours is the model's plus Σ_k e_k exp(−l/τ_k). Beside a classical filter the mean of
both is better than either: the one errs by the laws it assumes, the other by the years it has seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters import networks
from hydroda.filters.algebra import product
from hydroda.filters.beliefs import Belief, Guided, mapped
from hydroda.filters.nested import Committee, TwoBiases
from hydroda.filters.networks import FIXED, Layer, dense, lstm, shared, stacked, unstacked
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, Recipe, System, Update, assemble

UNITS = 16
DECAYS = (1.5, 5.0, 20.0)  # h, e-folding times τ of the output error
SMALL = 0.02  # share of mean flow below which an innovation no longer counts as relative
EMPTY = 0.1  # share of its mean content by which an empty store can still be filled
RAIN_STEP, RAIN_LIMIT = 0.5, 0.7  # of the logarithm of a rain error: largest correction by r = 1, and at all
OVERFLOW = 20.0  # a store may hold that many times the most it ever held; a lower ceiling would cut greater floods
EARLY = 0.2  # of an innovation, what each component of the output error takes before anything is learned
MODEST = 0.3  # what the gain begins with at stores that soon forget
DAY = 24


def scales(states: Tensor, runoff: Tensor, stores: Tensor) -> dict[str, Tensor]:
    """What makes the inputs of a network numbers about one, (1, k) each, from an open loop: states (T, n), observed
    runoff (T,) [mm/h] with NaN, which states are stores (n,).

    A store that forgets within a day may be corrected by as much as the flow is wrong, one that remembers by three
    tenths of that: what is put there stays for months, whatever it was that was wrong.
    """
    content = torch.where(stores, states.mean(0), 1.0)
    logs = (states.clamp(min=0.0) + EMPTY * content).log()
    a = states - states.mean(0)
    remembered = (a[DAY:] * a[:-DAY]).sum(0) / a.square().sum(0).clamp(min=1e-12)
    return {
        "log_mean": torch.where(stores, logs.mean(0), 0.0)[None],
        "log_deviation": torch.where(stores, logs.std(0).clamp(min=0.05), 1.0 / 3.0)[None],
        "content": content[None],
        "reach": torch.where(stores, (1.3 - remembered).clamp(0.3, 1.0), RAIN_STEP)[None],
        "ceiling": torch.where(stores, OVERFLOW * states.amax(0).clamp(min=1e-3), RAIN_LIMIT)[None],
        "flow": torch.nanmean(runoff).reshape(1, 1),
    }


def initial(scales: Mapping[str, Tensor], stores: Tensor, seeds: Iterable[int]) -> dict[str, Tensor]:
    """Untrained weights, a network for each seed: an LSTM of 16 units and one layer, that begins with a modest gain at
    stores that soon forget and with none elsewhere."""
    seeds, n, k = list(seeds), stores.shape[-1], len(DECAYS)
    layers = (Layer("memory", n + 9, UNITS, recurrent=True, gates=4), Layer("last", UNITS, n + 2 * k, size=0.0))
    found = networks.weights(layers, seeds, **{name: value.expand(len(seeds), -1) for name, value in scales.items()})
    found["memory.bias"][:, UNITS : 2 * UNITS] += 1.0  # to remember, until taught otherwise
    soon = stores & (scales["reach"] > 0.5)
    found["last.bias"][:, :n] = torch.where(soon, MODEST, 0.0).unsqueeze(-1)
    return found | {"error": torch.full((len(seeds), k), EARLY, dtype=torch.float64)}


def with_output_error(system: System) -> System:
    """The world of states with an output error (c, k, n + e), which decays and is seen beside the model's runoff."""
    assert system.stores is not None
    n, count = system.stores.shape[-1], len(DECAYS)

    def move(x: Tensor, forcing: Tensor) -> Tensor:
        decay = torch.exp(-1.0 / torch.tensor(DECAYS, dtype=x.dtype))
        return torch.cat((system.move(x[..., :n], forcing), x[..., n:] * decay), -1)

    def see(x: Tensor) -> Tensor:
        return (system.see(x[..., :n]) + x[..., n:].sum(-1, keepdim=True)).clamp(min=0.0)

    stores = torch.cat((system.stores, torch.zeros(count, dtype=torch.bool)))
    return replace(system, move=move, see=see, stores=stores, unknowns=None, networks=None)


def lstm_gain(system: System, *, weights: Mapping[str, Tensor]) -> Filter:
    """Relative, bounded gains from an LSTM, and an output error learned with them.

    With q the model's runoff before the observation y, d = y − q and r = d / ((y + q)/2 + 0.02 q̄), a store w of mean w̄
    becomes w + c tanh(g) (w + 0.1 w̄) r, a rain error b + 0.5 tanh(g) r, an output error (A + a) d + a' d₋, where d₋ is
    the innovation before; g, a and a' are the network's, A is constant, c is 1 for stores that soon forget and less for
    others. Stores stay between zero and a ceiling. Covariances that are asked for are NaN. Raises ValueError unless
    the system says which states are stores and the weights are for as many.
    """
    stores = system.stores
    if stores is None or weights[f"{FIXED}content"].shape[-1] != stores.shape[-1]:
        raise ValueError(
            f"lstm.lstm_gain: weights are for {weights[f'{FIXED}content'].shape[-1]} states, the model has "
            f"{'no stores' if stores is None else stores.shape[-1]}; train again"
        )
    n, k, like = stores.shape[-1], len(DECAYS), weights["error"]
    world = with_output_error(system)

    def scale(name: str, count: int) -> Tensor:
        return shared(weights[f"{FIXED}{name}"], count)

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Guided:
        c = mean.shape[0]
        units = mean.new_zeros(c, 1, UNITS)
        q = system.see(mean)[:, 0]
        wide = torch.cat((mean, mean.new_zeros(c, 1, k)), -1)
        return Guided(wide, units, units, torch.zeros_like(q), q, mean.new_zeros(c, 1, 3))

    def forecast(belief: Guided, hour: Hour) -> Guided:
        rain = torch.cat((belief.rain[..., 1:], hour.forcing[..., :1]), -1)
        return replace(belief, guided=world.move(belief.mean, hour.forcing), rain=rain)

    def observe(belief: Guided) -> Predicted:
        mean = world.see(belief.mean)[:, 0]
        unknown = belief.mean.mT * torch.nan
        return Predicted(mean, unknown, unknown[:, :1])

    def departure(belief: Guided, y: Tensor) -> tuple[Tensor, Tensor]:
        """d and what it is divided by for r, (c, 1)."""
        d = y - system.see(belief.mean[..., :n])[:, 0]
        return d, y - 0.5 * d + SMALL * scale("flow", len(y))

    def attend(belief: Guided, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Guided:
        c = len(innovation)
        y, flow = predicted.mean + innovation, scale("flow", c)
        d, size = departure(belief, y)
        before = belief.innovation / (belief.observation - 0.5 * belief.innovation + SMALL * flow)
        level, last = (((value + SMALL * flow) / flow).log() for value in (y, belief.observation))
        content = belief.mean[:, 0, :n]
        logs = (content + EMPTY * scale("content", c)).clamp(min=1e-9).log() - scale("log_mean", c)
        rain = belief.rain[:, 0]
        inputs = (
            (torch.where(stores, logs, content) / scale("log_deviation", c)).clamp(-4.0, 4.0),
            3.0 * d / size,
            torch.tanh(10.0 * d / size),
            level,
            10.0 * (level - last),
            torch.stack((rain[:, -1], rain.sum(-1)), -1).log1p(),
            3.0 * before,
            torch.tanh(10.0 * before),
        )
        told = torch.where(seen, torch.cat((*inputs, torch.ones_like(d)), -1), 0.0)
        memory = (stacked(part[:, 0], like) for part in (belief.hidden, belief.cell))
        hidden, cell = (
            unstacked(part, like).unsqueeze(1) for part in lstm(weights, "memory", stacked(told, like), *memory)
        )
        return replace(belief, hidden=hidden, cell=cell)

    def read(belief: Guided) -> tuple[Tensor, Tensor, Tensor]:
        """tanh(g) (c, n), A + a and a' (c, k)."""
        out = unstacked(dense(weights, "last", stacked(belief.hidden[:, 0], like)), like)
        return torch.tanh(out[:, :n]), shared(weights["error"], len(out)) + out[:, n : n + k], out[:, n + k :]

    def gain(belief: Guided, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        c = len(innovation)
        g, a, _ = read(belief)
        _, size = departure(belief, predicted.mean + innovation)
        room = torch.where(stores, belief.mean[:, 0, :n] + EMPTY * scale("content", c), 1.0)
        return torch.cat((scale("reach", c) * g * room / size, a), -1).unsqueeze(-1)

    def correct(belief: Guided, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Guided:
        y = predicted.mean + update.innovation
        d, _ = departure(belief, y)
        shift = product(d.unsqueeze(-2), update.gain)
        ceiling = scale("ceiling", len(y)).unsqueeze(1)
        state = belief.mean[..., :n] + shift[..., :n]
        state = torch.minimum(torch.maximum(state, torch.where(stores, 0.0, -ceiling)), ceiling)
        error = shift[..., n:] + (read(belief)[2] * belief.innovation).unsqueeze(1)
        return replace(belief, guided=torch.cat((state, error), -1), innovation=d, observation=y)

    return assemble(world, Recipe(init, forecast, observe, gain, correct, attend))


def with_networks(filter_beside: Build) -> Build:
    """A filter, and beside it the networks that were trained for these catchments.

    The state is [of the filter, of network 1, of network 2, …]. What is seen of it is what the filter sees; `beside` of
    the system is the mean of the networks, and a forecast may be of either or both. A suspect observation is none for a
    network. Raises ValueError where nothing was trained.
    """

    def made(system: System) -> Filter:
        trained = system.networks
        if trained is None:
            raise ValueError("lstm.with_networks: nothing was trained for these catchments; hydroda train does it")
        inner, world, seeds = filter_beside(system), with_output_error(system), trained.seeds
        learned = lstm_gain(_repeated(system, seeds), weights=trained)
        assert world.stores is not None
        width = world.stores.shape[-1]

        def parts(z: Tensor) -> tuple[Tensor, Tensor]:
            """The filter's (c, k, n), and the networks' with the networks as points (c, k s, n + e)."""
            cut = z.shape[-1] - seeds * width
            return z[..., :cut], z[..., cut:].unflatten(-1, (seeds, width)).flatten(1, 2)

        def move(z: Tensor, forcing: Tensor) -> Tensor:
            own, theirs = parts(z)
            moved = world.move(theirs, forcing).reshape(*z.shape[:2], -1)
            return torch.cat((inner.system.move(own, forcing), moved), -1)

        def see(z: Tensor) -> Tensor:
            return inner.system.see(parts(z)[0])

        def beside(z: Tensor) -> Tensor:
            return world.see(parts(z)[1]).reshape(*z.shape[:2], seeds).mean(-1, keepdim=True)

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Committee:
            begun = learned.init(mean.repeat_interleave(seeds, 0), cov.repeat_interleave(seeds, 0), noise)
            state = inner.init(mean, cov, noise)
            if isinstance(state, TwoBiases):
                raise ValueError("no networks beside a filter that estimates biases; leave bias.two_stage out")
            return _joined(state, begun, seeds)

        def forecast(belief: Committee, hour: Hour) -> Committee:
            theirs = learned.forecast(_rows(belief), _told(hour, seeds))
            return _joined(inner.forecast(belief.state, hour), theirs, seeds)

        def observe(belief: Committee) -> Predicted:
            return inner.observe(belief.state)

        def step(belief: Committee, hour: Hour) -> tuple[Committee, Update]:
            state, update = inner.step(belief.state, hour)
            theirs, _ = learned.step(_rows(belief), _told(hour, seeds))
            return _joined(state, theirs, seeds), update

        whole = replace(system, move=move, see=see, stores=None, unknowns=None, networks=None, beside=beside)
        return Filter(whole, init, forecast, observe, step)

    return made


def _repeated(system: System, times: int) -> System:
    """The system of every catchment so many times in a row."""

    def move(x: Tensor, forcing: Tensor) -> Tensor:
        return system.move(x.reshape(-1, times, x.shape[-1]), forcing[::times]).reshape(x.shape)

    def see(x: Tensor) -> Tensor:
        return system.see(x.reshape(-1, times, x.shape[-1])).reshape(*x.shape[:-1], -1)

    def observation_error(y: Tensor) -> Tensor:
        return system.observation_error(y[::times]).repeat_interleave(times, 0)

    return replace(system, move=move, see=see, observation_error=observation_error)


def _told(hour: Hour, times: int) -> Hour:
    """The hour as networks see it."""
    seen = hour.observation if hour.doubt is None else torch.where(hour.doubt > 1.0, torch.nan, hour.observation)
    return Hour(hour.forcing.repeat_interleave(times, 0), seen.repeat_interleave(times, 0), hour.noise)


def _rows(belief: Committee) -> Guided:
    """The networks as catchments of their own."""
    return mapped(lambda x: x.flatten(0, 1), belief.networks)


def _joined(state: Belief, guided: Guided, seeds: int) -> Committee:
    return Committee(state, mapped(lambda x: x.unflatten(0, (-1, seeds)), guided))
