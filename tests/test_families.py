"""Families beside each other: what one filter is of another, exactly, where the theory says so.

The laws every filter obeys are in `test_filters`. Analyses are compared from the same forecast, on curved systems.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from test_filters import FILTERS, Twin, alike, close, gauges, kalman_in_numpy, river, run, same, start, trace, with_gaps
from torch import Tensor

from hydroda.filters import adaptive, bias, ensemble, linear, mixed, particle, reduce, reduced, sigma, variational
from hydroda.filters.beliefs import Belief, Ensemble, Particles, named
from hydroda.filters.kinds import KINDS, built, kind
from hydroda.filters.noise import Noise, address
from hydroda.filters.recipe import Build, System

each_world = pytest.mark.parametrize("of", [with_gaps(gauges(bent=0.1)), river()], ids=["gauges", "river"])
ENSEMBLE = partial(ensemble.etkf, members=9)


def still(system: System) -> System:
    """The same gauges on a state that neither moves nor errs: there a step is an analysis."""
    return replace(system, move=lambda x, u: x, model_error=lambda mean: torch.zeros_like(mean).mT)


def apart(of: Twin) -> Twin:
    """The same with errors of gauges that have nothing to do with each other."""
    *others, r = of.parts
    return replace(of, parts=(*others, torch.diag_embed(r.diagonal(dim1=1, dim2=2))))


def forecasts(of: Twin, build: Build = ENSEMBLE) -> list[Belief]:
    """Before each observation."""
    made = build(of.system)
    beliefs = [start(made, of), *(belief for belief, _ in run(made, of))]
    return [made.forecast(belief, of.hour(k)) for k, belief in enumerate(beliefs[:-1])]


def analysis(build: Build, prior: Belief, of: Twin, k: int) -> Belief:
    """After an observation."""
    return build(still(of.system)).step(prior, of.hour(k))[0]


# --- unscented and iterated ------------------------------------------------------------------------------------------


@each_world
@pytest.mark.parametrize("points", [(1.0, 0.0, 0.0), (1.0, 2.0, 1.0)])
def test_the_square_root_unscented_filter_is_the_unscented_one(of, points):
    options = dict(zip(("alpha", "beta", "kappa"), points, strict=True))
    roots, covs = (run(build(of.system, **options), of) for build in (sigma.srukf, sigma.ukf))
    for (a, update), (b, other) in zip(roots, covs, strict=True):
        alike(a, b, 1e-9)
        close(update.log_likelihood, other.log_likelihood, 1e-9)
        assert (a.factor.triu(1) == 0).all() and (a.factor.diagonal(dim1=1, dim2=2) >= 0).all()


@each_world
def test_the_cubature_filter_is_an_unscented_one_without_a_centre(of):
    for (a, _), (b, _) in zip(run(sigma.ckf(of.system), of), run(sigma.ukf(of.system), of), strict=True):
        assert same(a, b)


@pytest.mark.parametrize("iterations", [1, 2, 40])
def test_the_iterated_filter_descends_to_the_most_probable_state(iterations):
    """Gauss-Newton of 3D-Var whose B is the covariance of the forecast."""
    of = with_gaps(gauges(bent=0.3))
    for k, prior in enumerate(forecasts(of, linear.extended)):
        found = analysis(partial(linear.iterated, iterations=iterations), prior, of, k)
        var = analysis(partial(variational.three_d_var, iterations=iterations, bounded=False), prior, of, k)
        close(found.mean, var.mean, 1e-11)
        if iterations == 40:  # no slope is left
            x, y = found.mean.clone().requires_grad_(), of.observation[k]
            seen = torch.isfinite(y).unsqueeze(1)
            d = torch.where(seen, y.unsqueeze(1) - of.system.see(x), 0.0)
            r = of.system.observation_error(y)
            r = torch.where(seen & seen.mT, r, torch.eye(2, dtype=torch.float64))
            e = x - prior.mean
            cost = (e @ prior.cov.inverse() @ e.mT + d @ r.inverse() @ d.mT).sum()
            assert torch.autograd.grad(cost, x)[0].abs().max() < 1e-8
        if iterations == 1:
            assert same(found, analysis(linear.extended, prior, of, k))


# --- ensembles -------------------------------------------------------------------------------------------------------


@each_world
def test_transforms_in_any_space_give_the_same_members(of):
    expected = [belief for belief, _ in run(ENSEMBLE(of.system), of)]
    for build in (ensemble.estkf, ensemble.letkf):
        found = run(build(of.system, members=9), of)
        for (belief, _), other in zip(found, expected, strict=True):
            close(belief.members, other.members, 1e-12)


@each_world
def test_one_observation_after_the_other_is_all_at_once(of):
    differ = 0.0
    for k, prior in enumerate(forecasts(of)):
        serial, together = (analysis(partial(b, members=9), prior, of, k) for b in (ensemble.ensrf, ensemble.etkf))
        alike(serial, together, 1e-12)
        differ = max(differ, float((serial.members - together.members).abs().max()))
    assert (differ > 1e-3) == (of.observation.shape[-1] > 1)  # the root is another where there are two


@each_world
@pytest.mark.parametrize("rank", [2, 3])
def test_interpolated_members_have_the_mean_and_covariance_of_the_transform(of, rank):
    made = reduced.seik(of.system, rank=rank)
    for k, (belief, _) in enumerate(run(made, of)[:-1], 1):
        prior = made.forecast(belief, of.hour(k))
        assert prior.members.shape[1] == rank + 1
        alike(made.step(belief, of.hour(k))[0], analysis(ENSEMBLE, prior, of, k), 1e-12)


@each_world
def test_half_the_gain_leaves_a_quarter_too_much(of):
    """Sakov & Oke (2008): a covariance too large by ¼ K H P Hᵀ Kᵀ."""
    for k, prior in enumerate(forecasts(of)):
        found, update = ensemble.denkf(still(of.system), members=9).step(prior, of.hour(k))
        expected = analysis(ENSEMBLE, prior, of, k)
        p = torch.where(update.seen.unsqueeze(-1) & update.seen.unsqueeze(-2), update.predicted.cov, 0.0)
        close(found.cov - expected.cov, 0.25 * update.gain @ p @ update.gain.mT, 1e-12, scale=prior.cov.abs().max())
        close(found.mean, expected.mean, 1e-12)


@each_world
@pytest.mark.parametrize("build", [ensemble.etkf, ensemble.ensrf])
def test_rotated_members_are_others_of_the_same_mean_and_covariance(of, build):
    for k, prior in enumerate(forecasts(of)):
        turned, upright = (analysis(partial(build, members=9, rotated=r), prior, of, k) for r in (True, False))
        alike(turned, upright, 1e-12)
        seen = torch.isfinite(of.observation[k]).any(-1)
        change = (turned.members - upright.members).abs().amax((1, 2)) / upright.cov.amax((1, 2)).sqrt()
        assert torch.equal(change > 0.1, seen)


# --- localisation ----------------------------------------------------------------------------------------------------

TAPER = torch.tensor([[1.0, 0.3], [0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)


def test_a_taper_divides_the_error_of_a_gauge_for_each_component():
    of = apart(gauges(bent=0.1))
    for k, prior in enumerate(forecasts(of)):
        local = analysis(partial(ensemble.letkf, members=9, taper=TAPER), prior, of, k)
        for i, row in enumerate(TAPER):
            vague = replace(of.system, observation_error=lambda y, row=row: of.parts[-1] / row.clamp(min=1e-14))
            wide = replace(of, make=lambda *parts, vague=vague: vague)
            close(local.members[..., i], analysis(ENSEMBLE, prior, wide, k).members[..., i], 1e-11)
        close(local.members[..., 2], prior.members[..., 2], 1e-14)


def test_tapers_of_ones_change_nothing_and_one_of_zeros_leaves_a_component_alone():
    of = apart(gauges(bent=0.1))
    ones = torch.ones(3, 2, dtype=torch.float64)
    for k, prior in enumerate(forecasts(of)):
        plain = analysis(partial(ensemble.ensrf, members=9), prior, of, k)
        every = partial(ensemble.ensrf, members=9, taper=ones, gauge_taper=ones[:2])
        assert same(analysis(every, prior, of, k), plain)
        assert same(
            analysis(partial(ensemble.letkf, members=9, taper=ones), prior, of, k),
            analysis(partial(ensemble.letkf, members=9), prior, of, k),
        )
        found = analysis(partial(ensemble.ensrf, members=9, taper=TAPER), prior, of, k)
        close(found.members[..., 2], prior.members[..., 2], 1e-14)
        assert (found.members[..., :2] - prior.members[..., :2]).abs().min() > 0


def test_gains_are_tapered_one_observation_after_the_other():
    """Whitaker & Hamill (2002) on the state with what is seen of it, in plain numbers."""
    of = apart(gauges(bent=0.1))
    between = torch.tensor([[1.0, 0.4], [0.4, 1.0]], dtype=torch.float64)
    build = partial(ensemble.ensrf, members=9, taper=TAPER, gauge_taper=between)
    every = np.concatenate((TAPER, between))
    for k, prior in enumerate(forecasts(of)):
        found = analysis(build, prior, of, k).members.numpy()
        seen = of.system.see(prior.members)
        for i in range(4):
            z = np.concatenate((prior.members[i], seen[i]), 1).T
            mean, a = z.mean(1), z - z.mean(1, keepdims=True)
            for j in range(2):
                h, r = a[3 + j], float(of.parts[-1][i, j, j])
                s = h @ h / 8 + r
                gain = every[:, j] * (a @ h) / 8 / s
                alpha = 1 / (1 + math.sqrt(r / s))
                mean = mean + gain * (float(of.observation[k, i, j]) - mean[3 + j])
                a = a - alpha * np.outer(gain, h)
            close(found[i].T, (mean[:, None] + a)[:3], 1e-12)


# --- reduced rank ----------------------------------------------------------------------------------------------------


def leading(cov: Tensor, rank: int, scaled: bool) -> np.ndarray:
    """The share of the variance that directions beyond `rank` have, by the eigenvalues of each matrix."""
    found = []
    for p in cov.numpy():
        d = np.sqrt(np.diag(p)) if scaled else np.ones(len(p))
        values = np.linalg.eigvalsh(p / np.outer(d, d))[::-1]
        found.append(values[rank:].sum() / values.sum())
    return np.array(found)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("rank", [1, 2])
def test_what_a_truncation_discards_is_known(rank, scaled):
    of = gauges(bent=0.1)
    for build in (reduced.rrsqrt, reduced.seek, mixed.coffee, mixed.poenkf):
        made = build(of.system, rank=rank, scaled=scaled)
        close(start(made, of).discarded, leading(of.cov, rank, scaled), 1e-12)
    made = reduced.rrsqrt(of.system, rank=rank, scaled=scaled)
    belief = start(made, of)
    for k in range(len(of.observation)):
        mean = of.system.move(belief.mean, of.hour(k).forcing)
        moved = of.system.move(belief.mean + belief.factor.mT, of.hour(k).forcing) - mean
        error = of.system.model_error(mean)
        every = moved.mT @ moved + error @ error.mT
        prior = made.forecast(belief, of.hour(k))
        close(prior.discarded, leading(every, rank, scaled), 1e-10)
        assert prior.factor.shape == (4, 3, rank)
        if not scaled:  # in their own units it is the trace that is left
            close(trace(prior.cov), trace(every) * (1 - prior.discarded), 1e-10)
        belief, update = made.step(belief, of.hour(k))
        seen = of.system.see(prior.mean + prior.factor.mT) - of.system.see(prior.mean)
        left = prior.factor - update.gain @ seen.mT
        whole = left @ left.mT + update.gain @ of.parts[-1] @ update.gain.mT
        close(belief.discarded, leading(whole, rank, scaled), 1e-10, scale=1.0)


TRUNCATED = {
    "rrsqrt": reduced.rrsqrt,
    "seek": reduced.seek,
    "seik": reduced.seik,
    "poenkf": partial(mixed.poenkf, members=10),
    "coffee": partial(mixed.coffee, members=10),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_in_deviations_of_its_own_no_store_is_small(name):
    """Soil in 100 mm, a fast store near 1 mm with its slow one: in millimetres the soil alone is kept."""
    of = gauges()
    deviation = torch.tensor([100.0, 1.0, 0.5], dtype=torch.float64)
    correlation = torch.tensor([[1.0, 0.1, 0.0], [0.1, 1.0, 0.8], [0.0, 0.8, 1.0]], dtype=torch.float64)
    cov = (correlation * deviation * deviation.unsqueeze(-1)).expand(4, -1, -1)
    of = replace(of, cov=cov)
    build = partial(TRUNCATED[name], rank=1)
    kept = {scaled: start(build(of.system, scaled=scaled), of) for scaled in (True, False)}
    directions = {s: b.cov if isinstance(b, Ensemble) else b.factor @ b.factor.mT for s, b in kept.items()}
    fast = {scaled: p[:, 2, 2] / cov[:, 2, 2] for scaled, p in directions.items()}
    soil = {scaled: p[:, 0, 0] / cov[:, 0, 0] for scaled, p in directions.items()}
    assert (fast[False] < 1e-3).all() and (soil[False] > 0.999).all()
    assert (fast[True] > 0.8).all() and (soil[True] < 0.1).all()


@pytest.mark.parametrize("name", TRUNCATED)
def test_units_of_a_truncated_filter_matter_only_unscaled(name):
    of = gauges(bent=0.1)
    system, d = of.system, torch.tensor([1e-3, 1e3, 1.0], dtype=torch.float64)
    other = replace(
        system,
        move=lambda x, u: system.move(x / d, u) * d,
        see=lambda x: system.see(x / d),
        model_error=lambda mean: system.model_error(mean / d) * d.unsqueeze(-1),
    )
    there = replace(of, mean=of.mean * d, cov=of.cov * d * d.unsqueeze(-1), make=lambda *parts: other)
    for scaled in (True, False):
        build = partial(TRUNCATED[name], rank=2, scaled=scaled)
        a, b = (run(build(x.system), x)[-1][0] for x in (of, there))
        difference = ((b.mean / d - a.mean).abs() / a.cov.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1)).max()
        assert difference < 1e-9 if scaled else difference > 1e-2


def test_a_corrected_root_needs_the_error_of_the_gauge_too():
    """L − K Ψ alone gives (I − K H) P (I − K H)ᵀ: K R Kᵀ is missing, a good part of the trace."""
    of = gauges()
    made = reduced.rrsqrt(of.system, rank=3)
    exact = kalman_in_numpy(of)
    for k, (belief, update) in enumerate(run(made, of)):
        p = update.gain @ of.parts[-1] @ update.gain.mT
        if k == 0:
            prior = made.forecast(start(made, of), of.hour(0))
            left = prior.factor - update.gain @ (of.parts[1] @ prior.factor)
            close(left @ left.mT, belief.cov - p, 1e-12)
        close(belief.cov, exact[k][1], 1e-12)
        assert (trace(p) > 0.05 * trace(belief.cov)).all()


@pytest.mark.parametrize("evolving", [True, False])
def test_a_basis_that_does_not_evolve_keeps_its_span(evolving):
    of = gauges(bent=0.1)
    made = reduced.seek(of.system, rank=2, evolving=evolving)
    basis = torch.linalg.qr(start(made, of).factor)[0]
    for belief, _ in run(made, of):
        outside = belief.factor - basis @ (basis.mT @ belief.factor)
        assert (outside.abs().max() / belief.factor.abs().max() < 1e-12) is not evolving


@each_world
@pytest.mark.parametrize("build", [reduced.seek, reduced.seik])
def test_forgetting_divides_the_covariance(of, build):
    """The model error comes on top of it."""
    calm = replace(of.system, model_error=lambda mean: torch.zeros_like(mean).mT)
    n = of.mean.shape[-1]
    for system in (calm, of.system):
        plain, short = build(system, rank=n), build(system, rank=n, forgetting=0.8)
        belief = start(plain, of)
        before, after = plain.forecast(belief, of.hour(0)), short.forecast(belief, of.hour(0))
        error = system.model_error(before.mean)
        q = error @ error.mT
        close(after.cov - q, (before.cov - q) / 0.8, 1e-12)
        close(after.mean, before.mean, 1e-12)


@each_world
@pytest.mark.parametrize("build", [reduced.rrsqrt, reduced.seek])
def test_short_differences_are_derivatives(of, build):
    found = run(build(of.system, rank=of.mean.shape[-1], step=1e-5), of)
    for (belief, _), (expected, _) in zip(found, run(linear.extended(of.system), of), strict=True):
        alike(belief, expected, 1e-4)


# --- directions and members ------------------------------------------------------------------------------------------


def error(build: Build, of: Twin) -> float:
    """Distance of means from the Kalman filter's, in deviations."""
    distance, spread = [], []
    for (belief, _), (mean, cov, _) in zip(run(build(of.system), of), kalman_in_numpy(of), strict=True):
        distance.append(((belief.mean[:, 0].numpy() - mean) ** 2).sum(-1))
        spread.append(np.trace(cov, axis1=1, axis2=2))
    return float(np.sqrt(np.mean(distance) / np.mean(spread)))


