"""Forecast bias and gauge bias at once (Pauwels et al. 2013): the paper's steps, its limits, what it finds."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_filters import Twin, alike, close, gauges, river, run, same, start, with_gaps

from hydroda.filters import bias, ensemble, linear, mixed, reduced, sigma
from hydroda.filters.beliefs import Ensemble, Gaussian, mapped, named
from hydroda.filters.kinds import built, kind
from hydroda.filters.nested import TwoBiases
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Hour, System

BASES: dict[str, Build] = {
    "kalman": linear.kalman,
    "extended": linear.extended,
    "ukf": sigma.ukf,
    "srukf": sigma.srukf,
    "enkf": partial(ensemble.enkf, members=9),
    "etkf": partial(ensemble.etkf, members=9),
    "ensrf": partial(ensemble.ensrf, members=9),
    "letkf": partial(ensemble.letkf, members=9),
    "seek": partial(reduced.seek, rank=2),
    "seik": partial(reduced.seik, rank=2),
    "coffee": partial(mixed.coffee, rank=2, members=9),
}
based = pytest.mark.parametrize("name", BASES)
PLAIN = "mean", "cov"


def linear_twin(of: Twin | None = None) -> Twin:
    return with_gaps(of or gauges())


def test_the_scalar_example_of_the_paper():
    """n = q = 1, H = 1, P̃ = 4, R = 1, γ = 0.1, κ = 100; the observation is one above what is expected."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    system = System(lambda x, u: x, lambda x: x, lambda mean: 0.0 * one, lambda y: one)
    made = bias.two_stage(linear.kalman, state_fraction=0.1, gauge_ratio=100.0)(system)
    noise = Noise(0, np.zeros(1, np.int64), np.zeros(1, np.int64))
    prior = made.init(2.0 * one, 4.0 * one, noise)
    found, update = made.step(prior, Hour(one, 3.0 * one[0], noise))
    assert found.gauge.item() == pytest.approx(0.978953, abs=1e-6)
    assert found.bias.item() == pytest.approx(-0.008811, abs=1e-6)
    assert found.gauge_error.item() ** 2 == pytest.approx(8.4190, abs=1e-4)
    assert update.gain.item() == pytest.approx(0.040737, abs=1e-6)
    left = 1.0 - 0.978953 - 0.008811  # y − b^o − h(x̃ − b^m)
    assert found.state.mean.item() == pytest.approx(2.0 + 0.040737 * left, abs=1e-6)
    assert found.mean.item() == pytest.approx(2.0 + 0.040737 * left + 0.008811, abs=1e-6)


@pytest.mark.parametrize(("gamma", "kappa"), [(0.6, 0.3), (0.1, 100.0), (1.0, 0.5), (0.4, 0.0)])
def test_on_a_linear_system_the_steps_are_those_of_the_paper(gamma, kappa):
    """One matrix at a time, in the order of Fig. 1 with eqs 16 and B17; gaps leave rows out."""
    of = linear_twin()
    made = bias.two_stage(linear.kalman, state_fraction=gamma, gauge_ratio=kappa)(of.system)
    found = run(made, of)
    for i in range(len(of.mean)):
        m, h, b, g, r = (part[i].numpy() for part in of.parts)
        x, p, bm, bo = of.mean[i, 0].numpy(), of.cov[i].numpy(), np.zeros(3), np.zeros(2)
        for k, (belief, _) in enumerate(found):
            x, p = m @ x + b @ of.forcing[k, i].numpy(), m @ p @ m.T + g @ g.T  # 1, 2: the biased state
            y = of.observation[k, i].numpy()
            here = np.isfinite(y)
            ho, ro, yo = h[here], r[np.ix_(here, here)], y[here]
            p_state, p_bias, p_gauge = gamma * p, (1 - gamma) * p, kappa * ho @ p @ ho.T  # 3
            d = ho @ (p + p_bias) @ ho.T + p_gauge + ro
            k_gauge, k_bias = p_gauge @ np.linalg.inv(d), -p_bias @ ho.T @ np.linalg.inv(d)  # 4
            after = (np.eye(len(yo)) - k_gauge) @ p_gauge  # 5
            rest = yo - bo[here] - ho @ (x - bm)
            bm, bo[here] = bm + k_bias @ rest, bo[here] + k_gauge @ rest  # 6
            gain = p_state @ ho.T @ np.linalg.inv(ho @ p_state @ ho.T + after + ro)  # 7
            x = x + gain @ (yo - bo[here] - ho @ (x - bm))  # 8, what the model goes on from
            p = (np.eye(3) - gain @ ho) @ p @ (np.eye(3) - gain @ ho).T + gain @ ro @ gain.T
            close(belief.state.mean[i, 0], x, 1e-10)
            close(belief.mean[i, 0], x - bm, 1e-10)
            close(belief.state.cov[i], p, 1e-10)
            close(belief.bias[i, 0], bm, 1e-10, 1.0)
            close(belief.gauge[i, 0], bo, 1e-10, 1.0)
            if here.any():
                close(belief.gauge_error[i, 0][here] ** 2, np.diag(after), 1e-10, 1.0)


