"""The comparison of Mortada et al. 2025 (Recursive KalmanNet, EUSIPCO): learned gains where errors have two sizes.

Not stated there, and assumed here: learned filters see states and observations in scales taken from the training
series, are trained by Adam on windows of 50 steps, and start from what the Kalman filters start from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hydroda import losses, training
from hydroda.filters import kalmannet, linear, rkn, splitknet
from hydroda.filters.recipe import Filter
from hydroda.losses import Loss, Run, Series, along, begin, follow
from hydroda.reproduction.constant_speed import LEVELS, drawn, system
from hydroda.training import Plan, Progress, Task

TRAINING, VALIDATION, TEST = (1000, 1), (100, 2), (1000, 3)  # series, and the seed they are drawn with


def relative(loss: Loss) -> Loss:
    """A loss in the unit of a variance over σ², so that levels train alike."""
    return lambda run, series: loss(run, series) / series.parameters[:, 0, 0]


@dataclass(frozen=True)
class Network:
    """A learned filter: its untrained weights, how it is built, trained and scored, and for how many seeds."""

    name: str
    initial: Callable[..., dict[str, Tensor]]
    build: Callable[..., Filter]
    loss: Loss
    plan: Plan
    seeds: int


PLAN = Plan(300, batch=20, lengths=((0, 50), (60, 150)), rate=(4e-3, 1e-4), every=10, patience=15)
GAIN = replace(PLAN, rate=(3e-3, 1e-4))
NETWORKS = (
    Network("RKN", rkn.initial, rkn.recursive_kalmannet, losses.surprise, PLAN, 3),
    Network("KalmanNet", kalmannet.initial, kalmannet.kalmannet, relative(losses.squared_error), GAIN, 3),
    Network("Split-KalmanNet", splitknet.initial, splitknet.split_kalmannet, relative(losses.squared_error), GAIN, 1),
    Network(
        "CKN",
        partial(splitknet.initial, cholesky=True),
        splitknet.cholesky_knet,
        relative(losses.second_moment),
        replace(GAIN, lengths=((0, 30), (40, 60), (100, 150))),
        1,
    ),
)


def joined(every: list[Series]) -> Series:
    """Series one after the other."""
    first, along = ("mean", "cov", "parameters"), ("forcing", "observation", "truth")
    parts = {name: torch.cat([getattr(s, name) for s in every]) for name in first}
    return Series(**parts, **{name: torch.cat([getattr(s, name) for s in every], 1) for name in along})


def scales(series: Series) -> tuple[Tensor, Tensor]:
    """Of states (1, 2), the RMS error of the Kalman filter that is told σ², and of observations (1, 1), σ."""
    run = kalman(series)
    return (run.mean - series.truth).square().mean((0, 1)).sqrt().unsqueeze(0), series.parameters[0].sqrt()


def kalman(series: Series, factor: Tensor | None = None) -> Run:
    """The Kalman filter told σ², or, with the factors of every observation, its true error."""
    made = linear.extended(system(series.parameters))
    with torch.no_grad():
        return follow(made, begin(made, series), series, doubt=factor)


def train(
    network: Network, folder: Path, progress: Progress, levels: tuple[int, ...] = LEVELS, mixed: bool = True
) -> dict[str, Tensor]:
    """Weights of a network at each level and seed, levels first, trained or as they are in the folder already."""
    sets = [[drawn(level, *which, mixed=mixed).series for level in levels] for which in (TRAINING, VALIDATION)]
    state, observation = (torch.cat(each) for each in zip(*map(scales, sets[0]), strict=True))
    repeated = partial(torch.repeat_interleave, repeats=network.seeds, dim=0)
    count = len(levels) * network.seeds
    start = network.initial(repeated(state), repeated(observation), range(count))
    rows = [repeated(torch.arange(len(levels) * n).reshape(len(levels), n)) for n, _ in (TRAINING, VALIDATION)]

    def build(weights: Mapping[str, Tensor], series: Series) -> Filter:
        return network.build(system(series.parameters), weights=weights)

    loss = along(network.loss)
    task = Task(build, loss, loss, joined(sets[0]), rows[0], joined(sets[1]), rows[1])
    start = {name: tensor.float() for name, tensor in start.items()}  # half the time of double, and no worse
    best, state_ = training.train(start, task, network.plan, folder / f"{network.name}.training", progress)
    return best