@pytest.mark.parametrize("build", [partial(mixed.coffee, rank=2), partial(mixed.coffee, rank=1), ensemble.enkf])
def test_with_members_come_the_kalman_filter_by_their_root(build):
    of = with_gaps(gauges(catchments=40))
    few, many = (error(partial(build, members=count), of) for count in (50, 800))
    assert 3.0 < few / many < 5.4
    assert many < 0.1


def test_between_directions_and_members_a_covariance_is_left_out():
    """Members count outside the span only: near the ensemble filter, but no number of members makes it exact."""
    of = gauges(catchments=20)
    made, sampling = mixed.poenkf(of.system, rank=1, members=10_000), 4 * math.sqrt(2 / 10_000)
    prior = made.forecast(start(made, of), of.hour(0))
    m, _, _, g, _ = of.parts
    p = m @ of.cov @ m.mT + g @ g.mT
    close(Ensemble(prior.members).cov, p, sampling, scale=p.abs().max())
    carried = prior.factor @ prior.factor.mT
    d = (p + carried).diagonal(dim1=1, dim2=2).sqrt().unsqueeze(-1)
    u = torch.linalg.qr(prior.factor / d)[0]
    outside = d * (torch.eye(3, dtype=torch.float64) - u @ u.mT) / d.mT
    close(prior.cov, carried + outside @ p @ outside.mT, sampling, scale=p.abs().max())
    assert (prior.cov - p).abs().max() > 0.1 * p.abs().max()
    mixture, plain = (error(partial(b, members=4000), of) for b in (partial(mixed.poenkf, rank=1), ensemble.enkf))
    assert 5 * plain < mixture < 1.0


