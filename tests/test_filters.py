"""Laws of filters: a table of filters, and what holds for each. A new filter inherits every law by one row.

Observations are drawn from the system the filter is given; forcing and parameters differ per catchment; no two axes
have the same length, so that none can be taken for another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from hydroda.filters import (
    adaptive,
    algebra,
    bias,
    coloured,
    ensemble,
    kalmannet,
    linear,
    mixed,
    mixture,
    particle,
    reduce,
    reduced,
    rkn,
    sigma,
    splitknet,
    variational,
)
from hydroda.filters.beliefs import Belief, Ensemble, Gaussian, chosen, joined, mapped, named
from hydroda.filters.kinds import built, kind
from hydroda.filters.noise import Noise, address, philox
from hydroda.filters.recipe import Filter, Hour, System, Update
from hydroda.models.hbv import hourly
from hydroda.models.linear import reservoirs

# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A filter: how it is built, what makes it sample well, and which laws are not its own, with the reason."""

    build: Callable[[System], Filter]
    large: Callable[[System], Filter] | None = None  # with members enough to be close to exact; none: it is exact
    count: int = 500  # members of `large`, or as many as its particles are worth
    only_linear: bool = False
    tolerance: float = 1e-10  # of a filter that is exact
    draws: bool = False  # random numbers
    rounding: float = 1e-6  # of its gradients
    single: float | None = 2e-3  # error of float32 over the deviation; None: refused
    excess: float = 0.0  # by which the theory makes the covariance too large, at most
    not_for: Mapping[str, str] = field(default_factory=dict)  # law -> why it does not hold


SAMPLES = {
    "either_order": "each of two analyses perturbs, or resamples, with draws of its own",
    "partly_missing": "the perturbation of a gauge is drawn by its place among the gauges",
}
SPARSE = {"shrinks": "seventeen members with draws of their own have the right trace on average only, see `large`"}
WEIGHTS = {
    "perfect_one": "no particle lies where a perfect observation is",
    "gradients": "resampling is a choice, which has no derivative",
    "shrinks": "weights that favour the outer members widen the spread",
}
STATIC = {
    "is_the_kalman_filter": "its covariance stays what it was at first; one analysis is in test_variational",
    "average_to_the_number": "S is that of a covariance that does not follow the errors",
    "either_order": "an analysis leaves its covariance, so a second one counts the first information again",
    "certainly_empty": "its covariance does not become what the error of the model makes of it",
    "stays_certain": "its mean is that of the model only, as asked in test_variational",
    "shrinks": "its covariance is that before an observation, always",
    "grows": "its covariance does not change",
}
FRESH = {
    "is_the_kalman_filter": "it follows its innovations and leaves the errors it was told",
    "certainly_empty": "it is not the Kalman filter, for the same reason",
    "either_order": "the errors change between two observations",
}
TABLE = {"partly_missing": "its belief holds an entry for each gauge, so that of two gauges is no belief of one"}
LARGER = {
    "is_the_kalman_filter": "its state has the noise in it, see test_papers",
    "average_to_the_number": "the noise of these worlds is white",
    "certainly_empty": "as above",
    "stays_certain": "as above",
    "either_order": "the noise moves on between two observations",
    "perfect_one": "the mean has more components than the observation",
    "units": "the noise needs units of its own",
    "broken_catchment": "as below",
}
PERTURBED = SAMPLES | SPARSE


def members(build: Callable[..., Filter], count: int = 500, **row: Any) -> Row:
    """An ensemble of 17, and of `count` where it has to sample well."""
    options = row.pop("options", {})
    return Row(
        partial(build, members=17, **options),
        large=partial(build, members=count, **options),
        count=count,
        draws=True,
        **row,
    )


def particles(build: Callable[..., Filter]) -> Row:
    """A hundred, and four thousand that are worth some hundreds."""
    return Row(partial(build, members=100), large=partial(build, members=4000), draws=True, not_for=SAMPLES | WEIGHTS)


UNTRAINED = {
    "is_the_kalman_filter": "its networks know nothing yet; trained ones are in test_learned",
    "average_to_the_number": "as above",
    "certainly_empty": "as above",
    "stays_certain": "as above",
    "either_order": "its memory moves on between two observations",
    "useless": "it does not ask how large the error of a gauge is",
    "partly_missing": "the networks of two gauges are not that of one",
    "shrinks": "its networks know nothing yet",
    "grows": "it knows of no model error, so that a forecast adds what the model does only",
    "units": "its scales are in the units it was trained in, see test_learned",
}
SILENT = UNTRAINED | {
    "gradients": "it says nothing of its error, so has no likelihood; those of its mean are in test_learned",
    "covariances": "it has none",
    "single": "as above",
}


def untrained(initial: Callable[..., Any], build: Callable[..., Filter], **row: Any) -> Row:
    """A learned filter with weights as they begin, in the sizes of the world it meets."""

    @cache
    def weights(n: int, q: int) -> dict[str, Tensor]:
        return initial(torch.full((1, n), 0.2), torch.full((1, q), 0.8), (5,))

    def made(system: System) -> Filter:
        def on(mean: Tensor) -> Filter:
            return build(system, weights=weights(mean.shape[-1], system.see(mean).shape[-1]))

        return Filter(
            system,
            lambda mean, cov, noise: on(mean).init(mean, cov, noise),
            lambda belief, hour: on(belief.mean).forecast(belief, hour),
            lambda belief: on(belief.mean).observe(belief),
            lambda belief, hour: on(belief.mean).step(belief, hour),
        )

    return Row(made, **row)


