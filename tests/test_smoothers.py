"""Smoothers: reference numbers, the whole record as one Gaussian, and members as the ensemble smoother moves them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_filters import Twin, close, gauges, river, run, start, with_gaps
from torch import Tensor

from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.ensemble import enkf, etkf
from hydroda.filters.linear import extended, kalman
from hydroda.filters.noise import Noise
from hydroda.filters.particle import bootstrap
from hydroda.filters.recipe import Build, Hour, System, assemble
from hydroda.filters.reduced import rrsqrt
from hydroda.filters.sigma import srukf, ukf
from hydroda.filters.smoothers import Cross, at_lag, lagged, rts, smooth, tangent, unscented

NOISE = Noise(0, np.zeros(1, np.int64), np.zeros(1, np.int64))
WAYS: dict[str, tuple[Build, Cross]] = {
    "kalman": (kalman, tangent),
    "extended": (extended, tangent),
    "ukf": (ukf, unscented),
    "ukf(0.1, 2, 1)": (partial(ukf, alpha=0.1, beta=2.0, kappa=1.0), partial(unscented, alpha=0.1, kappa=1.0)),
    "srukf": (srukf, unscented),
}
each_way = pytest.mark.parametrize("way", WAYS)


def smoothed(way: str, of: Twin, lag: int | None = None) -> list[Gaussian]:
    """The start and the end of every hour of a twin."""
    build, cross = WAYS[way]
    made = build(of.system)
    return smooth(made, start(made, of), [of.hour(k) for k in range(len(of.observation))], cross, lag)


def exact(of: Twin, lag: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Means (c, n) and covariances (c, n, n) of the linear `gauges`: all states and all that is observed, `lag` hours
    ahead at most, as one Gaussian."""
    observation, forcing, hours = of.observation.numpy(), of.forcing.numpy(), len(of.observation)
    found = [(np.zeros((len(of.mean), 3)), np.zeros((len(of.mean), 3, 3))) for _ in range(hours + 1)]
    for i, (m, h, b, g, r) in enumerate(zip(*(part.numpy() for part in of.parts), strict=True)):
        tiny = 1e-300 * np.eye(3)  # lets a store be certain
        mean, root = [of.mean[i, 0].numpy()], [np.linalg.cholesky(of.cov[i].numpy() + tiny)]
        for k in range(hours):
            mean.append(m @ mean[-1] + b @ forcing[k, i])
            root.append(np.hstack((m @ root[-1], g)))
        columns = root[-1].shape[1]
        x, a = np.concatenate(mean), np.vstack([np.pad(half, ((0, 0), (0, columns - half.shape[1]))) for half in root])
        prior = a @ a.T
        for k in range(hours + 1):
            until = hours if lag is None else min(k + lag, hours)
            rows = np.hstack((np.zeros((2 * until, 3)), np.kron(np.eye(hours)[:until], h)))
            seen = np.isfinite(observation[:until, i].ravel())
            rows, y = rows[seen], observation[:until, i].ravel()[seen]
            s = rows @ prior @ rows.T + np.kron(np.eye(until), r)[np.ix_(seen, seen)]
            gain = np.linalg.solve(s, rows @ prior).T
            at = slice(3 * k, 3 * k + 3)
            found[k][0][i] = (x + gain @ (y - rows @ x))[at]
            found[k][1][i] = (prior - gain @ rows @ prior)[at, at]
    return found


def agree(found: list[Gaussian], expected: list[tuple[np.ndarray, np.ndarray]], tolerance: float) -> None:
    for belief, (mean, cov) in zip(found, expected, strict=True):
        close(belief.mean[:, 0], mean, tolerance)
        close(belief.cov, cov, tolerance)


# --- numbers of other packages ---------------------------------------------------------------------------------------


def table(name: str, header: int = 1) -> np.ndarray:
    """(row, column), NaN where blank."""
    path = Path(__file__).parent / "reference" / f"{name}.csv"
    return np.atleast_2d(np.genfromtxt(path, delimiter=",", skip_header=header).T).T


def linear_system(f: object, h: object, q_root: object, r: object) -> System:
    f, h, q_root, r = (torch.tensor([matrix], dtype=torch.float64) for matrix in (f, h, q_root, r))
    return System(lambda x, u: x @ f.mT, lambda x: x @ h.mT, lambda mean: q_root, lambda y: r)