@based
@pytest.mark.parametrize("bent", [0.0, 0.1])
def test_without_biases_it_is_the_filter_draw_for_draw(name, bent):
    if name == "kalman" and bent:
        pytest.skip("made for linear systems")
    of = linear_twin(gauges(bent=bent))
    both = (BASES[name], bias.two_stage(BASES[name], state_fraction=1.0, gauge_ratio=0.0))
    for (expected, plain), (found, update) in zip(*(run(build(of.system), of) for build in both), strict=True):
        assert same(found.state, expected)
        assert all(torch.equal(getattr(found, part), getattr(expected, part)) for part in PLAIN)
        assert torch.equal(update.gain, plain.gain)
        assert torch.equal(update.log_likelihood, plain.log_likelihood)
        assert not found.bias.any() and not found.gauge.any() and not found.gauge_error.any()


@based
def test_a_gauge_alone_or_a_forecast_alone_can_be_biased(name):
    of = linear_twin()
    for gamma, kappa in ((1.0, 0.5), (0.5, 0.0)):
        belief = run(bias.two_stage(BASES[name], state_fraction=gamma, gauge_ratio=kappa)(of.system), of)[-1][0]
        assert bool(belief.bias.any()) == (gamma < 1.0) == bool(belief.bias_cov.any())
        assert bool(belief.gauge.any()) == (kappa > 0.0) == bool(belief.gauge_error.any())


@based
def test_every_recipe_corrects_its_state_with_the_same_gain(name):
    """The part of the state is the Kalman gain of an observation of error (P^o+ + R) / γ, for transforms too."""
    of = gauges()
    options = {"state_fraction": 0.4, "gauge_ratio": 0.8}
    made = bias.two_stage(BASES[name], **options)(of.system)
    prior = made.forecast(start(made, of), of.hour(0))
    found, update = made.step(start(made, of), of.hour(0))
    expected, r = BASES[name](of.system).observe(prior.state), of.parts[-1]
    z, d = expected.cov, update.innovation.unsqueeze(-1)
    s = torch.linalg.inv((2.0 - 0.4 + 0.8) * z + r)
    after = 0.8 * z - 0.64 * z @ s @ z
    gain = 0.4 * expected.cross @ torch.linalg.inv(0.4 * z + after + r)
    shift, bent = (-0.6 * expected.cross @ s @ d).mT, (0.8 * z @ s @ d).mT
    left = of.observation[0].unsqueeze(1) - bent - (prior.state.mean - shift) @ of.parts[1].mT
    close(found.state.mean, prior.state.mean + left @ gain.mT, 1e-9)
    variance = found.state.cov.diagonal(dim1=1, dim2=2).sum(-1), prior.state.cov.diagonal(dim1=1, dim2=2).sum(-1)
    if name not in ("enkf", "coffee"):  # which draw
        assert (variance[0] < variance[1]).all()


def test_all_is_bias_where_the_state_has_no_share():
    of = gauges()
    made = bias.two_stage(linear.kalman, state_fraction=0.0, gauge_ratio=0.0)(of.system)
    prior = made.forecast(start(made, of), of.hour(0))
    found, _ = made.step(start(made, of), of.hour(0))
    close(found.state.mean, prior.state.mean, 1e-9)
    assert (found.mean - prior.mean).abs().max() > 1e-2


def test_members_that_are_many_are_the_linear_filter():
    of = gauges(hours=6)
    options = {"state_fraction": 0.5, "gauge_ratio": 0.5}
    large = partial(ensemble.enkf, members=5_000)
    exact, found = (run(bias.two_stage(b, **options)(of.system), of)[-1][0] for b in (linear.kalman, large))
    for path in ("bias", "gauge"):
        assert (getattr(found, path) - getattr(exact, path)).abs().max() < 0.05
    close(found.state.cov, exact.state.cov, 0.06, exact.state.cov.abs().max())