FILTERS = {
    "linear.kalman": Row(linear.kalman, only_linear=True),
    "linear.extended": Row(linear.extended),
    "linear.iterated": Row(linear.iterated),
    "sigma.ukf": Row(sigma.ukf),
    "sigma.ukf(1, 2, 1)": Row(partial(sigma.ukf, alpha=1.0, beta=2.0, kappa=1.0)),
    "sigma.ukf(0.1, 2, 0)": Row(partial(sigma.ukf, alpha=0.1, beta=2.0, kappa=0.0), single=0.1),
    "sigma.ukf(0.001, 2, 0)": Row(
        partial(sigma.ukf, alpha=1e-3, beta=2.0, kappa=0.0), tolerance=1e-7, rounding=1e-3, single=None
    ),
    "sigma.ckf": Row(sigma.ckf),
    "sigma.srukf": Row(sigma.srukf),
    "sigma.srukf(1, 2, 1)": Row(partial(sigma.srukf, alpha=1.0, beta=2.0, kappa=1.0)),
    "variational.three_d_var": Row(partial(variational.three_d_var, bounded=False), not_for=STATIC),
    "ensemble.enkf": members(ensemble.enkf, not_for=PERTURBED),
    "ensemble.etkf": members(ensemble.etkf),
    "ensemble.etkf(rotated)": members(ensemble.etkf, 60, options={"rotated": True}),
    "ensemble.estkf": members(ensemble.estkf, 300),
    "ensemble.denkf": members(
        ensemble.denkf, excess=0.25, not_for={"either_order": "half the gain twice is not half the gain once"}
    ),
    "ensemble.ensrf": members(ensemble.ensrf),
    "ensemble.ensrf(rotated)": members(ensemble.ensrf, 60, options={"rotated": True}),
    "ensemble.letkf": members(ensemble.letkf, 300),
    "reduced.rrsqrt": Row(partial(reduced.rrsqrt, rank=6), single=0.03),
    "reduced.seek": Row(partial(reduced.seek, rank=6)),
    "reduced.seik": Row(partial(reduced.seik, rank=6)),
    "mixed.poenkf": Row(partial(mixed.poenkf, rank=6, members=5), draws=True, single=0.03),
    "mixed.coffee": Row(partial(mixed.coffee, rank=6, members=5), single=0.03),
    "mixed.coffee(2)": members(
        partial(mixed.coffee, rank=2),
        not_for=PERTURBED | {"gradients": "the root of a rest of nearly no variance is too steep for differences"},
        tolerance=1e-8,
        single=0.03,
    ),
    "particle.bootstrap": particles(particle.bootstrap),
    "particle.variance_minimising": particles(particle.variance_minimising),
    "mixture.rao_blackwell": Row(
        partial(
            mixture.rao_blackwell,
            factors=torch.ones(2),
            shares=torch.tensor([0.6, 0.4], dtype=torch.float64),
            members=5,
        ),
        only_linear=True,
        draws=False,
        single=0.1,
    ),
    "kalmannet.kalmannet": untrained(kalmannet.initial, kalmannet.kalmannet, not_for=SILENT),
    "kalmannet.kalmannet_single": untrained(kalmannet.initial_single, kalmannet.kalmannet_single, not_for=SILENT),
    "splitknet.split_kalmannet": untrained(splitknet.initial, splitknet.split_kalmannet, not_for=SILENT),
    "splitknet.cholesky_knet": untrained(
        partial(splitknet.initial, cholesky=True), splitknet.cholesky_knet, not_for=UNTRAINED
    ),
    "rkn.recursive_kalmannet": untrained(rkn.initial, rkn.recursive_kalmannet, not_for=UNTRAINED),
    # modifiers, neutral or as they begin
    "mixture.gpb1": Row(mixture.gpb1(linear.extended, factor=1.0)),
    "reduce.inflated": Row(reduce.inflated(sigma.ukf)),
    "reduce.steady": Row(reduce.steady(sigma.ukf, warm_up=10_000), not_for=TABLE),
    "adaptive.desroziers": Row(adaptive.desroziers(sigma.ukf, memory=48.0), not_for=FRESH | TABLE),
    "bias.aware(blind)": Row(bias.aware(sigma.ukf, variant="blind", bias_share=0.0)),
    "bias.aware(online)": Row(bias.aware(sigma.ukf, variant="online", bias_share=0.0)),
    "bias.aware(feedback)": Row(bias.aware(sigma.ukf, variant="feedback", bias_share=0.0)),
    "bias.aware(0.3)": Row(
        bias.aware(sigma.ukf, variant="feedback", bias_share=0.3),
        not_for={
            "is_the_kalman_filter": "it takes a share of every error for a bias",
            "average_to_the_number": "S is too large by the share of the bias",
            "certainly_empty": "it takes a share of every error for a bias",
            "either_order": "a second observation finds another bias",
            "perfect_one": "a share of a perfect observation goes to the bias; the rest to what is left",
            "shrinks": "its gain is too small for the covariance, by intent",
        },
    ),
    "bias.two_stage": Row(bias.two_stage(sigma.ukf, state_fraction=1.0, gauge_ratio=0.0), not_for=TABLE),
    "bias.two_stage(0.7, 0.5)": Row(
        bias.two_stage(sigma.ukf, state_fraction=0.7, gauge_ratio=0.5),
        not_for=TABLE
        | {
            "is_the_kalman_filter": "it takes a share of every error for a bias",
            "average_to_the_number": "S is that of biases that are known",
            "certainly_empty": "it takes a share of every error for a bias",
            "either_order": "a second observation finds other biases",
            "perfect_one": "a share of a perfect observation goes to the biases",
        },
    ),
    "coloured.coloured": Row(
        coloured.coloured(sigma.ukf, model=torch.full((1, 1, 1), 0.7, dtype=torch.float64)), not_for=LARGER
    ),
}