def hours_of(observation: np.ndarray) -> list[Hour]:
    return [Hour(torch.zeros(1, 1, 1), torch.from_numpy(y[None]), NOISE) for y in observation]


def seen_at_the_start(system: System, cov: list[float], observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed means (T, n) and covariances (T, n, n) where the prior, of mean zero, is that of the first hour."""
    still = replace(system, move=lambda x, u: x, model_error=lambda mean: torch.zeros_like(mean).mT)
    prior = torch.diag(torch.tensor(cov, dtype=torch.float64)).unsqueeze(0)
    first, *later = hours_of(observation)
    begun, _ = kalman(still).step(Gaussian(torch.zeros(1, 1, len(cov), dtype=torch.float64), prior), first)
    found = smooth(kalman(system), begun, later, tangent)
    return torch.cat([belief.mean[:, 0] for belief in found]).numpy(), torch.cat([b.cov for b in found]).numpy()


def test_the_nile_as_a_local_level():
    """Durbin & Koopman (2012), ch. 2, and statsmodels 0.15.0."""
    system = linear_system([[1.0]], [[1.0]], [[1469.1**0.5]], [[15099.0]])
    means, covs = seen_at_the_start(system, [1e7], table("nile"))
    at = [0, 29, 50, 99]
    levels = [1111.2202575681306, 919.4898142678435, 829.550451101484, 798.3702926083578]
    variances = [4030.532767337336, 2326.756895270205, 2326.756869814384, 4032.1579418087827]
    np.testing.assert_allclose(means[at, 0], levels, rtol=1e-9)
    np.testing.assert_allclose(covs[at, 0, 0], variances, rtol=1e-9)


def test_correlated_gauges_of_which_some_are_missing():
    """statsmodels 0.15.0 and filterpy 2.0.0, in the middle of a gap."""
    system = linear_system(
        [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.7]],
        [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]],
        np.diag(np.sqrt([0.02, 0.01, 0.3])).tolist(),
        [[0.5, 0.1], [0.1, 0.8]],
    )
    means, covs = seen_at_the_start(system, [4.0, 1.0, 1.0], table("linear_missing_42", header=0))
    np.testing.assert_allclose(means[12], [1.233455307059339, 0.18525986827063, -0.688081298377622], rtol=1e-9)
    variances = [0.1474015498452984, 0.01168923231681318, 0.4955526837614493]
    np.testing.assert_allclose(covs[12].diagonal(), variances, rtol=1e-9)


def test_the_noisy_pendulum():
    """Särkkä (2013), ex. 3.7; dynamax 1.0.3, which adds 1e-9 to the forecast covariances it divides by."""
    dt = 0.0125
    root = np.linalg.cholesky([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]).tolist()
    system = replace(
        linear_system(np.eye(2).tolist(), [[1.0, 0.0]], root, [[0.3]]),
        move=lambda x, u: torch.stack((x[..., 0] + dt * x[..., 1], x[..., 1] - 9.8 * dt * torch.sin(x[..., 0])), -1),
        see=lambda x: torch.sin(x[..., :1]),
    )
    data = table("pendulum_7")
    prior = Gaussian(torch.tensor([[[np.pi / 2, 0.0]]]).double(), 0.1 * torch.eye(2).double().unsqueeze(0))
    found = smooth(extended(system), prior, hours_of(data[:, :1]), tangent)[1:]
    np.testing.assert_allclose(found[0].mean[0, 0], [1.6034735539, -0.2122217221], atol=1e-7)
    covariance = [0.0307147577, -0.0205580125, 0.0897954469]
    np.testing.assert_allclose(found[0].cov[0][np.tril_indices(2)], covariance, atol=1e-7)
    error = torch.cat([belief.mean[:, 0] for belief in found]).numpy() - data[:, 1:]
    np.testing.assert_allclose(np.sqrt((error**2).mean(0)), [0.1227436, 0.4312131], atol=1e-7)


# --- exactness -------------------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("lag", [None, 0, 1, 4])
def test_on_a_linear_system_all_hours_are_one_gaussian(way, lag):
    of = with_gaps(gauges())
    agree(smoothed(way, of, lag), exact(of, lag), 1e-10)


@each_way
def test_what_is_certain_is_no_obstacle(way):
    """A store that is certainly empty, and in some catchments no model error and directions that the model forgets."""
    of = gauges()
    m0, h, b, g, r = (part.clone() for part in of.parts)
    cov = of.cov.clone()
    cov[:, 1], cov[:, :, 1] = 0.0, 0.0
    g[:2] = 0.0
    m0[1], m0[2] = m0[1] * torch.tensor([[1.0], [1.0], [0.0]]), torch.ones(3, 3) / 3
    g[2, 1:] = 0.0
    m0[3], g[3] = torch.ones(3, 3) / 3 + 1e-3 * m0[3], 1e-3 * g[3]  # one that nearly forgets, which is another thing
    of = replace(of, cov=cov, parts=(m0, h, b, g, r))
    assert torch.linalg.matrix_rank(kalman(of.system).forecast(start(kalman(of.system), of), of.hour(0)).cov).min() < 3
    # rounding, by more in differences of sigma points than in slopes, counts where little variance is left: by 1e-8 or
    # less, as the processor adds
    agree(smoothed(way, of), exact(of), 1e-7 if WAYS[way][1] is tangent else 1e-6)


@each_way
def test_later_hours_tell_more_and_the_last_is_the_filter(way):
    of = gauges() if way == "kalman" else river()
    build, _ = WAYS[way]
    found, filtered = smoothed(way, of), [belief for belief, _ in run(build(of.system), of)]
    assert torch.equal(found[-1].mean, filtered[-1].mean) and torch.equal(found[-1].cov, filtered[-1].cov)
    shares = [
        late.cov.diagonal(dim1=1, dim2=2).sum(-1) / early.cov.diagonal(dim1=1, dim2=2).sum(-1)
        for late, early in zip(found[1:-1], filtered, strict=False)
    ]
    assert (torch.stack(shares) < 1.0).all() and all(torch.equal(b.cov, b.cov.mT) for b in found)


@each_way
def test_a_lag_as_long_as_the_record_is_none(way):
    of = gauges() if way == "kalman" else gauges(bent=0.1)
    for lag in (12, 50):
        for one, other in zip(smoothed(way, of, lag), smoothed(way, of), strict=True):
            assert torch.equal(one.mean, other.mean) and torch.equal(one.cov, other.cov)
    assert not torch.equal(smoothed(way, of, 11)[0].mean, smoothed(way, of)[0].mean)


def test_sigma_points_relate_an_hour_to_the_next_by_all_their_weights():
    """Särkkä (2013), §9.3, point by point and with the centre, for any β."""
    of, alpha, kappa = gauges(bent=0.5), 0.7, 1.5
    belief, hour = Gaussian(of.mean, of.cov), of.hour(0)
    found = unscented(of.system, belief, hour, alpha=alpha, kappa=kappa)
    for beta in (0.0, 2.0):
        scaled = alpha**2 * (3 + kappa)
        spread = scaled**0.5 * torch.linalg.cholesky(of.cov).mT
        x = torch.cat((of.mean, of.mean + spread, of.mean - spread), 1)
        weight = torch.full((1, 7, 1), 0.5 / scaled, dtype=torch.float64)
        weight[:, 0] = 1.0 - 3 / scaled
        moved = of.system.move(x, hour.forcing)
        away = moved - (weight * moved).sum(1, keepdim=True)
        weight[:, 0] += 1.0 - alpha**2 + beta
        close(found, (weight * (x - of.mean)).mT @ away, 1e-12)
    assert not torch.allclose(found, unscented(of.system, belief, hour), rtol=1e-4)


@each_way
def test_units_do_not_matter(way):
    """A store in millionths of its unit and one in billions."""
    of, unit = gauges(), torch.tensor([1.0, 1e9, 1e-6], dtype=torch.float64)
    m0, h, b, g, r = of.parts
    parts = (unit[:, None] * m0 / unit, h / unit, unit[:, None] * b, unit[:, None] * g, r)
    other = replace(of, parts=parts, mean=of.mean * unit, cov=of.cov * unit * unit[:, None])
    for one, two in zip(smoothed(way, of), smoothed(way, other), strict=True):
        close(two.mean / unit, one.mean, 1e-10)
        close(two.cov / unit / unit[:, None], one.cov, 1e-10)


def test_nothing_observed_at_the_end_leaves_the_past_as_it_was():
    of = gauges(bent=0.1)
    gone = of.observation.clone()
    gone[8:] = torch.nan
    short, long = replace(of, observation=of.observation[:8]), replace(of, observation=gone)
    for one, other in zip(smoothed("ukf", short), smoothed("ukf", long)[:9], strict=True):
        close(other.mean, one.mean, 1e-12)
        close(other.cov, one.cov, 1e-12)


@each_way
def test_a_catchment_alone_is_itself_among_others(way):
    """Also among one that has broken down."""
    of = gauges() if way == "kalman" else river()
    broken = of.cov.clone()
    broken[3] = torch.nan
    alone, among = smoothed(way, of.rows([1])), smoothed(way, replace(of, cov=broken))
    for one, other in zip(alone, among, strict=True):
        close(other.mean[1:2], one.mean, 1e-12)
        close(other.cov[1:2], one.cov, 1e-12)
    assert torch.isnan(among[0].mean[3]).all()


@pytest.mark.parametrize(("way", "certain"), [("kalman", True), ("extended", True), ("ukf", False), ("srukf", False)])
def test_gradients_equal_differences(way, certain):
    """Also where a store stays certainly empty; not with sigma points, as a root has no derivative there."""
    of = gauges(bent=0.0 if way == "kalman" else 0.1)
    m0, h, b, g, r = (part.clone() for part in of.parts)
    cov = of.cov.clone()
    if certain:
        cov[:, 1], cov[:, :, 1], g[:, 1] = 0.0, 0.0, 0.0
        m0[:, 1] = torch.tensor([0.0, 0.9, 0.0])  # nothing uncertain flows in

    def first(scale: Tensor) -> Tensor:
        found = smoothed(way, replace(of, cov=cov, parts=(m0, h, b, scale * g, r)))
        assert not certain or (found[4].cov[:, 1] == 0.0).all()
        return found[0].mean.sum() + found[3].cov.sum()

    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(first(scale), scale)
    difference = (first(scale.detach() + 1e-5) - first(scale.detach() - 1e-5)) / 2e-5
    assert abs(float(difference)) > 1e-2
    close(slope, difference, 1e-6)


def test_what_does_not_fit_is_refused():
    of = gauges()
    made = kalman(of.system)
    hours = [of.hour(0), of.hour(1)]
    with pytest.raises(ValueError, match="2 hours and 2 beliefs"):
        rts(made, [start(made, of)] * 2, hours, tangent)
    with pytest.raises(ValueError, match="lag is -1"):
        smooth(made, start(made, of), hours, tangent, -1)
    with pytest.raises(ValueError, match="lag is -1"):
        lagged(kalman, -1)
    for lag in (3, -1):
        with pytest.raises(ValueError, match=f"lag is {lag} hours, the belief holds 0 to 2"):
            at_lag(start(lagged(kalman, 2)(of.system), of), lag, 3)


# --- forwards, in the state of several hours -------------------------------------------------------------------------


def delayed(build: Build, of: Twin, lag: int) -> list[Belief]:
    made = lagged(build, lag)(of.system)
    return [start(made, of), *(belief for belief, _ in run(made, of))]


@pytest.mark.parametrize(
    ("build", "tolerance"),
    [(kalman, 1e-10), (extended, 1e-10), (ukf, 1e-10), (srukf, 1e-10), (partial(rrsqrt, rank=15), 1e-9)],
    ids=["kalman", "extended", "ukf", "srukf", "rrsqrt"],
)
def test_a_lagged_filter_is_the_smoother_of_that_lag(build, tolerance):
    of, lag = with_gaps(gauges()), 4
    found = delayed(build, of, lag)
    for behind in (0, 1, lag):
        expected = smoothed("kalman", of, behind)
        parts = [at_lag(belief, behind, 3) for belief in found[behind:]]
        agree(parts, [(b.mean[:, 0].numpy(), b.cov.numpy()) for b in expected[: len(parts)]], tolerance)


def test_a_modified_recipe_of_a_lagged_filter_begins_as_the_filter_does():
    of = gauges()
    made = lagged(partial(etkf, members=7), 2)(of.system)
    assert made.recipe is not None
    again = assemble(made.system, made.recipe)
    assert torch.equal(start(again, of).members, start(made, of).members)


def test_the_extended_filter_and_its_smoother_are_one_on_a_curved_system_too():
    of, lag = gauges(bent=0.1), 3
    found, expected = delayed(extended, of, lag), smoothed("extended", of, lag)
    parts = [at_lag(belief, lag, 3) for belief in found[lag:]]
    agree(parts, [(b.mean[:, 0].numpy(), b.cov.numpy()) for b in expected[: len(parts)]], 1e-10)


def weights_of_etkf(z: np.ndarray, d: np.ndarray, r: np.ndarray, hour: Hour) -> np.ndarray:
    """w 1ᵀ + W (N, N) of the spec for what members see (q, N) and the innovation of their mean (q,)."""
    count = z.shape[1]
    white = np.linalg.solve(np.linalg.cholesky(r), np.column_stack((z - z.mean(1, keepdims=True), d)))
    y, d = white[:, :-1], white[:, -1]
    values, vectors = np.linalg.eigh((count - 1) * np.eye(count) + y.T @ y)
    w = (vectors / values) @ vectors.T @ y.T @ d
    return w[:, None] + (vectors * np.sqrt((count - 1) / values)) @ vectors.T


def weights_of_enkf(z: np.ndarray, d: np.ndarray, r: np.ndarray, hour: Hour) -> np.ndarray:
    """I + Yᵀ (Y Yᵀ + (N − 1) R)⁻¹ D (N, N), D the perturbed innovations of the members of the first catchment."""
    y = z - z.mean(1, keepdims=True)
    e = hour.noise.normal("observation error", z.shape[1], len(d))[0].numpy() @ np.linalg.cholesky(r).T
    perturbed = d[:, None] + (e - e.mean(0)).T - y
    return np.eye(z.shape[1]) + y.T @ np.linalg.solve(y @ y.T + (z.shape[1] - 1) * r, perturbed)


@pytest.mark.parametrize(("build", "weights"), [(etkf, weights_of_etkf), (enkf, weights_of_enkf)])
def test_a_lagged_ensemble_is_the_ensemble_smoother(build: Callable[..., object], weights):
    """Evensen & van Leeuwen (2000): E_j ← m_j + A_j (w 1ᵀ + W) for the stored ensembles of the plain filter."""
    of, lag, members = gauges(bent=0.1).rows([2]), 4, 7
    made = build(of.system, members=members)
    belief = start(made, of)
    stored, found = [belief.members[0].numpy().T], delayed(partial(build, members=members), of, lag)
    for k in range(len(of.observation)):
        hour = of.hour(k)
        prior = made.forecast(belief, hour)
        belief, update = made.step(belief, hour)
        z = of.system.see(prior.members)[0].numpy().T
        x = weights(z, update.innovation[0].numpy(), of.parts[-1][0].numpy(), hour)
        stored = [*stored[-lag:], prior.members[0].numpy().T]
        stored = [e.mean(1, keepdims=True) + (e - e.mean(1, keepdims=True)) @ x for e in stored]
        close(stored[-1].T, belief.members[0], 1e-12)
        for behind, e in enumerate(reversed(stored)):
            close(at_lag(found[k + 1], behind, 3).members[0], e.T, 1e-12)


def test_lagged_particles_keep_their_ancestors():
    of, build, lag = gauges(bent=0.1), partial(bootstrap, members=50), 2
    found = delayed(build, of, lag)
    for belief, (plain, _) in zip(found[1:], run(build(of.system), of), strict=True):
        close(at_lag(belief, 0, 3).members, plain.members, 1e-12)
    lost = []
    for before, now in zip(found, found[lag:], strict=False):
        then, kept = at_lag(before, 0, 3).members, at_lag(now, lag, 3)
        assert torch.equal(kept.log_weights, now.log_weights)
        descends = (kept.members.unsqueeze(2) == then.unsqueeze(1)).all(-1)
        assert descends.any(2).all()  # every member was one then
        lost.append((~descends.any(1)).sum())
    assert sum(lost) > 0