@pytest.mark.parametrize("relative", [False, True])
def test_biases_without_an_observation_stay_what_they_are(relative):
    of = river()
    observation = of.observation.clone()
    observation[6:9] = torch.nan
    of = replace(of, observation=observation)
    made = bias.two_stage(sigma.ukf, state_fraction=0.7, gauge_ratio=0.5, relative=relative)(of.system)
    found = [belief for belief, _ in run(made, of)]
    for k in (6, 7, 8):
        assert all(torch.equal(getattr(found[k], f), getattr(found[5], f)) for f in ("bias", "bias_cov", "share"))
        assert same(found[k], made.forecast(found[k - 1], of.hour(k)))
    assert not torch.equal(found[9].share, found[5].share)
    assert torch.equal(found[7].gauge, found[5].gauge) is not relative  # an error that grows with flow


@pytest.mark.parametrize("name", ["ukf", "enkf"])
@pytest.mark.parametrize("relative", [False, True])
def test_it_goes_on_from_a_file_bit_for_bit(name, relative):
    of = with_gaps(river())
    made = bias.two_stage(BASES[name], state_fraction=0.7, gauge_ratio=0.5, relative=relative)(of.system)
    whole = run(made, of)
    left = whole[4][0]
    assert kind(left) == f"TwoBiases:{'Gaussian' if name == 'ukf' else 'Ensemble'}"
    again = built(kind(left), {path: torch.from_numpy(t.numpy().copy()) for path, t in named(left).items()})
    rest = run(made, of, again, range(5, 12))
    assert all(same(a, b) for (a, _), (b, _) in zip(whole[5:], rest, strict=True))


def test_shares_by_catchment_are_those_filters_in_one_batch():
    of = river()
    gamma = torch.tensor([1.0, 0.9, 0.5, 0.2], dtype=torch.float64)[:, None, None]
    kappa = torch.tensor([0.0, 1.0, 0.1, 30.0], dtype=torch.float64)[:, None, None]
    together = run(bias.divided_by(sigma.ukf, gamma, kappa)(of.system), of)
    for i in range(4):
        options = {"state_fraction": float(gamma[i, 0, 0]), "gauge_ratio": float(kappa[i, 0, 0])}
        alone = run(bias.two_stage(sigma.ukf, **options)(of.rows([i]).system), of.rows([i]))
        for (a, _), (b, _) in zip(together, alone, strict=True):
            alike(mapped(lambda t, i=i: t[i : i + 1], a), b, 1e-11)


def slow_river(hours: int, bend: float, error: float) -> Twin:
    """A store that half empties in seven hours, its gauge too high by `bend` and by a share `error`."""
    random = np.random.default_rng(5)
    c = 6
    forcing = torch.from_numpy(random.gamma(0.3, 6.0, (hours, c, 1)))
    one = torch.ones(c, 1, 1, dtype=torch.float64)
    system = System(lambda x, u: 0.9 * x + u, lambda x: 0.1 * x, lambda mean: 0.05 * one, lambda y: 0.02**2 * one)
    addresses = np.arange(c)
    of = Twin(lambda: system, (), 18.0 * one, 4.0 * one, forcing, torch.empty(0), addresses).drawn(hours, 1)
    return replace(of, observation=(1.0 + error) * of.observation + bend)


def test_a_gauge_that_reads_too_high_is_found():
    of = slow_river(900, 0.5, 0.0)
    found = run(bias.two_stage(sigma.ukf, gauge_ratio=0.05)(of.system), of)
    late = torch.stack([belief.gauge[:, 0, 0] for belief, _ in found[500:]]).mean(0)
    assert (late - 0.5).abs().max() < 0.08


def test_an_error_of_the_rating_is_found_as_a_share_of_the_flow():
    of = slow_river(900, 0.0, 0.15)
    found = run(bias.two_stage(sigma.ukf, gauge_ratio=0.05, relative=True)(of.system), of)
    late = torch.stack([belief.share[:, 0, 0] for belief, _ in found[500:]]).mean(0)
    assert (late - 0.15).abs().max() < 0.03
    last = found[-1][0]
    close(last.gauge, last.share * 0.1 * last.mean, 0.05)  # of the flow before the observation


def test_shares_that_make_no_sense_are_refused():
    for gamma in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="state_fraction"):
            bias.two_stage(sigma.ukf, state_fraction=gamma)
    for kappa in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="gauge_ratio"):
            bias.two_stage(sigma.ukf, gauge_ratio=kappa)


def test_a_belief_of_biases_can_be_moved():
    of = river()
    belief = start(bias.two_stage(BASES["enkf"])(of.system), of)
    assert isinstance(belief, TwoBiases) and isinstance(belief.state, Ensemble)
    moved = belief.shifted(torch.ones_like(belief.mean))
    close(moved.mean, belief.mean + 1.0, 1e-14)
    assert isinstance(start(bias.two_stage(sigma.ukf)(of.system), of).state, Gaussian)