@pytest.fixture(autouse=True)
def _own_laws(request):
    """Skips a law that is not a filter's own, with the reason."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name in FILTERS:
        for law, reason in FILTERS[name].not_for.items():
            if law in request.node.originalname:
                pytest.skip(reason)


every = pytest.mark.parametrize("name", FILTERS)
each_world = pytest.mark.parametrize("world", ["gauges", "river"])

# --- worlds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    """A system with known errors and what was observed of it: per catchment, so that catchments can be picked."""

    make: Callable[..., System]
    parts: tuple[Tensor, ...]  # (c, …) of which `make` builds the system
    mean: Tensor
    cov: Tensor
    forcing: Tensor  # (T, c, m)
    observation: Tensor  # (T, c, q)
    addresses: np.ndarray

    @property
    def system(self) -> System:
        return self.make(*self.parts)

    def rows(self, index: Any) -> "Twin":
        index = np.asarray(index)
        parts = tuple(part[index] for part in self.parts)
        forcing, observation = self.forcing[:, index], self.observation[:, index]
        return Twin(self.make, parts, self.mean[index], self.cov[index], forcing, observation, self.addresses[index])

    def noise(self, k: int) -> Noise:
        return Noise(11, self.addresses, np.full(self.addresses.size, 500_000 + k))

    def hour(self, k: int, observation: Tensor | None = None) -> Hour:
        seen = self.observation[k] if observation is None else observation
        return Hour(self.forcing[k].unsqueeze(1), seen, self.noise(k))

    def drawn(self, hours: int, errors: int) -> "Twin":
        """The same with `hours` observations of a truth that starts and moves with the errors the system admits."""
        random = np.random.default_rng(3)
        system = self.system

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(random.standard_normal(shape))

        c, _, n = self.mean.shape
        x = self.mean + normal(c, 1, n) @ torch.linalg.cholesky(self.cov).mT
        observed = []
        for k in range(hours):
            x = system.move(x, self.forcing[k].unsqueeze(1))
            x = x + normal(c, 1, errors) @ system.model_error(x).mT
            y = system.see(x)[:, 0]
            r = torch.linalg.cholesky(system.observation_error(y))
            observed.append(y + (r @ normal(c, y.shape[-1], 1))[..., 0])
        return replace(self, observation=torch.stack(observed))


def gauges(catchments: int = 4, hours: int = 12, bent: float = 0.0) -> Twin:
    """Three states, two gauges with correlated errors, five forcings, model errors from six sources; `bent`: curved."""
    n, q, m, errors = 3, 2, 5, 6
    random = np.random.default_rng(1)

    def uniform(*shape: int) -> Tensor:
        return torch.from_numpy(random.uniform(-1.0, 1.0, (catchments, *shape)))

    m0 = 0.9 * torch.eye(n, dtype=torch.float64) + 0.1 * uniform(n, n)
    h, b, g, half = uniform(q, n), uniform(n, m), 0.3 * uniform(n, errors), 0.4 * uniform(q, q)
    r = half @ half.mT + 0.2 * torch.eye(q, dtype=torch.float64)
    spread = uniform(n, n)
    cov = spread @ spread.mT + torch.eye(n, dtype=torch.float64)

    def make(m0: Tensor, h: Tensor, b: Tensor, g: Tensor, r: Tensor) -> System:
        return System(
            lambda x, u: x @ m0.mT + bent * torch.sin(x) + u @ b.mT,
            lambda x: x @ h.mT + bent * torch.tanh(x @ h.mT),
            lambda mean: g,
            lambda y: r,
        )

    forcing = torch.from_numpy(random.uniform(-1.0, 1.0, (hours, catchments, m)))
    empty = torch.empty(0)
    addresses = np.array([address(f"gauge {i}") for i in range(catchments)])
    return Twin(make, (m0, h, b, g, r), uniform(1, n), cov, forcing, empty, addresses).drawn(hours, errors)


def river(only_linear: bool = False, hours: int = 12, catchments: int = 4) -> Twin:
    """The forecast model, or three linear reservoirs; errors grow with the water."""
    model = reservoirs(3) if only_linear else hourly()
    n = len(model.states)
    random = np.random.default_rng(2)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, shape))

    p = model.defaults * uniform(0.8, 1.2, catchments, 1, len(model.parameters))
    forcing = uniform(0.1, 2.0, hours, catchments, len(model.forcings))
    mean = model.start(p) + uniform(1.0, 3.0, catchments, 1, n)
    if not only_linear:
        mean[..., -1] = 0.1
    cov = torch.diag_embed((0.1 * mean[:, 0] + 0.01).square())

    def make(p: Tensor) -> System:
        return System(
            lambda x, u: model.step(x, u, p),
            lambda x: model.discharge(x, p),
            lambda mean: torch.diag_embed((0.02 * mean.clamp(min=0.0) + 0.01)[:, 0]),
            lambda y: torch.diag_embed((0.1 * y.clamp(min=0.0) + 0.01).square()),
        )

    addresses = np.array([address(f"river {i}") for i in range(catchments)])
    return Twin(make, (p,), mean, cov, forcing, torch.empty(0), addresses).drawn(hours, n)


@cache
def twin(world: str, only_linear: bool) -> Twin:
    return river(only_linear) if world == "river" else gauges(bent=0.0 if only_linear else 0.1)


def suited(name: str, world: str) -> tuple[Filter, Twin]:
    """A filter of the table on a world it is made for."""
    found = twin(world, FILTERS[name].only_linear)
    return FILTERS[name].build(found.system), found


def start(made: Filter, of: Twin) -> Belief:
    return made.init(of.mean, of.cov, of.noise(-1))


def run(made: Filter, of: Twin, belief: Belief | None = None, hours: Any = None) -> list[tuple[Belief, Update]]:
    belief, found = start(made, of) if belief is None else belief, []
    for k in range(len(of.observation)) if hours is None else hours:
        belief, update = made.step(belief, of.hour(k))
        found.append((belief, update))
    return found


def same(a: Belief, b: Belief) -> bool:
    return all(torch.equal(x, named(b)[name]) for name, x in named(a).items())


def close(a: Any, b: Any, tolerance: float, scale: Any = None) -> None:
    """Equal to `tolerance` relative to the largest number of b."""
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v) for v in (a, b))
    np.testing.assert_allclose(
        a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max() if scale is None else scale)
    )


def trace(cov: Tensor) -> Tensor:
    return cov.diagonal(dim1=1, dim2=2).sum(-1)


def alike(a: Belief, b: Belief, tolerance: float) -> None:
    close(a.mean, b.mean, tolerance)
    close(a.cov, b.cov, tolerance)


def kalman_in_numpy(of: Twin) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Means (c, n), covariances (c, n, n) and log-likelihoods (c,) of the linear `gauges`, one matrix at a time."""
    parts = [part.numpy() for part in of.parts]
    means, covs, found = of.mean[:, 0].numpy().copy(), of.cov.numpy().copy(), []
    for forcing, observation in zip(of.forcing.numpy(), of.observation.numpy(), strict=True):
        likelihood = np.zeros(len(means))
        for i, (m, h, b, g, r) in enumerate(zip(*parts, strict=True)):
            x, p = m @ means[i] + b @ forcing[i], m @ covs[i] @ m.T + g @ g.T
            here = np.isfinite(observation[i])
            h, r, y = h[here], r[np.ix_(here, here)], observation[i, here]
            s = h @ p @ h.T + r
            k = p @ h.T @ np.linalg.inv(s)
            d = y - h @ x
            means[i], covs[i] = x + k @ d, (np.eye(x.size) - k @ h) @ p @ (np.eye(x.size) - k @ h).T + k @ r @ k.T
            square = d @ np.linalg.inv(s) @ d
            likelihood[i] = -0.5 * (here.sum() * np.log(2 * np.pi) + np.log(np.linalg.det(s)) + square)
        found.append((means.copy(), covs.copy(), likelihood))
    return found