def test_few_runs_are_best_shared_by_directions_and_members():
    """Twenty runs of the model for six states: each alone is further from the Kalman filter than both together."""
    random = np.random.default_rng(0)
    m = random.standard_normal((20, 6, 6))
    m *= 0.95 / np.abs(np.linalg.eigvals(m)).max(-1)[:, None, None]
    h, g = (torch.from_numpy(random.standard_normal((20, rows, 6))) for rows in (2, 6))
    unit = torch.eye(6, dtype=torch.float64).expand(20, -1, -1)
    parts = (torch.from_numpy(m), h, torch.zeros(20, 6, 1).double(), 0.3 * g, 0.5 * unit[:, :2, :2])
    of = gauges(20, 30)
    of = replace(of, parts=parts, mean=torch.zeros(20, 1, 6).double(), cov=unit, forcing=of.forcing[..., :1])
    of = of.drawn(30, 6)
    directions, members = error(partial(reduced.rrsqrt, rank=3), of), error(partial(ensemble.enkf, members=20), of)
    rest = {"rank": 3, "members": 16}
    poenkf, coffee = (error(partial(build, **rest), of) for build in (mixed.poenkf, mixed.coffee))
    assert coffee < poenkf < members < directions


# --- particles -------------------------------------------------------------------------------------------------------


