"""The comparison of Mortada et al. 2025 (Recursive KalmanNet, EUSIPCO): learned gains where errors have two sizes.

Not stated there, and assumed here: learned filters see states and observations in scales taken from the training
series, are trained by Adam on windows of 50 steps, and start from what the Kalman filters start from.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydroda.filters import kalmannet, linear, mixture, rkn, splitknet
from hydroda.filters.recipe import Build, Filter
from hydroda.forecast import network_files
from hydroda.progress import Progress
from hydroda.reproduction import rkn2025_report
from hydroda.reproduction.constant_speed import FACTORS, LEVELS, SHARES, drawn, system
from hydroda.reproduction.rkn2025_report import Band, Score
from hydroda.storage import files
from hydroda.teaching import losses, training
from hydroda.teaching.losses import ALONG, Loss, Run, Series, along, begin, follow, mahalanobis
from hydroda.teaching.training import Plan, Task

TRAINING, VALIDATION = (1000, 1), (100, 2)  # series, and the seed they are drawn with
TEST = 3  # the seed of test series; the paper has 1000 of them, on which MSMD still varies by 0.03
ELSEWHERE = 300  # test series of the levels a network was not trained at
GAUSSIAN = 40  # level of the comparison where all errors have the variance σ², and the Kalman filter is optimal


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


@dataclass(frozen=True)
class Study:
    """What is run: levels and their networks, networks for errors of one size, test series of each level, and members
    of the particle filter."""

    levels: tuple[int, ...]
    networks: tuple[Network, ...]
    gaussian: tuple[Network, ...]
    tested: int
    members: int


PLAN = Plan(1000, batch=64, lengths=((0, 50), (100, 150)), rate=(4e-3, 1e-4), every=20)
GAIN = replace(PLAN, iterations=400, window=25, lengths=((0, 25), (60, 150)))
GROWING = ((0, 25), (50, 50), (100, 150))  # the covariance of a beginner does not survive 150 steps
PAIR = replace(GAIN, iterations=600, lengths=GROWING)
MSE = relative(losses.squared_error)
NETWORKS = (
    Network("RKN", rkn.initial, rkn.recursive_kalmannet, losses.surprise, PLAN, 3),
    Network("KalmanNet", kalmannet.initial, kalmannet.kalmannet, MSE, GAIN, 3),
    Network("Split-KalmanNet", splitknet.initial, splitknet.split_kalmannet, MSE, PAIR, 1),
    Network(
        "CKN",
        partial(splitknet.initial, cholesky=True),
        splitknet.cholesky_knet,
        relative(losses.second_moment),
        PAIR,
        1,
    ),
)
SINGLE = Network("KalmanNet-1", kalmannet.initial_single, kalmannet.kalmannet_single, MSE, GAIN, 1)


def _shorter(networks: Sequence[Network], iterations: int) -> tuple[Network, ...]:
    """The same, trained less, with one seed."""
    return tuple(
        replace(n, seeds=1, plan=replace(n.plan, iterations=iterations, window=25, lengths=GROWING)) for n in networks
    )


FULL = Study(LEVELS, NETWORKS, tuple(replace(n, seeds=1) for n in (*NETWORKS, SINGLE)), 4000, 100)
QUICK = Study((20, 40, 60), _shorter(NETWORKS, 60), _shorter(NETWORKS[:1], 60), 300, 50)


def reproduce(data: Path, folder: Path, *, quick: bool = False, progress: Progress) -> tuple[str, list[Path]]:
    """The tables and the files in a folder: these, figures, scores and weights; what is there is not done again. All
    data are drawn, none of `data` are needed.

    `quick` trains a fifth as long at three levels, one seed each, and scores on fewer series: minutes on one core.
    """
    study = QUICK if quick else FULL
    folder.mkdir(parents=True, exist_ok=True)
    parts = len(study.networks) + len(study.gaussian) + 1

    def told(part: int) -> Progress:
        return lambda fraction, text: progress((part + fraction) / parts, text)

    nets = [(n, train(n, folder, told(i), study.levels)) for i, n in enumerate(study.networks)]
    of_one = [
        (n, train(n, folder, told(len(nets) + i), (GAUSSIAN,), mixed=False)) for i, n in enumerate(study.gaussian)
    ]
    scores = _kept(folder / "scores_gaussian.json", study, of_one, partial(_gaussian, study, of_one))
    for i, level in enumerate(study.levels):
        told(parts - 1)(i / len(study.levels), f"scores at {level} dB")
        scores += _kept(folder / f"scores_{level}.json", study, nets, partial(_level, study, nets, level))
    bands = _bands(study, nets)
    text = rkn2025_report.tables(scores)
    files.replace(folder / "rkn2025.json", (json.dumps([asdict(s) for s in scores], indent=1) + "\n").encode())
    rkn2025_report.write(folder, text, bands, study.levels[len(study.levels) // 2])
    progress(1.0, "done")
    return text, sorted(path for path in folder.iterdir() if path.suffix in (".md", ".png", ".json"))


def train(
    network: Network, folder: Path, progress: Progress, levels: Sequence[int] = LEVELS, mixed: bool = True
) -> dict[str, Tensor]:
    """Weights of a network at each level and seed, levels first, trained or as they are in the folder already."""
    sets = [[drawn(level, *which, mixed=mixed).series for level in levels] for which in (TRAINING, VALIDATION)]
    state, observation = (torch.cat(each) for each in zip(*map(scales, sets[0]), strict=True))
    repeated = partial(torch.repeat_interleave, repeats=network.seeds, dim=0)
    start = network.initial(repeated(state), repeated(observation), range(len(levels) * network.seeds))
    start = {name: tensor.float() for name, tensor in start.items()}  # half the time of double, and no worse
    rows = [repeated(torch.arange(len(levels) * n).reshape(len(levels), n)) for n, _ in (TRAINING, VALIDATION)]

    def build(weights: Mapping[str, Tensor], series: Series) -> Filter:
        return network.build(system(series.parameters), weights=weights)

    loss = along(network.loss)
    task = Task(build, loss, loss, joined(sets[0]), rows[0], joined(sets[1]), rows[1])
    told = partial(_named, network.name, progress)
    file = network.name if mixed else f"{network.name}-gaussian"
    best, state_of = training.train(start, task, network.plan, folder / f"{file}.training", told)
    about = {
        "filter": f"{network.build.__module__.removeprefix('hydroda.filters.')}.{network.build.__name__}",
        "levels": list(levels),
        "errors": "mixed" if mixed else "gaussian",
        "seeds": network.seeds,
        "plan": asdict(network.plan),
        "data": task.digest,
        "validation": state_of.score.tolist(),
        "skipped": state_of.skipped.tolist(),
    }
    network_files.save(folder / f"{file}.safetensors", best, about)
    return best


def joined(every: Sequence[Series]) -> Series:
    """Series one after the other."""
    parts: dict[str, Any] = {
        name: torch.cat([getattr(s, name) for s in every]) for name in ("mean", "cov", "parameters")
    }
    parts |= {name: torch.cat([getattr(s, name) for s in every], 1) for name in ALONG}
    return replace(every[0], **parts)


def scales(series: Series) -> tuple[Tensor, Tensor]:
    """Of states (1, 2), the RMS error of the Kalman filter that is told σ², and of observations (1, 1), σ."""
    error = followed(linear.extended, series).mean - series.truth
    return error.square().mean((0, 1)).sqrt().unsqueeze(0), series.parameters[0].sqrt()


def followed(build: Build, series: Series, factor: Tensor | None = None) -> Run:
    """A filter that is told σ² run over series; with the factors of all observations it is told their true error."""
    made = build(system(series.parameters))
    with torch.no_grad():
        return follow(made, begin(made, series), series, doubt=factor)


def _named(name: str, progress: Progress, fraction: float, text: str) -> None:
    progress(fraction, f"{name}: {text}")


def _picked(weights: Mapping[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    return {name: tensor[first : first + count] for name, tensor in weights.items()}


def _learned(network: Network, weights: Mapping[str, Tensor]) -> Build:
    return lambda world: network.build(world, weights=weights)


def _level(study: Study, nets: Sequence[tuple[Network, Mapping[str, Tensor]]], level: int) -> Iterator[Score]:
    """The scores of everything at a level, on the same series."""
    test = drawn(level, study.tested, TEST)
    yield score("o-KF", level, test.series, followed(linear.extended, test.series, test.factor))
    yield score("so-KF", level, test.series, followed(linear.extended, test.series))
    yield score("GPB1", level, test.series, followed(*_mixture(test.series)))
    yield score("bound", level, test.series, followed(_particles(study.members), test.series))
    at = study.levels.index(level)
    few = test.series.rows(torch.arange(min(ELSEWHERE, study.tested)))
    for network, weights in nets:
        for seed in range(network.seeds):
            build = _learned(network, _picked(weights, at * network.seeds + seed, 1))
            yield score(network.name, level, test.series, followed(build, test.series), seed)
    network, weights = nets[0]
    for i, trained in enumerate(study.levels):
        build = _learned(network, _picked(weights, i * network.seeds, 1))
        yield replace(score(network.name, level, few, followed(build, few)), trained=trained)


def _gaussian(study: Study, nets: Sequence[tuple[Network, Mapping[str, Tensor]]]) -> Iterator[Score]:
    """The scores where all errors are of one size."""
    test = drawn(GAUSSIAN, study.tested, TEST, mixed=False).series
    runs = [("Kalman", followed(linear.extended, test))]
    runs += [(network.name, followed(_learned(network, weights), test)) for network, weights in nets]
    for name, found in runs:
        yield replace(score(name, GAUSSIAN, test, found), gaussian=True)


def _mixture(series: Series) -> tuple[Build, Series]:
    """GPB1 that is told the smaller of the errors, how much larger the other is, and how often."""
    small = replace(series, parameters=series.parameters * FACTORS[1])
    return mixture.gpb1(linear.extended, factor=FACTORS[0] / FACTORS[1], share=SHARES[0]), small


def _particles(members: int) -> Build:
    """The particle filter that is told both sizes of error and how often each occurs."""
    factors, shares = (torch.tensor(each, dtype=torch.float64) for each in (FACTORS, SHARES))
    return partial(mixture.rao_blackwell, factors=factors, shares=shares, members=members)


def score(name: str, level: int, series: Series, found: Run, seed: int = 0) -> Score:
    """MSE [dB] over time, components and series, MSMD and NLL, with standard errors over series."""
    error = series.truth - found.mean
    square = error.square().mean((0, 2))
    distance, determinant = mahalanobis(error, found.cov)
    root, mean, own = math.sqrt(square.numel()), float(square.mean()), distance.mean(0)
    return Score(
        name,
        level,
        seed,
        10.0 * math.log10(mean),
        10.0 / math.log(10.0) * float(square.std()) / root / mean,
        float(own.mean()),
        float(own.std()) / root,
        float((distance + determinant).mean()),
    )


def _kept(
    path: Path,
    study: Study,
    nets: Sequence[tuple[Network, Mapping[str, Tensor]]],
    make: Callable[[], Iterator[Score]],
) -> list[Score]:
    """Scores that were made with the same weights, or are made now."""
    label = hashlib.sha256(f"{study.tested} {study.members}".encode())
    for _, weights in nets:
        for tensor in weights.values():
            label.update(tensor.detach().contiguous().numpy().tobytes())
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] == label.hexdigest():
            return [Score(**each) for each in kept["scores"]]
    scores = list(make())
    text = json.dumps({"of": label.hexdigest(), "scores": [asdict(s) for s in scores]}, indent=1)
    files.replace(path, text.encode())
    return scores


def _bands(study: Study, nets: Sequence[tuple[Network, Mapping[str, Tensor]]]) -> list[Band]:
    """Errors over time and what is said of them, on the test series of the level in the middle."""
    at = len(study.levels) // 2
    test = drawn(study.levels[at], study.tested, TEST).series
    named: list[tuple[str, Run]] = [("so-KF", followed(linear.extended, test))]
    for network, weights in nets:
        if network.name in ("RKN", "CKN"):
            build = _learned(network, _picked(weights, at * network.seeds, 1))
            named.append((network.name, followed(build, test)))
    bands = []
    for name, found in named:
        error, variance = found.mean - test.truth, found.cov.diagonal(dim1=-2, dim2=-1)
        one = error[:, 0].numpy(), variance[:, 0].sqrt().numpy()
        every = error.square().mean(1).sqrt().numpy(), variance.mean(1).sqrt().numpy()
        bands.append(Band(name, *one, *every))
    return bands