def with_gaps(of: Twin) -> Twin:
    """One gauge missing, the other, both; another pattern in every catchment."""
    observation = of.observation.clone()
    for k in range(len(observation)):
        for i in range(observation.shape[1]):
            for j in range(observation.shape[2]):
                if (k + 2 * i + 3 * j) % 4 == 0 or (k + i) % 5 == 0:
                    observation[k, i, j] = torch.nan
    return replace(of, observation=observation)


# --- exactness -------------------------------------------------------------------------------------------------------


@every
def test_on_a_linear_system_every_filter_is_the_kalman_filter(name):
    row = FILTERS[name]
    of = with_gaps(gauges(hours=20, catchments=4 if row.large is None else 24))
    found, expected = run((row.large or row.build)(of.system), of), kalman_in_numpy(of)
    if row.large is None:
        for (belief, update), (mean, cov, likelihood) in zip(found, expected, strict=True):
            close(belief.mean[:, 0], mean, row.tolerance)
            close(belief.cov, cov, row.tolerance)
            close(update.log_likelihood, likelihood, row.tolerance)
        return
    trace = np.array([[np.trace(p) for p in cov] for _, cov, _ in expected])
    ratio = torch.stack([belief.cov.diagonal(dim1=1, dim2=2).sum(-1) for belief, _ in found]).numpy() / trace
    sampling = math.sqrt(500 / row.count)
    assert 1.0 - 0.03 * sampling < ratio.mean() < 1.0 + 0.03 * sampling + row.excess
    error = np.array(
        [belief.mean[:, 0].numpy() - mean for (belief, _), (mean, _, _) in zip(found, expected, strict=True)]
    )
    assert np.sqrt((error**2).sum(-1).mean() / trace.mean()) < 0.1 * sampling


def test_likelihoods_of_mixtures_and_particles_are_not_those_of_one_gaussian():
    of = gauges(hours=1)
    hour = of.hour(0)
    mixed = mixture.gpb1(linear.extended, factor=16.0, share=0.2)(of.system)
    found = mixed.step(start(mixed, of), hour)[1].log_likelihood
    plain = linear.extended(of.system)
    each = [
        plain.step(start(plain, of), hour._replace(doubt=torch.full_like(hour.observation, size)))[1].log_likelihood
        for size in (1.0, 16.0)
    ]
    close(found, torch.logaddexp(math.log(0.8) + each[0], math.log(0.2) + each[1]), 1e-12)
    made = particle.bootstrap(of.system, members=30)
    prior = made.forecast(start(made, of), hour)
    r = of.system.observation_error(hour.observation)
    chances = [
        torch.distributions.MultivariateNormal(of.system.see(prior.members)[c], r[c]).log_prob(hour.observation[c])
        for c in range(len(r))
    ]
    expected = torch.logsumexp(torch.stack(chances) + prior.weights[..., 0].log(), 1)
    close(made.step(start(made, of), hour)[1].log_likelihood, expected, 1e-9)


@every
def test_normalised_innovations_average_to_the_number_of_observations(name):
    row = FILTERS[name]
    of = gauges(catchments=30, hours=20)
    nis = torch.stack([update.nis for _, update in run((row.large or row.build)(of.system), of)])
    count, q = nis.numel(), of.observation.shape[-1]
    low, high = (stats.chi2.ppf(share, count * q) / count for share in (0.0005, 0.9995))
    assert low < nis.mean() < high


@every
def test_two_independent_observations_in_either_order_agree(name):
    of = gauges()
    _, h, _, g, r = of.parts
    errors = torch.diag_embed(r.diagonal(dim1=1, dim2=2))
    still = System(lambda x, u: x, lambda x: x @ h.mT, lambda mean: torch.zeros_like(g), lambda y: errors)
    made = FILTERS[name].build(still)
    first, second = of.observation[0].clone(), of.observation[0].clone()
    first[:, 1], second[:, 0] = torch.nan, torch.nan
    belief = start(made, of)
    both, update = made.step(belief, of.hour(0))
    for one, other in ((first, second), (second, first)):
        half, early = made.step(belief, of.hour(0, one))
        whole, late = made.step(half, of.hour(0, other))
        alike(whole, both, 10 * FILTERS[name].tolerance)
        close(early.log_likelihood + late.log_likelihood, update.log_likelihood, 10 * FILTERS[name].tolerance)


@every
def test_a_useless_observation_changes_nothing_and_a_perfect_one_everything(name):
    of = gauges()
    _, _, b, g, _ = of.parts
    eye = torch.eye(3, dtype=torch.float64).expand(4, -1, -1)
    y = torch.from_numpy(np.random.default_rng(4).standard_normal((4, 3)))
    for error, tolerance in ((1e14, 1e-8), (1e-12, 1e-5)):
        r = error * eye
        system = System(lambda x, u: x + u @ b.mT, lambda x: x, lambda mean: g, lambda y, r=r: r)  # type: ignore[misc]
        made = FILTERS[name].build(system)
        belief, _ = made.step(start(made, of), of.hour(0, y))
        expected = made.forecast(start(made, of), of.hour(0)).mean if error > 1 else y.unsqueeze(1)
        close(belief.mean, expected, tolerance)