def test_weights_sum_to_one_and_members_stay_until_few_count():
    of = with_gaps(gauges(bent=0.1))
    made = particle.bootstrap(of.system, members=100, threshold=0.0)
    belief = start(made, of)
    for k in range(len(of.observation)):
        prior = made.forecast(belief, of.hour(k))
        belief, _ = made.step(belief, of.hour(k))
        close(belief.weights.sum(1), torch.ones(4, 1, dtype=torch.float64), 1e-14)
        assert torch.equal(belief.members, prior.members)
        if k == 0:
            # half as likely is half the weight
            y, r = of.observation[0], of.parts[-1]
            d = torch.where(torch.isfinite(y).unsqueeze(1), y.unsqueeze(1) - of.system.see(prior.members), 0.0)
            for i in range(4):
                at = torch.isfinite(y[i]).nonzero()[:, 0]
                if len(at):
                    density = stats.multivariate_normal(cov=r[i][at][:, at].numpy()).pdf(d[i][:, at].numpy())
                    close(belief.weights[i, :, 0], density / density.sum(), 1e-11)
    assert (1 / belief.weights.square().sum(1) < 50).all()


def test_members_are_resampled_when_few_of_them_count():
    of = gauges(bent=0.1, catchments=40)
    made, never = (particle.bootstrap(of.system, members=100, threshold=share) for share in (0.5, 0.0))
    belief = start(made, of)
    prior = made.forecast(belief, of.hour(0))
    equal = torch.full((100,), -math.log(100.0), dtype=torch.float64)
    few = []
    for doubt in (1e4, 1.0, 1e-4):
        hour = of.hour(0)._replace(doubt=torch.full_like(of.observation[0], doubt))
        found, weighed = (made.step(belief, hour)[0] for made in (made, never))
        few.append(1 / weighed.weights.square().sum((1, 2)) < 50)
        assert torch.equal((found.members != prior.members).any(-1).any(-1), few[-1])
        close(found.log_weights[few[-1]], equal.expand(int(few[-1].sum()), -1), 1e-14, scale=1.0)
        assert torch.equal(found.log_weights[~few[-1]], weighed.log_weights[~few[-1]])
    assert [int(x.sum()) for x in (few[0], few[2])] == [0, 40] and 0 < few[1].sum() < 40


