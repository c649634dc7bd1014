"""A classical filter and learned gains side by side: the mean of their forecasts is better than either.

Both err in their own way, the one by the laws it assumes, the other by the years it has seen.
"""

from dataclasses import fields, replace

import torch
from torch import Tensor

from hydroda.filters.beliefs import Belief, Committee, Guided, mapped
from hydroda.filters.lstm import lstm_gain, with_output_error
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, System, Update


def with_networks(build: Build) -> Build:
    """`build` beside the networks that were trained for these catchments, which have a share in the forecast.

    The state is [of the filter, of network 1, of network 2, …]. Its discharge is (1 − share) times the filter's and
    share times the mean of the networks'. Spread, gain and likelihood are the filter's, innovations those of the whole.
    A suspect observation is none for a network. Raises ValueError where nothing was trained.
    """

    def made(system: System) -> Filter:
        trained = system.networks
        if trained is None:
            raise ValueError("committee.with_networks: nothing was trained for these catchments; hydroda train does it")
        inner, world, seeds = build(system), with_output_error(system), trained.seeds
        learned = lstm_gain(_repeated(system, seeds), weights=trained)
        share = trained.share.unsqueeze(1)
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
            own, theirs = parts(z)
            mean = world.see(theirs).reshape(*z.shape[:2], seeds).mean(-1, keepdim=True)
            return (1.0 - share) * inner.system.see(own) + share * mean

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Committee:
            begun = learned.init(mean.repeat_interleave(seeds, 0), cov.repeat_interleave(seeds, 0), noise)
            return _joined(inner.init(mean, cov, noise), begun, seeds)

        def forecast(belief: Committee, hour: Hour) -> Committee:
            theirs = learned.forecast(_rows(belief), _told(hour, seeds))
            return _joined(inner.forecast(belief.state, hour), theirs, seeds)

        def observe(belief: Committee) -> Predicted:
            return inner.observe(belief.state)._replace(mean=see(belief.mean)[:, 0])

        def step(belief: Committee, hour: Hour) -> tuple[Committee, Update]:
            expected = see(move(belief.mean, hour.forcing))[:, 0]
            state, update = inner.step(belief.state, hour)
            theirs, _ = learned.step(_rows(belief), _told(hour, seeds))
            innovation = torch.where(update.seen, hour.observation - expected, 0.0)
            predicted = update.predicted._replace(mean=expected)
            return _joined(state, theirs, seeds), update._replace(innovation=innovation, predicted=predicted)

        whole = replace(system, move=move, see=see, stores=None, unknowns=None, networks=None)
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
    return Guided(*(getattr(belief, field.name).flatten(0, 1) for field in fields(Guided)))


def _joined(state: Belief, guided: Guided, seeds: int) -> Committee:
    theirs = mapped(lambda x: x.unflatten(0, (-1, seeds)), guided)
    return Committee(state, *(getattr(theirs, field.name) for field in fields(Guided)))