@every
def test_an_empty_store_that_is_certainly_empty_is_no_obstacle(name):
    of = gauges()
    cov = of.cov.clone()
    cov[:, 1], cov[:, :, 1] = 0.0, 0.0
    of = replace(of, cov=cov)
    made = FILTERS[name].build(of.system)
    close(start(made, of).cov[:, 1], torch.zeros(4, 3), 1e-12, scale=1.0)
    found = run(made, of)
    assert all(torch.isfinite(x).all() for belief, _ in found for x in named(belief).values())
    if FILTERS[name].large is None:
        for (belief, _), (mean, p, _) in zip(found, kalman_in_numpy(of), strict=True):
            close(belief.mean[:, 0], mean, FILTERS[name].tolerance)
            close(belief.cov, p, FILTERS[name].tolerance)


@every
def test_nothing_known_to_be_uncertain_stays_certain(name):
    of = gauges()
    m0, h, b, g, r = of.parts
    of = replace(of, cov=torch.zeros_like(of.cov), parts=(m0, h, b, 0.0 * g, r))
    belief, update = run(FILTERS[name].build(of.system), of)[-1]
    close(belief.cov, torch.zeros(4, 3, 3), 1e-12, scale=1.0)
    close(belief.mean[:, 0], kalman_in_numpy(of)[-1][0], 1e-10)
    assert torch.isfinite(update.log_likelihood).all()


# --- missing and doubted observations --------------------------------------------------------------------------------


@every
@each_world
def test_no_observation_is_a_forecast_bit_for_bit(name, world):
    made, of = suited(name, world)
    belief = run(made, of)[-1][0]
    nothing = torch.full_like(of.observation[0], torch.nan)
    after, update = made.step(belief, of.hour(3, nothing))
    forecast = made.forecast(belief, of.hour(3))
    assert same(after, forecast)
    assert torch.isnan(update.nis).all() and (update.log_likelihood == 0).all() and (update.innovation == 0).all()
    some = nothing.clone()
    some[1] = of.observation[3, 1]
    after, update = made.step(belief, of.hour(3, some))
    keep = torch.tensor([0, 2, 3])
    assert same(mapped(lambda x: x[keep], after), mapped(lambda x: x[keep], forecast))
    assert not same(after, forecast)
    assert torch.isnan(update.nis).tolist() == [True, bool(after.cov[1].isnan().any()), True, True]


@every
@pytest.mark.parametrize("kept", [0, 1])
def test_a_partly_missing_observation_is_observing_the_rest(name, kept):
    made, of = suited(name, "gauges")
    whole = of.system

    def error(y: Tensor) -> Tensor:
        return whole.observation_error(y)[:, kept : kept + 1, kept : kept + 1]

    part = System(whole.move, lambda x: whole.see(x)[..., kept : kept + 1], whole.model_error, error)
    alone = FILTERS[name].build(part)
    observation = torch.full_like(of.observation[0], torch.nan)
    observation[:, kept] = of.observation[0, :, kept]
    belief = start(made, of)
    found, update = made.step(belief, of.hour(0, observation))
    expected, expected_update = alone.step(belief, of.hour(0, observation[:, kept : kept + 1]))
    alike(found, expected, 1e-12)
    close(update.log_likelihood, expected_update.log_likelihood, 1e-12)
    close(update.nis, expected_update.nis, 1e-12)
    close(update.innovation[:, kept], expected_update.innovation[:, 0], 1e-12)


@every
@each_world
def test_a_doubted_observation_is_one_of_greater_error(name, world):
    made, of = suited(name, world)
    system, belief = of.system, run(made, of, hours=range(2))[-1][0]
    doubt = torch.full_like(of.observation[2], 4.0)
    found, update = made.step(belief, of.hour(2)._replace(doubt=doubt))
    vague = replace(system, observation_error=lambda y: 4.0 * system.observation_error(y))
    expected, expected_update = FILTERS[name].build(vague).step(belief, of.hour(2))
    alike(found, expected, 1e-12)
    close(update.log_likelihood, expected_update.log_likelihood, 1e-12)
    certain, _ = made.step(belief, of.hour(2)._replace(doubt=torch.ones_like(doubt)))
    assert same(certain, made.step(belief, of.hour(2))[0])


# --- catchments, restarts, noise -------------------------------------------------------------------------------------


@every
@each_world
def test_one_run_is_two_runs_with_a_file_between(name, world):
    made, of = suited(name, world)
    whole = run(made, of)
    first = run(made, of, hours=range(5))[-1][0]
    again = built(kind(first), {path: torch.from_numpy(t.numpy().copy()) for path, t in named(first).items()})
    rest = run(FILTERS[name].build(of.system), of, again, range(5, len(whole)))
    for (a, update), (b, other) in zip(whole[5:], rest, strict=True):
        assert same(a, b)
        np.testing.assert_array_equal(update.log_likelihood, other.log_likelihood)  # or both NaN


@every
@each_world
def test_a_catchment_alone_is_the_same_among_others(name, world):
    _, of = suited(name, world)
    of = with_gaps(of)
    among = run(FILTERS[name].build(of.system), of)
    for i in range(4):
        one = of.rows([i])
        for (a, update), (b, other) in zip(among, run(FILTERS[name].build(one.system), one), strict=True):
            for path, tensor in named(b).items():
                close(tensor[0], named(a)[path][i], ALONE)
            close(other.log_likelihood[0], update.log_likelihood[i], ALONE)


ALONE = 1e-13


@every
@each_world
def test_permuting_catchments_permutes_the_results(name, world):
    _, of = suited(name, world)
    order = np.array([2, 0, 3, 1])
    other = of.rows(order)
    a, b = run(FILTERS[name].build(of.system), of), run(FILTERS[name].build(other.system), other)
    for (x, _), (y, _) in zip(a, b, strict=True):
        for path, tensor in named(y).items():
            close(tensor, named(x)[path][order], ALONE)