COUNT = 60


@pytest.mark.parametrize("name", ["systematic", "residual"])
def test_resampling_copies_members_by_their_weights(name):
    """Systematic: the number of copies is N w to within one. Residual: at least ⌊N w⌋. Both on average N w."""
    of = gauges(bent=0.1).rows([0] * 2000)
    of = replace(of, addresses=np.array([address(f"draw {i}") for i in range(2000)]))
    random = np.random.default_rng(5)
    members = torch.from_numpy(random.standard_normal((COUNT, 3))).expand(2000, -1, -1)
    prior = Particles(members, torch.full((2000, COUNT), -math.log(COUNT), dtype=torch.float64))
    build = {"systematic": particle.bootstrap, "residual": particle.variance_minimising}[name]
    expected = COUNT * analysis(partial(build, members=COUNT, threshold=0.0), prior, of, 0).weights[0, :, 0]
    found = analysis(partial(build, members=COUNT, threshold=1.0), prior, of, 0).members
    copies = (found.unsqueeze(2) == members[0]).all(-1).sum(1).double()
    assert (copies.sum(1) == COUNT).all() and expected.max() > 2
    if name == "systematic":
        assert ((copies - expected).abs() < 1.0).all()
    else:
        assert (copies >= expected.floor()).all()
    part = copies.mean(0) - expected
    deviation = copies.std(0).clamp(min=0.02) / math.sqrt(2000)
    assert (part.abs() < 5 * deviation).all()


