"""Networks that run beside a filter: one belief of both, and a forecast that may be of either."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from hydroda.filters.nested import Committee, TwoBiases
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, System, Update


class Learned(Protocol):
    """A filter of weights, (c·s, …) for s networks of each catchment."""

    def __call__(self, system: System, *, weights: Mapping[str, Tensor]) -> Filter: ...


def with_networks(filter_beside: Build, learned: Learned) -> Build:
    """A filter, and beside it the networks that were trained for these catchments, of which `learned` makes filters.

    The state is [of the filter, of network 1, of network 2, …]. What is seen of it is what the filter sees; `beside` of
    the system is what each network sees, and a forecast may be of either or both. A suspect observation is none for a
    network. Raises ValueError where nothing was trained.
    """

    def made(system: System) -> Filter:
        trained = system.networks
        if trained is None:
            raise ValueError("beside.with_networks: nothing was trained for these catchments; hydroda train does it")
        inner, seeds = filter_beside(system), trained.seeds
        guided = learned(_repeated(system, seeds), weights=trained)
        assert guided.system.stores is not None
        width = guided.system.stores.shape[-1]

        def parts(z: Tensor) -> tuple[Tensor, Tensor]:
            """The filter's (c, k, n), and the networks' as catchments of their own (c s, k, n + e)."""
            cut = z.shape[-1] - seeds * width
            return z[..., :cut], z[..., cut:].unflatten(-1, (seeds, width)).movedim(2, 1).flatten(0, 1)

        def move(z: Tensor, forcing: Tensor) -> Tensor:
            own, theirs = parts(z)
            moved = guided.system.move(theirs, forcing.repeat_interleave(seeds, 0)).unflatten(0, (-1, seeds))
            return torch.cat((inner.system.move(own, forcing), moved.movedim(1, 2).flatten(2)), -1)

        def see(z: Tensor) -> Tensor:
            return inner.system.see(parts(z)[0])

        def beside(z: Tensor) -> Tensor:
            return guided.system.see(parts(z)[1])[..., 0].unflatten(0, (-1, seeds)).mT

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Committee:
            state = inner.init(mean, cov, noise)
            if isinstance(state, TwoBiases):
                raise ValueError("no networks beside a filter that estimates biases; leave bias.two_stage out")
            x, p = (each.repeat_interleave(seeds, 0) for each in (mean, cov))
            return Committee.of(state, guided.init(x, p, noise.repeated(seeds)), seeds)

        def forecast(belief: Committee, hour: Hour) -> Committee:
            theirs = guided.forecast(belief.rows, _told(hour, seeds))
            return Committee.of(inner.forecast(belief.state, hour), theirs, seeds)

        def observe(belief: Committee) -> Predicted:
            return inner.observe(belief.state)

        def step(belief: Committee, hour: Hour) -> tuple[Committee, Update]:
            state, update = inner.step(belief.state, hour)
            theirs, _ = guided.step(belief.rows, _told(hour, seeds))
            return Committee.of(state, theirs, seeds), update

        whole = replace(system, move=move, see=see, stores=None, unknowns=None, networks=None, beside=beside)
        return Filter(whole, init, forecast, observe, step, alone=inner)

    return made


def _repeated(system: System, times: int) -> System:
    """The system of every catchment so many times in a row."""

    def points(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, times)).flatten(1, 2)

    def move(x: Tensor, forcing: Tensor) -> Tensor:
        return system.move(points(x), forcing[::times]).reshape(x.shape)

    def see(x: Tensor) -> Tensor:
        return system.see(points(x)).reshape(*x.shape[:-1], -1)

    def each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of one tensor of all catchments, of the first of every catchment, the second, …"""
        return torch.stack([function(part) for part in x.unflatten(0, (-1, times)).unbind(1)], 1).flatten(0, 1)

    known = system.unknowns
    return replace(
        system,
        move=move,
        see=see,
        model_error=lambda mean: each(system.model_error, mean),
        observation_error=lambda y: each(system.observation_error, y),
        unknowns=None if known is None else replace(known, values=known.values.repeat_interleave(times, 0)),
    )


def _told(hour: Hour, times: int) -> Hour:
    """The hour as networks see it."""
    seen = hour.observation if hour.doubt is None else torch.where(hour.doubt > 1.0, torch.nan, hour.observation)
    return Hour(hour.forcing.repeat_interleave(times, 0), seen.repeat_interleave(times, 0), hour.noise.repeated(times))