@every
@each_world
def test_a_broken_catchment_does_not_disturb_the_others(name, world):
    made, of = suited(name, world)
    sound = run(made, of)
    belief = start(made, of)

    def broken(x: Tensor) -> Tensor:
        x = x.clone()
        x[1] = torch.nan
        if x.dim() > 2 and x.shape[1] == x.shape[2]:
            x[2] = -x[2]  # no covariance, and no root with a positive diagonal
        else:
            x[2] = torch.inf
        return x

    belief = mapped(broken, belief)
    others = torch.tensor([0, 3])
    for (a, update), (b, other) in zip(run(made, of, belief), sound, strict=True):
        for path, tensor in named(a).items():
            close(tensor[others], named(b)[path][others], ALONE)
        close(update.log_likelihood[others], other.log_likelihood[others], ALONE)


@every
def test_noise_belongs_to_its_address(name):
    """The same catchment and hour draw the same, others differ; a filter that draws nothing does not care."""
    of = twin("gauges", FILTERS[name].only_linear)
    draws = FILTERS[name].draws
    twice = of.rows([0, 0])
    moved = replace(twice, addresses=np.array([twice.addresses[0], address("elsewhere")]))

    def pair(of: Twin, late: int = 0) -> list[Belief]:
        made = FILTERS[name].build(of.system)
        first = made.init(of.mean, of.cov, of.noise(-1 + late))
        return [first, made.step(first, of.hour(0)._replace(noise=of.noise(late)))[0]]

    def equal(a: Belief, b: Belief) -> bool:
        return all(torch.allclose(x, named(b)[path], rtol=1e-12, atol=1e-12) for path, x in named(a).items())

    for same_place, other_place, later in zip(pair(twice), pair(moved), pair(twice, 1), strict=True):
        one, two = (mapped(lambda x, i=i: x[i], same_place) for i in (0, 1))
        assert equal(one, two)
        elsewhere = mapped(lambda x: x[1], other_place)
        assert equal(one, mapped(lambda x: x[0], other_place))
        assert equal(one, elsewhere) is not draws
        assert equal(one, mapped(lambda x: x[0], later)) is not draws


# --- derivatives, covariances, units ---------------------------------------------------------------------------------


def likelihood(made: Filter, of: Twin, mean: Tensor, hours: int = 3) -> Tensor:
    found = run(made, of, made.init(mean, of.cov, of.noise(-1)), range(hours))
    return torch.stack([update.log_likelihood for _, update in found]).sum(0)


@every
@each_world
@pytest.mark.parametrize("gaps", [False, True])
def test_gradients_are_finite_differences(name, world, gaps):
    made, of = suited(name, world)
    of = with_gaps(of) if gaps else of
    mean = of.mean.clone().requires_grad_()
    likelihood(made, of, mean).sum().backward()
    assert mean.grad is not None and torch.isfinite(mean.grad).all()
    step = 1e-5
    for i in range(mean.shape[-1]):
        d = torch.zeros_like(of.mean)
        d[..., i] = step
        with torch.no_grad():
            slope = (likelihood(made, of, of.mean + d) - likelihood(made, of, of.mean - d)) / (2 * step)
        rounding = FILTERS[name].rounding
        np.testing.assert_allclose(mean.grad[:, 0, i], slope, rtol=10 * rounding, atol=rounding)


@every
def test_gradients_reach_what_the_system_is_made_of(name):
    """The parameters, not only what the belief began with: a fit by gradients would otherwise be wrong and not know."""
    of = twin("gauges", FILTERS[name].only_linear)
    m0, *others = of.parts

    def value(m0: Tensor) -> Tensor:
        found = replace(of, parts=(m0, *others))
        return likelihood(FILTERS[name].build(found.system), found, of.mean, 2)

    free = m0.clone().requires_grad_()
    value(free).sum().backward()
    d = torch.zeros_like(m0)
    d[:, 2, 1] = 1e-5
    assert free.grad is not None
    rounding = FILTERS[name].rounding
    np.testing.assert_allclose(free.grad[:, 2, 1], (value(m0 + d) - value(m0 - d)) / 2e-5, rtol=1e-5, atol=rounding)


@every
@each_world
def test_covariances_are_symmetric_and_non_negative(name, world):
    made, of = suited(name, world)
    belief = start(made, of)
    for k in range(len(of.observation)):
        prior, (posterior, update) = made.forecast(belief, of.hour(k)), made.step(belief, of.hour(k))
        for cov in (prior.cov, posterior.cov):
            close(cov, cov.mT, 1e-15)
            assert (torch.linalg.eigvalsh(cov)[:, 0] >= -1e-12 * trace(cov)).all()
        s = update.innovation_cov
        assert (torch.linalg.eigvalsh(s) > 0).all()
        close(s, s.mT, 1e-15)
        belief = posterior


@every
@each_world
def test_uncertainty_shrinks_in_an_analysis(name, world):
    made, of = suited(name, world)
    belief = start(made, of)
    for k in range(len(of.observation)):
        prior, (belief, _) = made.forecast(belief, of.hour(k)), made.step(belief, of.hour(k))
        assert (trace(belief.cov) <= trace(prior.cov) * (1 + 1e-12)).all()


@every
def test_single_precision_is_close_or_refused(name):
    """In deviations of the state, after twelve hours."""
    of = twin("gauges", FILTERS[name].only_linear)
    half = Twin(
        of.make,
        tuple(part.float() for part in of.parts),
        *(x.float() for x in (of.mean, of.cov, of.forcing, of.observation)),
        of.addresses,
    )
    if FILTERS[name].single is None:
        with pytest.raises(ValueError, match="float64"):
            run(FILTERS[name].build(half.system), half)
        return
    exact, found = (run(FILTERS[name].build(x.system), x)[-1][0] for x in (of, half))
    deviation = exact.cov.diagonal(dim1=1, dim2=2).sqrt()
    assert found.mean.dtype == found.cov.dtype == torch.float32
    error = ((found.mean.double() - exact.mean)[:, 0] / deviation).abs().max()
    assert error < FILTERS[name].single