def test_equal_weights_are_all_copied():
    of = gauges()
    same_view = replace(of.system, see=lambda x: torch.zeros_like(x[..., :2]))
    made = particle.variance_minimising(same_view, members=49)
    belief = start(made, of)
    found, _ = made.step(belief, of.hour(0))
    close(found.members, made.forecast(belief, of.hour(0)).members, 1e-14)


@pytest.mark.parametrize("build", [particle.bootstrap, particle.variance_minimising])
def test_the_likelihood_of_particles_is_that_of_the_kalman_filter(build):
    of = with_gaps(gauges(catchments=30))
    exact = sum(likelihood for _, _, likelihood in kalman_in_numpy(of))
    found = sum(update.log_likelihood.numpy() for _, update in run(build(of.system, members=3000), of))
    difference = found - exact
    spread = difference.std(ddof=1)
    assert spread < 0.4  # the likelihood itself is without bias, so that its logarithm falls short by half the variance
    assert abs(difference.mean() + spread**2 / 2) < 4 * spread / math.sqrt(30)


# --- noise and beliefs -----------------------------------------------------------------------------------------------


def test_uniform_noise_is_uniform():
    u = Noise(3, np.array([address(f"u {i}") for i in range(20)]), np.full(20, 490_000)).uniform("resampling", 50, 41)
    assert u.shape == (20, 50, 41) and u.min() > 0 and u.max() < 1
    assert stats.kstest(u.numpy().ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u.numpy().reshape(20, -1)) - np.eye(20)).max() < 5 / math.sqrt(2050)