@every
@each_world
def test_uncertainty_grows_in_a_forecast(name, world):
    of = twin(world, FILTERS[name].only_linear)
    made = (FILTERS[name].large or FILTERS[name].build)(of.system)
    belief = run(made, of)[-1][0]
    traces = []
    for k in range(6):
        traces.append(belief.cov.diagonal(dim1=1, dim2=2).sum(-1).mean())
        belief = made.forecast(belief, of.hour(k)._replace(noise=of.noise(100 + k)))
    slack = 0.0 if FILTERS[name].large is None else 1.0 / math.sqrt(FILTERS[name].count)
    assert all(b > a * (1.0 - slack) for a, b in pairwise(traces)) and traces[-1] > traces[0]


@every
@each_world
def test_units_scale_the_results_and_nothing_else(name, world):
    """Millimetres to metres and back in turn for the states, m³/s to mm/h for the gauges."""
    made, of = suited(name, world)
    n, q = of.mean.shape[-1], of.observation.shape[-1]
    d = torch.tensor([1e-3, 1e3, 1.0] * 2, dtype=torch.float64)[:n]
    e = torch.tensor([3.6, 1 / 31.75], dtype=torch.float64)[:q]
    system = of.system
    other = System(
        lambda x, u: system.move(x / d, u) * d,
        lambda x: system.see(x / d) * e,
        lambda mean: system.model_error(mean / d) * d.unsqueeze(-1),
        lambda y: system.observation_error(y / e) * e * e.unsqueeze(-1),
    )
    there = replace(
        of,
        mean=of.mean * d,
        cov=of.cov * d * d.unsqueeze(-1),
        observation=of.observation * e,
        make=lambda *parts: other,
    )
    for (a, update), (b, scaled) in zip(run(made, of), run(FILTERS[name].build(other), there), strict=True):
        tolerance = FILTERS[name].tolerance
        close(b.mean / d, a.mean, tolerance)
        close(b.cov / (d * d.unsqueeze(-1)), a.cov, tolerance)
        close(scaled.nis, update.nis, tolerance)
        close(scaled.log_likelihood + e.log().sum(), update.log_likelihood, tolerance)


@every
@each_world
def test_a_filter_needs_no_gradients_and_leaves_none(name, world):
    made, of = suited(name, world)
    belief, update = run(made, of, hours=range(2))[-1]
    assert not any(t.requires_grad for t in (*named(belief).values(), update.log_likelihood))
    with torch.inference_mode():
        inside, _ = run(made, of, hours=range(2))[-1]
    assert same(belief, inside)


# --- single filters --------------------------------------------------------------------------------------------------


def test_the_transform_is_that_of_hunt_et_al():
    """Hunt et al. 2007, eqs 21–24, in the space of the members."""
    made, of = suited("ensemble.etkf", "gauges")
    belief = start(made, of)
    prior = made.forecast(belief, of.hour(0))
    found, _ = made.step(belief, of.hour(0))
    count = prior.members.shape[1]
    system = of.system
    for i in range(4):
        x, y = prior.members[i].numpy().T, system.see(prior.members)[i].numpy().T
        a, b = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        inverse = np.linalg.inv(system.observation_error(of.observation[0])[i].numpy())
        c = b.T @ inverse
        values, vectors = np.linalg.eigh((count - 1) * np.eye(count) + c @ b)
        weights = vectors / values @ vectors.T @ c @ (of.observation[0, i].numpy() - y.mean(1))
        spread = vectors * np.sqrt((count - 1) / values) @ vectors.T
        expected = x.mean(1, keepdims=True) + a @ (weights[:, None] + spread)
        np.testing.assert_allclose(found.members[i].numpy().T, expected, rtol=1e-12, atol=1e-12)


def test_the_anomalies_of_an_ensemble_stay_centred():
    made, of = suited("ensemble.etkf", "gauges")
    belief = start(made, of)
    close(belief.mean, of.mean, 1e-14)
    for k in range(len(of.observation)):
        prior = made.forecast(belief, of.hour(k))
        belief, update = made.step(belief, of.hour(k))
        close(belief.mean, prior.mean + update.shift, 1e-13)
    with pytest.raises(ValueError, match="1 members"):
        ensemble.etkf(of.system, members=1)


@pytest.mark.parametrize("part", ["move", "see"])
def test_the_kalman_filter_refuses_a_nonlinear_system(part):
    straight, curved = gauges(), gauges(bent=0.1)
    system = replace(straight.system, **{part: getattr(curved.system, part)})
    made = linear.kalman(system)
    with pytest.raises(ValueError, match="linear"):
        run(made, straight)
    run(linear.extended(system), straight)


def test_options_of_the_unscented_filter_are_checked():
    of = gauges()
    with pytest.raises(ValueError, match="alpha"):
        sigma.ukf(of.system, alpha=0.0)
    made = sigma.ukf(of.system, kappa=-3.0)
    with pytest.raises(ValueError, match="kappa"):
        made.forecast(start(made, of), of.hour(0))


# --- beliefs ---------------------------------------------------------------------------------------------------------


def test_beliefs_are_built_chosen_joined_and_shifted():
    a = Gaussian(torch.rand(4, 1, 3), torch.rand(4, 3, 3))
    b = Gaussian(torch.rand(4, 1, 3), torch.rand(4, 3, 3))
    pick = chosen(torch.tensor([True, False, False, True]), a, b)
    assert torch.equal(pick.mean[:2, 0], torch.stack((a.mean[0, 0], b.mean[1, 0]))) and torch.equal(
        pick.cov[3], a.cov[3]
    )
    assert torch.equal(joined([a, b]).cov[4:], b.cov)
    assert torch.equal(a.shifted(torch.ones(4, 1, 3)).mean, a.mean + 1)
    members = Ensemble(torch.rand(4, 5, 3, dtype=torch.float64))
    close(members.cov[2], np.cov(members.members[2].numpy().T), 1e-14)
    close(members.shifted(torch.ones(4, 1, 3)).mean, members.mean + 1, 1e-14)
    with pytest.raises(ValueError, match="no belief 'Gauss'"):
        built("Gauss", named(a))
    with pytest.raises(ValueError, match="cov, mean; found mean"):
        built("Gaussian", {"mean": a.mean})


# --- algebra ---------------------------------------------------------------------------------------------------------


def test_the_symmetric_root_and_its_derivative():
    half = torch.from_numpy(np.random.default_rng(6).standard_normal((4, 3, 3)))
    m = half @ half.mT + torch.eye(3, dtype=torch.float64)
    m[1] = torch.eye(3)  # all eigenvalues alike
    m[2] = torch.nan
    s = algebra.square_root(m)
    assert torch.isnan(s[2]).all()
    sound = m[[0, 1, 3]].requires_grad_()
    close(algebra.square_root(sound) @ algebra.square_root(sound), sound, 1e-14)
    close(algebra.square_root(sound), algebra.square_root(sound).mT, 1e-14)
    weight = algebra.symmetric(torch.from_numpy(np.random.default_rng(7).standard_normal((3, 3, 3))))
    (algebra.square_root(sound) * weight).sum().backward()
    d = algebra.symmetric(torch.from_numpy(np.random.default_rng(8).standard_normal((3, 3, 3)))) * 1e-6
    with torch.no_grad():
        change = algebra.square_root(sound + 3 * d) - algebra.square_root(sound + d)
        assert sound.grad is not None
        centre = sound + 2 * d
    centre.requires_grad_()
    (slope,) = torch.autograd.grad((algebra.square_root(centre) * weight).sum(), centre)
    close((slope * 2 * d).sum(), (change * weight).sum(), 1e-6)


def test_the_root_of_an_indefinite_matrix_is_that_of_its_positive_part():
    p = torch.diag_embed(torch.tensor([[4.0, 1.0, 9.0], [4.0, 0.0, 9.0], [4.0, -1.0, 9.0]], dtype=torch.float64))
    p = torch.cat((p, torch.full((1, 3, 3), torch.nan)))
    a = algebra.root(p)
    close((a @ a.mT)[:3], p[:3].clamp(min=0.0), 1e-14)
    assert torch.isnan(a[3]).all()


def test_the_root_of_a_singular_matrix_has_a_derivative():
    """A Aᵀ = B Bᵀ of rank two changes with B as it should, and no catchment spoils another."""
    random = np.random.default_rng(9)
    b = torch.from_numpy(random.standard_normal((2, 3, 2))).requires_grad_()
    half = torch.from_numpy(random.standard_normal((1, 3, 3)))
    sound = (half @ half.mT + torch.eye(3)).requires_grad_()
    nothing = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = algebra.symmetric(torch.from_numpy(random.standard_normal((4, 3, 3))))
    a = algebra.root(torch.cat((b @ b.mT, sound, nothing)))
    (a @ a.mT * weight).sum().backward()
    assert b.grad is not None and sound.grad is not None and nothing.grad is not None
    close(b.grad, 2 * weight[:2] @ b, 1e-9)
    close(algebra.symmetric(sound.grad), weight[2:3], 1e-12)
    assert torch.isfinite(nothing.grad).all()
    one = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
    algebra.root(one).sum().backward()
    assert one.grad is not None and torch.isfinite(one.grad).all()


@pytest.mark.parametrize("build", [sigma.ukf, sigma.srukf, partial(ensemble.etkf, members=17)])
def test_gradients_pass_a_store_that_is_certainly_known(build):
    of = gauges(bent=0.1)
    made, known = build(of.system), torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, 0.0], [0.0, 0.0, 0.0]]).double()

    def value(scale: Tensor) -> Tensor:
        belief = made.init(of.mean, scale * known.expand(4, -1, -1), of.noise(-1))
        return torch.stack([update.log_likelihood for _, update in run(made, of, belief, range(3))]).sum()

    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    value(scale).backward()
    with torch.no_grad():
        slope = (value(scale + 1e-5) - value(scale - 1e-5)) / 2e-5
    assert scale.grad is not None
    close(scale.grad, slope, 1e-6)


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected):
    """Known answers of Random123 for philox4x32-10."""
    c0, c1, c2, c3, k0, k1 = (np.array([int(word, 16)], np.uint64) for word in f"{counter} {key}".split())
    assert " ".join(f"{int(word[0]):08x}" for word in philox((c0, c1, c2, c3), (k0, k1))) == expected


def test_noise_is_normal_and_independent_between_addresses():
    addresses = np.array([address(f"catchment {i}") for i in range(30)])
    hours = np.full(30, 490_000)
    here = Noise(1, addresses, hours)
    z = here.normal("model error", 40, 50).numpy().reshape(30, -1)
    count = z.size
    assert abs(z.mean()) < 4 / math.sqrt(count)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / count)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(z) - np.eye(30)).max() < 5 / math.sqrt(2000)
    others = (
        Noise(1, addresses, hours + 1).normal("model error", 40, 50),
        Noise(2, addresses, hours).normal("model error", 40, 50),
        Noise(1 + 2**32, addresses, hours).normal("model error", 40, 50),
        here.normal("observation", 40, 50),
    )
    for other in others:
        assert abs(np.corrcoef(z.ravel(), other.numpy().ravel())[0, 1]) < 4 / math.sqrt(count)
    assert abs(np.corrcoef(z[:, :-1].ravel(), z[:, 1:].ravel())[0, 1]) < 4 / math.sqrt(count)


def test_noise_does_not_depend_on_who_else_draws():
    addresses = np.array([address(name) for name in ("a", "b", "c")])
    together = Noise(5, addresses, np.array([7, 8, 9])).normal("x", 4, 3)
    alone = Noise(5, addresses[1:2], np.array([8])).normal("x", 4, 3)
    assert torch.equal(together[1:2], alone)
    assert torch.equal(Noise(5, addresses[1:2], np.array([8])).normal("x", 7).flatten(), alone.flatten()[:7])