ON_STATE = torch.tensor([[[1.0], [0.0], [0.5]]], dtype=torch.float64)
BELIEFS: dict[str, Callable] = {
    "Gaussian": sigma.ukf,
    "SquareRoot": reduced.rrsqrt,
    "Ensemble": ENSEMBLE,
    "Mixed": partial(mixed.coffee, rank=2),
    "PartlyOrthogonal": partial(mixed.poenkf, rank=2),
    "Particles": particle.bootstrap,
    "WithBias:Gaussian": bias.aware(sigma.ukf),
    "WithBias:SquareRoot": bias.aware(sigma.srukf, variant="online"),
    "TwoBiases:Ensemble": bias.two_stage(ENSEMBLE, state_fraction=0.7, gauge_ratio=0.5),
    "Separate:Gaussian": partial(
        bias.friedland, on_state=ON_STATE, on_gauge=0 * ON_STATE[:, :2], cov=torch.ones(1, 1, 1, dtype=torch.float64)
    ),
    "Steady:Ensemble": reduce.steady(ENSEMBLE, warm_up=24),
    "Adaptive:PartlyOrthogonal": adaptive.desroziers(partial(mixed.poenkf, rank=2)),
    "Adaptive:TwoBiases:Gaussian": adaptive.desroziers(bias.two_stage(sigma.ukf)),
    "Adaptive:WithBias:Ensemble": adaptive.desroziers(bias.aware(ENSEMBLE)),
    "GaussianSum": FILTERS["mixture.rao_blackwell"].build,
    "Learned:Point": FILTERS["kalmannet.kalmannet"].build,
    "Learned:Gaussian": FILTERS["rkn.recursive_kalmannet"].build,
}


def test_every_belief_is_among_those_asked():
    inside_a_model = {"Guided", "Steered", "Committee"}  # asked in test_designs, in a model that has stores
    assert {part for name in BELIEFS for part in name.split(":")} | inside_a_model == set(KINDS)


@pytest.mark.parametrize("name", BELIEFS)
def test_a_belief_is_its_kind_and_its_tensors(name):
    of = gauges()
    belief = run(BELIEFS[name](of.system), of, hours=range(3))[-1][0]
    assert kind(belief) == name
    again = built(name, {path: tensor.clone() for path, tensor in named(belief).items()})
    assert type(again) is type(belief) and kind(again) == name and same(again, belief)
    np.testing.assert_array_equal(again.cov, belief.cov)  # of a point NaN
    assert torch.equal(again.mean, belief.mean)
    for path in named(belief):
        rest = {other: tensor for other, tensor in named(belief).items() if other != path}
        with pytest.raises(ValueError, match="holds"):
            built(name, rest)
    with pytest.raises(ValueError, match="there is no belief"):
        built(f"{name}s", named(belief))


@pytest.mark.parametrize("name", BELIEFS)
def test_a_belief_is_shifted_and_widened(name):
    of = gauges()
    belief = run(BELIEFS[name](of.system), of, hours=range(3))[-1][0]
    d = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    moved = belief.shifted(d.expand(4, 1, -1))
    close(moved.mean, belief.mean + d, 1e-13)
    close(moved.cov, belief.cov, 1e-12)
    if hasattr(belief, "widened"):
        f = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
        wide = belief.widened(f.expand(4, 1, -1))
        close(wide.mean, belief.mean, 1e-13)
        close(wide.cov, belief.cov * f * f.unsqueeze(-1), 1e-12)
