"""What changes a filter without being one: wider, cheaper, steady, adaptive, aware of a bias, memory or parameter.

The laws every filter obeys, and so every modifier as it begins, are in `test_filters`.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_filters import Twin, alike, close, gauges, river, run, same, start, with_gaps
from torch import Tensor

from hydroda import catalogue
from hydroda.filters import adaptive, bias, coloured, ensemble, joint, linear, mixed, particle, reduce, reduced, sigma
from hydroda.filters.beliefs import Belief, mapped, named
from hydroda.filters.kinds import built, kind
from hydroda.filters.nested import WithBias
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Hour, System
from hydroda.forecast import batches
from hydroda.forecast.cycle import Levels, batch
from hydroda.models.hbv import hourly

WEIGHING = pytest.mark.parametrize(
    "modifier",
    [
        reduce.inflated,
        reduce.steady,
        bias.aware,
        bias.two_stage,
        lambda build: reduce.simplified(build, lambda x, u: x),
    ],
    ids=["inflated", "steady", "aware", "two_stage", "simplified"],
)
GAPS = with_gaps(gauges(bent=0.1))


def still(system: System) -> System:
    return replace(system, move=lambda x, u: x, model_error=lambda mean: torch.zeros_like(mean).mT)


def one_gauge(of: Twin) -> Twin:
    """The first gauge alone, as on a river."""
    m0, h, b, g, r = of.parts
    parts = (m0, h[:, :1], b, g, r[:, :1, :1])
    return replace(of, parts=parts, observation=of.observation[..., :1])


def told(of: Twin, change: dict[str, float]) -> Twin:
    """A filter of this world is told errors other than those it has: factors on variances."""
    system = of.system
    model, gauge = change.get("model", 1.0) ** 0.5, change.get("gauge", 1.0)
    wrong = replace(
        system,
        model_error=lambda mean: model * system.model_error(mean),
        observation_error=lambda y: gauge * system.observation_error(y),
    )
    return replace(of, make=lambda *parts: wrong)


@WEIGHING
def test_what_changes_a_gain_refuses_a_filter_without_one(modifier):
    with pytest.raises(ValueError, match="weighs its members"):
        modifier(particle.bootstrap)(gauges().system)


# --- wider -----------------------------------------------------------------------------------------------------------

WIDENED: dict[str, Build] = {
    "Gaussian": sigma.ukf,
    "SquareRoot": partial(reduced.rrsqrt, rank=2),
    "Ensemble": partial(ensemble.etkf, members=9),
    "Mixed": partial(mixed.coffee, rank=2, members=9),
    "PartlyOrthogonal": partial(mixed.poenkf, rank=1, members=9),
}
widened = pytest.mark.parametrize("name", WIDENED)


def pairs(build: Build, of: Twin, **options: float) -> list[tuple[Belief, Belief, Belief, Tensor]]:
    """Each forecast, its analysis without and with inflation, and which catchments were seen."""
    plain, wide = build(of.system), reduce.inflated(build, **options)(of.system)
    beliefs, found = [start(plain, of), *(belief for belief, _ in run(plain, of))], []
    for k, belief in enumerate(beliefs[:-1]):
        some = torch.isfinite(of.observation[k]).any(-1)
        both = (made.step(belief, of.hour(k))[0] for made in (plain, wide))
        found.append((plain.forecast(belief, of.hour(k)), *both, some))
    return found


def deviation(belief: Belief) -> Tensor:
    """(c, 1, n)."""
    return belief.cov.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1)


@widened
def test_neutral_inflation_is_the_filter(name):
    for _, expected, found, _ in pairs(WIDENED[name], GAPS):
        alike(found, expected, 1e-14)


@widened
@pytest.mark.parametrize("factor", [1.02, 1.5])
def test_a_factor_multiplies_anomalies_where_and_when_something_was_seen(name, factor):
    """Up to the spread of the forecast."""
    for prior, expected, found, some in pairs(WIDENED[name], GAPS, factor=factor):
        close(found.mean, expected.mean, 1e-14)
        before, without = (deviation(belief) for belief in (prior, expected))
        wider = torch.minimum(torch.full_like(before, factor), (before / without).clamp(min=1.0))
        wider = torch.where(some[:, None, None], wider, 1.0)
        close(found.cov, wider * expected.cov * wider.mT, 1e-12)
        nothing = ~some
        assert same(mapped(lambda x, at=nothing: x[at], found), mapped(lambda x, at=nothing: x[at], prior))


def test_a_component_no_observation_reached_is_not_widened():
    of = gauges()
    m0, h, b, g, r = of.parts
    of = replace(of, parts=(m0, h * torch.tensor([1.0, 1.0, 0.0]), b, g, r))
    cov = torch.diag_embed(of.cov.diagonal(dim1=1, dim2=2))
    system = still(of.system)
    plain, wide = (b(system) for b in (linear.kalman, reduce.inflated(linear.kalman, factor=1.5)))
    prior = plain.init(of.mean, cov, of.noise(-1))
    expected, found = (made.step(prior, of.hour(0))[0] for made in (plain, wide))
    assert torch.equal(found.cov[:, 2], prior.cov[:, 2])
    wider = (deviation(prior) / deviation(expected)).clamp(max=1.5)[..., :2]
    close(found.cov[:, :2, :2], wider * expected.cov[:, :2, :2] * wider.mT, 1e-13)
    assert (wider > 1.0).any(-1).all()


@pytest.mark.parametrize("name", sorted(set(WIDENED) - {"PartlyOrthogonal"}))  # whose covariance wanders of its own
def test_a_store_the_gauges_hardly_see_does_not_grow_without_bound(name):
    """Hundreds of hours of inflation of what neither forgets nor errs nor is seen to speak of."""
    of = gauges()
    _, h, b, g, r = of.parts
    kept, seen = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([1.0, 1.0, 1e-6])
    parts = (torch.diag_embed(kept.double()).expand(4, -1, -1), h * seen, b, g * (kept < 1.0).unsqueeze(-1), r)
    of = replace(of, parts=parts, cov=torch.eye(3, dtype=torch.float64).expand(4, -1, -1))
    made = reduce.inflated(WIDENED[name], factor=1.1)(of.system)
    belief = start(made, of)
    first = deviation(belief)[..., 2]
    for _ in range(200):
        belief, _ = made.step(belief, of.hour(0))
    assert (deviation(belief)[..., 2] < 2.0 * first).all()  # members that are drawn anew wander


@widened
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_relaxation_gives_the_forecast_its_spread_back(name, share):
    for prior, expected, found, some in pairs(WIDENED[name], GAPS, to_prior_spread=share):
        before, without, after = (x.cov.diagonal(dim1=1, dim2=2).sqrt()[some] for x in (prior, expected, found))
        close(after, without + share * (before - without), 1e-12)
        close(found.mean, expected.mean, 1e-13)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_relaxation_of_members_blends_their_anomalies(share):
    for prior, expected, found, some in pairs(WIDENED["Ensemble"], GAPS, to_prior=share):
        before, without, after = ((x.members - x.mean)[some] for x in (prior, expected, found))
        close(after, share * before + (1 - share) * without, 1e-12)
        close(found.mean, expected.mean, 1e-13)


def test_inflation_that_makes_no_sense_is_refused():
    for options in ({"factor": 0.9}, {"to_prior_spread": 1.1}, {"to_prior": -0.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            reduce.inflated(sigma.ukf, **options)
    made = reduce.inflated(sigma.ukf, to_prior=0.5)(GAPS.system)
    with pytest.raises(ValueError, match="blends members"):
        run(made, GAPS)


# --- cheaper ---------------------------------------------------------------------------------------------------------


def test_spread_moved_by_the_same_model_is_the_filter():
    for build, of in ((linear.extended, GAPS), (linear.extended, river()), (sigma.ukf, with_gaps(gauges()))):
        found = run(reduce.simplified(build, of.system.move)(of.system), of)
        for (belief, update), (expected, other) in zip(found, run(build(of.system), of), strict=True):
            alike(belief, expected, 1e-12)
            close(update.log_likelihood, other.log_likelihood, 1e-12)


@pytest.mark.parametrize("name", WIDENED)
def test_spread_moved_by_a_cheaper_model_leaves_the_mean_to_the_model(name):
    of = gauges(bent=0.1)

    def cheap(x: Tensor, u: Tensor) -> Tensor:
        return 0.9 * x

    made = reduce.simplified(WIDENED[name], cheap)(of.system)
    plain = WIDENED[name](replace(of.system, move=cheap))
    for k, (belief, _) in enumerate(run(made, of)[:-1], 1):
        prior = made.forecast(belief, of.hour(k))
        close(prior.mean, of.system.move(belief.mean, of.hour(k).forcing), 1e-13)
        close(prior.cov, plain.forecast(belief, of.hour(k)).cov, 1e-12)


def test_a_fixed_covariance_is_where_the_kalman_filter_ends():
    of = gauges(hours=300)
    h = of.parts[1]
    cov, observed = reduce.riccati(of.system, of.mean, of.hour(0).forcing)
    close(observed, h, 1e-14)
    made = reduce.fixed(of.system, forecast_cov=cov, observed=observed)
    end, found = run(linear.kalman(of.system), of), run(made, of)
    alike(found[-1][0], end[-1][0], 1e-9)
    close(found[-1][1].gain, end[-1][1].gain, 1e-9)
    assert (found[0][0].cov - end[0][0].cov).abs().max() > 1e-2
    for kept in (0, 1):  # the gain of the gauge that is left, from the same covariance
        partly = of.observation[0].clone()
        partly[:, 1 - kept] = torch.nan
        _, update = made.step(start(made, of), of.hour(0, partly))
        row = h[:, kept : kept + 1]
        s = row @ cov @ row.mT + of.parts[-1][:, kept : kept + 1, kept : kept + 1]
        close(update.gain[..., kept], (cov @ row.mT / s)[..., 0], 1e-12)
        assert (update.gain[..., 1 - kept] == 0).all() and (update.gain - found[0][1].gain).abs().max() > 1e-2


def test_without_a_steady_state_there_is_no_fixed_covariance():
    of = gauges()
    system = replace(of.system, move=lambda x, u: 1.1 * x, see=lambda x: 0.0 * x[..., :2])
    with pytest.raises(np.linalg.LinAlgError):
        reduce.riccati(system, of.mean, of.hour(0).forcing)


# --- steady ----------------------------------------------------------------------------------------------------------

WARM = 30


def steady_river(hours: int = 70) -> Twin:
    """A river whose gauge errs alike in every flow, so that gains differ by the covariances only; high and low flow."""
    of = river(hours=hours)
    system = replace(of.system, observation_error=lambda y: torch.full((1, 1, 1), 0.01, dtype=torch.float64))
    forcing = of.forcing.clone()
    for k in range(hours):  # two floods, and dry hours between
        forcing[k, :, 0] *= 12.0 if 8 <= k < 14 or 50 <= k < 55 else 0.0
    return replace(of, make=lambda *parts: system, forcing=forcing).drawn(hours, of.mean.shape[-1])


@pytest.mark.parametrize("build", [sigma.ukf, partial(ensemble.enkf, members=9)])
def test_a_filter_is_itself_while_it_warms_up(build):
    of = steady_river()
    found, expected = (run(b(of.system), of) for b in (reduce.steady(build, warm_up=WARM), build))
    for k, ((belief, update), (other, plain)) in enumerate(zip(found, expected, strict=True)):
        if k < WARM:
            assert same(belief.state, other) and torch.equal(update.log_likelihood, plain.log_likelihood)
            assert torch.equal(belief.mean, other.mean) and torch.equal(belief.cov, other.cov)
        else:
            assert (belief.hours.sum(1) == WARM).all() and same(belief.state, expected[WARM - 1][0])
    assert not torch.equal(found[WARM][1].gain, expected[WARM][1].gain)


def test_a_steady_gain_is_that_of_the_mean_covariances_in_each_class_of_flow():
    of = steady_river()
    made, plain = reduce.steady(sigma.ukf, warm_up=WARM)(of.system), sigma.ukf(of.system)
    inner, steady = run(plain, of)[:WARM], run(made, of)
    flows = torch.stack([update.predicted.mean[:, 0] for _, update in inner]).numpy()
    cross = torch.stack([update.predicted.cross[..., 0] for _, update in inner]).numpy()
    cov = torch.stack([update.predicted.cov[:, 0, 0] for _, update in inner]).numpy()
    usual = flows.cumsum(0) / np.arange(1, WARM + 1)[:, None]
    classes = (flows >= 0.5 * usual).astype(int) + (flows >= 2.0 * usual)
    met = set()
    for _, update in steady[WARM:]:
        flow = update.predicted.mean[:, 0].numpy()
        for i in range(4):
            own = int(flow[i] >= 0.5 * usual[-1, i]) + int(flow[i] >= 2.0 * usual[-1, i])
            among = classes[:, i] == own
            if not among.any():
                among = np.ones(WARM, bool)
            gain = cross[among, i].mean(0) / (cov[among, i].mean() + 0.01)
            close(update.gain[i, :, 0], gain, 1e-10)
            met.add(own)
    assert met == {0, 1, 2}


def test_a_long_warm_up_ends_in_the_gain_of_the_kalman_filter():
    of = gauges(hours=250)
    found, expected = (run(b(of.system), of) for b in (reduce.steady(sigma.ukf, warm_up=240), sigma.ukf))
    close(found[-1][1].gain, expected[-1][1].gain, 0.05)
    spread = expected[-1][0].cov.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found[-1][0].mean - expected[-1][0].mean)[:, 0].abs() < 0.1 * spread).all()


@pytest.mark.parametrize("cut", [10, WARM - 1, WARM, 60])
@pytest.mark.parametrize("build", [sigma.ukf, partial(ensemble.etkf, members=9)])
def test_a_steady_filter_goes_on_from_a_file(build, cut):
    of = steady_river()
    whole = run(reduce.steady(build, warm_up=WARM)(of.system), of)
    left = whole[cut - 1][0]
    again = built(kind(left), {path: torch.from_numpy(t.numpy().copy()) for path, t in named(left).items()})
    rest = run(reduce.steady(build, warm_up=WARM)(of.system), of, again, range(cut, 70))
    assert all(same(a, b) for (a, _), (b, _) in zip(whole[cut:], rest, strict=True))


def test_catchments_warm_up_by_their_own_observations():
    of = steady_river()
    observation = of.observation.clone()
    observation[5:25, 1] = torch.nan
    observation[::3, 2] = torch.nan
    of = replace(of, observation=observation)
    made = reduce.steady(sigma.ukf, warm_up=WARM)(of.system)
    among = run(made, of)
    ready = torch.stack([belief.hours.sum(1) >= WARM for belief, _ in among]).int().argmax(0)
    assert ready.tolist() == [WARM - 1, WARM + 19, 44, WARM - 1]
    alone = of.rows([1])
    system = replace(alone.system, move=lambda x, u: of.system.move(x.expand(4, -1, -1), u.expand(4, -1, -1))[1:2])
    system = replace(system, see=lambda x: of.system.see(x.expand(4, -1, -1))[1:2])
    alone = replace(alone, make=lambda *parts: system)
    for (a, _), (b, _) in zip(among, run(reduce.steady(sigma.ukf, warm_up=WARM)(system), alone), strict=True):
        for path, tensor in named(b).items():
            close(tensor[0], named(a)[path][1], 1e-12)


def test_a_day_of_warm_up_is_needed():
    with pytest.raises(ValueError, match="warm_up is 23 hours"):
        reduce.steady(sigma.ukf, warm_up=23)


# --- adaptive --------------------------------------------------------------------------------------------------------


def told_wrong(change: dict[str, float], memory: float = 100.0, **options: bool) -> tuple[np.ndarray, Belief]:
    """NIS (T,) averaged over forty catchments of one gauge, and the last belief."""
    of = told(one_gauge(gauges(catchments=40, hours=500)), change)
    found = run(adaptive.desroziers(sigma.ukf, memory=memory, **options)(of.system), of)
    return torch.stack([update.nis for _, update in found]).mean(1).numpy(), found[-1][0]


@pytest.mark.parametrize("size", [0.25, 4.0])
def test_the_common_size_of_errors_is_found(size):
    nis, belief = told_wrong({"model": size, "gauge": size})
    assert abs(nis[:10].mean() * size - 1) < 0.3
    assert abs(nis[300:].mean() - 1) < 0.06
    close(belief.gauge[:, 0], belief.model, 1e-9)  # with one gauge they cannot be told apart
    assert abs(belief.gauge.mean() * size - 1) < 0.1


@pytest.mark.parametrize(("options", "moved"), [({"model": False}, "gauge"), ({"gauge": False}, "model")])
def test_only_the_errors_asked_for_follow(options, moved):
    nis, belief = told_wrong({moved: 0.25}, memory=30.0, **options)
    factors = {"gauge": belief.gauge[:, 0], "model": belief.model}
    assert (factors.pop(moved) > 1.5).all() and (next(iter(factors.values())) == 1).all()
    assert nis[:10].mean() > 1.25 and abs(nis[300:].mean() - 1) < 0.1


def test_factors_follow_the_residuals_of_the_analysis():
    """Desroziers et al. (2005): E[d^a d^b] = R and E[(h(x^a) − h(x^f)) d^b] = H P Hᵀ, here for two gauges and gaps."""
    of = with_gaps(gauges())
    made = adaptive.desroziers(linear.kalman, memory=50.0)(of.system)
    belief = start(made, of)
    h, r = of.parts[1], of.parts[-1].diagonal(dim1=1, dim2=2)
    for k in range(len(of.observation)):
        prior, y = made.forecast(belief, of.hour(k)), of.observation[k]
        after, update = made.step(belief, of.hour(k))
        before, left = (y - (h @ x.mean.mT)[..., 0] for x in (prior, after))
        seen = torch.isfinite(y)
        gauge = 1 + (left * before / (belief.gauge * r) - 1) / 50
        close(after.gauge, torch.where(seen, belief.gauge * gauge, belief.gauge), 1e-11)
        variance = (h @ prior.cov @ h.mT).diagonal(dim1=1, dim2=2)
        ratio = ((before - left) * before / variance).nanmean(-1)
        some = seen.any(-1)
        close(after.model, torch.where(some, belief.model * (1 + (ratio - 1) / 50), belief.model), 1e-11)
        close(update.observation_cov.diagonal(dim1=1, dim2=2)[seen], (belief.gauge * r)[seen], 1e-13)
        assert torch.equal(after.gauge[~seen], belief.gauge[~seen])
        assert torch.equal(after.model[~some], belief.model[~some])
        belief = after
    assert (belief.gauge != 1).all()


@pytest.mark.parametrize(("size", "bound"), [(1e-6, 25.0), (1e6, 0.04)])
def test_factors_stay_within_a_fifth_and_five_times_the_error(size, bound):
    _, belief = told_wrong({"model": size, "gauge": size})
    close(belief.gauge, torch.full((40, 1), bound), 1e-6)
    close(belief.model, torch.full((40,), bound), 1e-6)


def test_a_day_of_memory_is_needed():
    with pytest.raises(ValueError, match=r"memory is 23.0 hours"):
        adaptive.desroziers(sigma.ukf, memory=23.0)


# --- biased forecasts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", bias.VARIANTS)
@pytest.mark.parametrize("build", [sigma.ukf, linear.iterated, partial(ensemble.enkf, members=9), reduced.rrsqrt])
def test_where_nothing_is_bias_the_filter_is_itself_bit_for_bit(build, variant):
    for of in (GAPS, river()):
        found = run(bias.aware(build, variant=variant, bias_share=0.0)(of.system), of)
        for (belief, update), (expected, other) in zip(found, run(build(of.system), of), strict=True):
            assert same(belief.state, expected) and torch.equal(belief.mean, expected.mean)
            assert torch.equal(update.log_likelihood, other.log_likelihood) and (belief.bias == 0).all()


@pytest.mark.parametrize("variant", bias.VARIANTS)
def test_where_everything_is_bias_the_state_has_no_gain(variant):
    of = gauges()
    made = bias.aware(linear.kalman, variant=variant, bias_share=1.0)(of.system)
    belief = start(made, of)
    prior = made.forecast(belief, of.hour(0))
    found, update = made.step(belief, of.hour(0))
    assert (update.gain == 0).all()
    gain = linear.kalman(of.system).step(start(linear.kalman(of.system), of), of.hour(0))[1].gain
    shift = (gain @ (of.observation[0] - (of.parts[1] @ prior.mean.mT)[..., 0]).unsqueeze(-1)).mT
    close(found.bias, -shift, 1e-12)
    close(found.mean, prior.mean if variant == "blind" else prior.mean + shift, 1e-12)
    close(found.cov, prior.cov, 1e-12)


def one_store(bias_share: float, variant: str, x: float, b: float, y: float) -> WithBias:
    """P = 4 and R = 1, a store that stays and a gauge that sees it."""

    def number(value: float) -> Tensor:
        return torch.full((1, 1, 1), value, dtype=torch.float64)

    system = System(lambda x, u: x, lambda x: x, lambda mean: number(0.0), lambda y: number(1.0))
    made = bias.aware(linear.kalman, variant=variant, bias_share=bias_share)(system)
    noise = Noise(0, np.zeros(1, np.int64), np.zeros(1, np.int64))
    belief = replace(made.init(number(x), number(4.0), noise), bias=number(b))
    return made.step(belief, Hour(number(0.0), number(y)[0], noise))[0]


@pytest.mark.parametrize(
    ("variant", "mean", "state"), [("blind", 4.5, 4.5), ("online", 4.4, 4.5), ("feedback", 4.4, 4.4)]
)
def test_one_store_by_hand(variant, mean, state):
    """γ = ¼, x^f = 3, b = 1, y = 5. L = ¼·4/5 = 0.2, b ← 1 − 0.2 (5 − 2) = 0.4. K = 3/(3 + 1) = ¾.

    3 + ¾ (5 − 3) = 4.5 with the bias, 2.6 + ¾ (5 − 2.6) = 4.4 without.
    """
    found = one_store(0.25, variant, 3.0, 1.0, 5.0)
    close(found.bias, 0.4, 1e-14)
    close(found.mean, mean, 1e-14)
    carried = found.state.mean - (found.offset if variant == "feedback" else 0.0)
    close(carried, state, 1e-14)
    close(found.cov, 0.25**2 * 4.0 + 0.75**2, 1e-14)  # Joseph: the gain is not that of the covariance


@pytest.mark.parametrize("hours", [range(4), range(12)])
def test_online_output_is_that_of_the_feedback_for_the_same_forecast(hours):
    """(x^a − (I − K H) b^a) = (x^f − b^a) + K (y − H (x^f − b^a)), gaps included."""
    of = with_gaps(gauges())
    world = still(of.system)
    make = partial(bias.aware, linear.kalman, bias_share=0.3)
    online, feedback = (make(variant=v) for v in ("online", "feedback"))
    h = of.parts[1]
    for k in hours:
        belief = run(online(of.system), of, hours=range(k + 1))[-1][0]
        belief = replace(belief, offset=torch.zeros_like(belief.offset))
        a, update = online(world).step(belief, of.hour(k))
        b, other = feedback(world).step(belief, of.hour(k))
        close(a.bias, b.bias, 1e-14)
        close(a.mean, b.mean, 1e-12)
        close(update.gain, other.gain, 1e-13)
        some = torch.isfinite(of.observation[k]).any(-1)
        seen = torch.isfinite(of.observation[k]).unsqueeze(-1)
        fair = belief.state.mean - a.bias
        left = torch.where(seen, of.observation[k].unsqueeze(-1) - h @ fair.mT, 0.0)
        close(a.mean[some], (fair + (update.gain @ left).mT)[some], 1e-12)
        assert torch.equal(a.bias[~some], belief.bias[~some])


def drifting(variant: str) -> tuple[Twin, Tensor, list]:
    """A model that adds c each hour, beside a truth without it or any error, every store being seen."""
    of = gauges(hours=400)
    m0, _, b, g, _ = of.parts
    c = torch.tensor([[[0.3, -0.2, 0.5]]], dtype=torch.float64)
    r = 0.1 * torch.eye(3, dtype=torch.float64).expand(4, -1, -1)
    true = System(lambda x, u: x @ m0.mT + u @ b.mT, lambda x: x, lambda mean: g, lambda y: r)
    x, seen = of.mean, []
    for k in range(400):
        x = true.move(x, of.hour(k).forcing)
        seen.append(x[:, 0])
    of = replace(of, observation=torch.stack(seen))
    model = replace(true, move=lambda x, u: true.move(x, u) + c)
    return of, c, run(bias.aware(linear.kalman, variant=variant, bias_share=0.2)(model), of)


def test_with_feedback_the_bias_is_what_an_hour_adds():
    of, c, found = drifting("feedback")
    close(found[-1][0].bias, c.expand(4, -1, -1), 1e-6)
    close(found[-1][0].mean[:, 0], of.observation[-1], 1e-6)


def test_without_feedback_the_bias_is_what_has_piled_up():
    """(I − M (I − K H))⁻¹ c; the output is right all the same, the state of the model is not."""
    of, c, found = drifting("online")
    belief, update = found[-1]
    m0, eye = of.parts[0], torch.eye(3, dtype=torch.float64)
    piled = torch.linalg.solve(eye - m0 @ (eye - update.gain), c.mT.expand(4, -1, -1)).mT
    close(belief.bias, piled, 1e-6)
    close(belief.mean[:, 0], of.observation[-1], 1e-6)
    assert ((belief.state.mean[:, 0] - of.observation[-1]).abs().amax(-1) > 0.02).all()
    assert (piled - c).abs().max() > 0.05


def test_a_bias_nobody_can_estimate_is_refused():
    with pytest.raises(ValueError, match=r"variant is 'deaf', it must be one of blind, online, feedback"):
        bias.aware(sigma.ukf, variant="deaf")
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="bias_share"):
            bias.aware(sigma.ukf, bias_share=share)


@pytest.mark.parametrize("biases", [1, 2])
def test_a_separate_bias_is_one_in_the_state(biases):
    """Friedland (1969), with gaps."""
    of = with_gaps(gauges())
    m0, h, b, g, r = of.parts
    random = np.random.default_rng(12)
    on_state, on_gauge = (torch.from_numpy(random.standard_normal((4, rows, biases))) for rows in (3, 2))
    half = torch.from_numpy(random.standard_normal((4, biases, biases)))
    cov = half @ half.mT + torch.eye(biases, dtype=torch.float64)
    found = run(bias.friedland(of.system, on_state=on_state, on_gauge=on_gauge, cov=cov), of)

    bottom = torch.cat((torch.zeros(4, biases, 3), torch.eye(biases).expand(4, -1, -1)), -1).double()
    f = torch.cat((torch.cat((m0, on_state), -1), bottom), -2)
    wide_h = torch.cat((h, on_gauge), -1)
    wide_b, wide_g = (torch.nn.functional.pad(x, (0, 0, 0, biases)) for x in (b, g))
    wide = System(lambda x, u: x @ f.mT + u @ wide_b.mT, lambda x: x @ wide_h.mT, lambda mean: wide_g, lambda y: r)
    p = torch.stack([torch.block_diag(one, two) for one, two in zip(of.cov, cov, strict=True)])
    start_at = torch.nn.functional.pad(of.mean, (0, biases))
    expected = run(linear.kalman(wide), replace(of, make=lambda *parts: wide, mean=start_at, cov=p))
    for (belief, update), (other, same_update) in zip(found, expected, strict=True):
        close(belief.mean, other.mean[..., :3], 1e-12, scale=other.mean.abs().max())
        close(belief.bias, other.mean[..., 3:], 1e-12, scale=other.mean.abs().max())
        close(belief.cov, other.cov[:, :3, :3], 1e-12, scale=other.cov.abs().max())
        close(belief.effect @ belief.bias_cov, other.cov[:, :3, 3:], 1e-12, scale=other.cov.abs().max())
        close(belief.bias_cov, other.cov[:, 3:, 3:], 1e-12, scale=other.cov.abs().max())
        close(update.log_likelihood, same_update.log_likelihood, 1e-12)
        close(update.gain, same_update.gain[:, :3], 1e-11)


# --- noise with a memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"model_hours": -1.0}, {"model_hours": 3.0, "gauge_hours": -1.0}])
def test_a_memory_must_be_some_time(options):
    with pytest.raises(ValueError, match="at least one positive and none negative"):
        coloured.remembered(sigma.ukf, **options)


@pytest.mark.parametrize(
    "options", [{"model_hours": 1e-3}, {"gauge_hours": 1e-3}, {"model_hours": 1e-3, "gauge_hours": 1e-3}]
)
def test_a_memory_of_no_time_is_white_noise(options):
    of = one_gauge(with_gaps(gauges()))
    found, expected = (run(b(of.system), of) for b in (coloured.remembered(linear.kalman, **options), linear.kalman))
    for (belief, update), (other, plain) in zip(found, expected, strict=True):
        close(belief.mean[..., :3], other.mean, 1e-12)
        close(belief.cov[:, :3, :3], other.cov, 1e-12)
        close(update.log_likelihood, plain.log_likelihood, 1e-12)


WITH_GAIN = sorted(set(catalogue.filters()) - {"linear.kalman", *(n for n in catalogue.filters() if "particle" in n)})


@pytest.mark.parametrize("name", WITH_GAIN)
def test_every_filter_with_a_gain_can_do_without_white_noise(name):
    """R is zero; what is left after an observation is P − K S Kᵀ all the same, of the directions that are kept."""
    of = one_gauge(with_gaps(gauges()))
    made = batches.built([(name, {}), ("coloured.remembered", {"gauge_hours": 6.0})])(of.system)
    belief = start(made, of)
    for k in range(len(of.observation)):
        prior, (belief, update) = made.forecast(belief, of.hour(k)), made.step(belief, of.hour(k))
        assert all(torch.isfinite(tensor).all() for tensor in named(belief).values())
        some = update.seen.any(-1)
        assert (update.observation_cov[some] == 0).all()
        if name.startswith(("ensemble.e", "ensemble.l", "reduced.se", "sigma", "linear")) and "enkf" not in name:
            cov = prior.cov - update.gain @ update.innovation_cov @ update.gain.mT
            close(belief.cov[some], cov[some], 1e-9)
            seen = made.system.see(belief.mean)[:, 0]
            close(seen[some], of.observation[k][some], 1e-9)  # with what the gauge errs, the mean is what it says


@pytest.mark.parametrize("build", [particle.bootstrap, particle.variance_minimising])
def test_weights_need_white_noise_of_the_gauge(build):
    coloured.remembered(build, model_hours=6.0)(one_gauge(gauges()).system)
    with pytest.raises(ValueError, match="coloured noise of the gauge needs a filter with a gain; this one weighs"):
        coloured.remembered(build, gauge_hours=6.0)(one_gauge(gauges()).system)


def test_factors_of_a_gauge_without_white_noise_stay():
    of = one_gauge(gauges())
    made = adaptive.desroziers(coloured.remembered(sigma.ukf, gauge_hours=6.0))(of.system)
    belief = run(made, of)[-1][0]
    assert (belief.gauge == 1).all() and torch.isfinite(belief.model).all() and (belief.model != 1).any()


def test_errors_of_members_are_forgotten_as_fast_as_said():
    """The correlation of an hour with the last is e^(−1/τ), the variance in the long run σ² / (1 − λ²)."""
    of = one_gauge(gauges(catchments=2, hours=40))
    build = coloured.remembered(partial(ensemble.enkf, members=4000), model_hours=5.0, gauge_hours=2.0)
    made = build(of.system)
    belief = start(made, of)
    assert belief.mean.shape[-1] == 3 + 3 + 1
    g, r = of.parts[3], of.parts[-1]
    driving = torch.cat(((g @ g.mT).diagonal(dim1=1, dim2=2), r[:, 0]), -1)
    close(belief.cov.diagonal(dim1=1, dim2=2)[:, 3:], driving, 0.15)
    forget = torch.tensor([math.exp(-1 / 5)] * 3 + [math.exp(-1 / 2)], dtype=torch.float64)
    for k in range(40):
        before, belief = belief, made.forecast(belief, of.hour(k))
    noises = [(x.members - x.mean)[..., 3:] for x in (before, belief)]
    close(noises[1].square().mean(1), driving / (1 - forget**2), 0.15)
    slope = (noises[0] * noises[1]).sum(1) / noises[0].square().sum(1)
    assert ((slope - forget).abs() < 4 * ((1 - forget**2) / 4000).sqrt()).all()
    # a state moves by its error of the last hour
    moved = of.system.move(before.members[..., :3], of.hour(39).forcing) + before.members[..., 3:6]
    close(belief.members[..., :3], moved, 1e-12)
    close(made.system.see(belief.members), of.system.see(belief.members[..., :3]) + belief.members[..., 6:], 1e-14)


# --- parameters ------------------------------------------------------------------------------------------------------

MODEL = hourly()
NAMES = [parameter.name for parameter in MODEL.parameters]


def catchments(build: Build, given: Tensor, c: int = 3):
    """Rivers whose model is told that catchment rain is `given` (c,) times measured rain."""
    p = MODEL.defaults.expand(c, 1, -1).clone()
    p[..., NAMES.index("rain_factor")] = given.unsqueeze(-1)
    base = torch.tensor([0.0 if s.name == "rain_error" else 0.002 for s in MODEL.states], dtype=torch.float64)
    share = torch.full((c, 1, len(MODEL.states)), 0.003, dtype=torch.float64)
    gauge = torch.full((c, 1), 0.03, dtype=torch.float64), torch.full((c, 1), 1e-3, dtype=torch.float64)
    levels = Levels(share, base.expand(c, 1, -1), *gauge)
    return batch(MODEL, p, levels, build, [f"joint {i}" for i in range(c)], seed=4)


def weather(hours: int, c: int = 3) -> Tensor:
    random = np.random.default_rng(9)
    wet = random.random((hours, c, 1)) < 0.25
    rain = np.where(wet, random.gamma(0.7, 2.0, (hours, c, 1)), 0.0)
    return torch.from_numpy(np.concatenate((rain, np.full((hours, c, 1), 0.05)), -1))


@pytest.mark.parametrize("build", [sigma.ukf, partial(ensemble.enkf, members=40)], ids=["ukf", "enkf"])
def test_a_wrong_factor_on_rain_moves_to_the_true_one(build):
    hours, truth, given = 500, torch.tensor([1.0, 1.3, 0.7]), torch.tensor([0.7, 0.9, 1.1])
    real, forcing = catchments(build, truth.double()), weather(hours)
    wrong = catchments(joint.parameters(build, names="rain_factor", walk=0.01), given.double())
    random = np.random.default_rng(10)
    x = MODEL.start(real.parameters)
    belief, known = wrong.believe(x, 0), wrong.system.unknowns
    assert known is not None and belief.mean.shape[-1] == len(MODEL.states) + 1
    close(joint.values(known, ("rain_factor",), belief.mean[..., -1:])[:, 0, 0], given, 1e-7)
    factors = []
    for k in range(hours):
        u = forcing[k].unsqueeze(1)
        x = real.system.move(x, u)
        y = real.system.see(x)[:, 0]
        y = y * (1 + 0.03 * torch.from_numpy(random.standard_normal(y.shape)))
        y[:, 0] = torch.where(torch.tensor(k % 7 == 0), torch.nan, y[:, 0])
        belief, _ = wrong.filter.step(belief, Hour(u, y, wrong.noise(np.full(3, k + 1))))
        factors.append(joint.values(known, ("rain_factor",), belief.mean[..., -1:])[:, 0, 0])
    found = torch.stack(factors)
    assert ((found > 0.4) & (found < 2.5)).all()
    assert ((found[-100:].mean(0) - truth).abs() < 0.5 * (given - truth).abs()).all(), found[-100:].mean(0)


def coverage(build: Build, c: int = 24, hours: int = 480) -> tuple[float, float]:
    """Mean NEES of a parameter drawn as the filter believes, and how often it lies within two deviations."""
    random = np.random.default_rng(12)
    given, forcing = torch.ones(c, dtype=torch.float64), weather(hours, c)
    told = catchments(joint.parameters(build, names="rain_factor"), given, c)
    known = told.system.unknowns
    theta = told.believe(MODEL.start(told.parameters), 0).mean[..., -1:]
    theta = theta[:, 0] + 0.3 * torch.from_numpy(random.standard_normal((c, 1)))
    real = catchments(sigma.ukf, joint.values(known, ("rain_factor",), theta)[:, 0], c)
    x, squares = MODEL.start(real.parameters), []
    belief = told.believe(x, 0)
    for k in range(hours):
        u = forcing[k].unsqueeze(1)
        x = real.system.move(x, u)
        x = x + torch.from_numpy(random.standard_normal(x.shape)) @ real.system.model_error(x).mT
        y = real.system.see(x)[:, 0]
        y = y + torch.from_numpy(random.standard_normal(y.shape)) * real.system.observation_error(y)[..., 0].sqrt()
        belief, _ = told.filter.step(belief, Hour(u, y, told.noise(np.full(c, k + 1))))
        squares.append((belief.mean[:, 0, -1] - theta[:, 0]).square() / belief.cov[:, -1, -1])
    found = torch.stack(squares)[hours // 4 :]
    return float(found.mean()), float((found < 4.0).double().mean())


@pytest.mark.parametrize(
    "build",
    [sigma.ukf, partial(ensemble.etkf, members=40), partial(ensemble.enkf, members=40)],
    ids=["ukf", "etkf", "enkf"],
)
def test_the_error_of_a_parameter_is_about_what_is_said(build):
    nees, within = coverage(build)
    assert nees < 2.5, nees
    assert within > 0.75, within


def test_members_leave_a_parameter_alone_that_does_not_correlate():
    """With no rain the factor on rain has no say in the discharge, and whatever forty members make of it is chance."""
    c = 6
    made = catchments(joint.parameters(ensemble.etkf, names="rain_factor", walk=0.0), torch.ones(c).double(), c)
    x = MODEL.start(made.parameters)
    belief = first = made.believe(x, 0)
    u = torch.tensor([0.0, 0.05], dtype=torch.float64).expand(c, 1, -1)
    kept = 0
    for k in range(30):
        y = 1.2 * made.system.see(x)[:, 0]
        after, update = made.filter.step(belief, Hour(u, y, made.noise(np.full(c, k + 1))))
        alone = (update.gain[:, -1, 0] == 0.0).numpy()
        assert torch.equal(after.members[alone, :, -1], belief.members[alone, :, -1])
        kept += int(alone.sum())
        belief = after
    assert kept > 0.95 * 30 * c
    assert (belief.cov[:, -1, -1] > 0.8 * first.cov[:, -1, -1]).all()


def test_a_parameter_at_its_calibrated_value_is_the_model():
    made = catchments(sigma.ukf, torch.tensor([0.4, 1.0, 2.5]).double())
    names = ("rain_factor", "slow_rate")
    wide, theta = joint.augmented(made.system, names, 0.01)
    x, u = MODEL.start(made.parameters), weather(1)[0].unsqueeze(1)
    z = torch.cat((x, theta.expand(3, -1, -1)), -1)
    close(wide.move(z, u)[..., :-2], made.system.move(x, u), 1e-5)  # a value at its bound begins a little inside
    close(wide.move(z, u)[1:2, ..., :-2], made.system.move(x, u)[1:2], 1e-12)
    close(wide.see(z), made.system.see(x), 1e-5)
    assert torch.equal(wide.move(z, u)[..., -2:], z[..., -2:])
    # another θ is another parameter, for every point its own
    points = z.expand(-1, 4, -1).clone()
    points[..., -2] += torch.linspace(-3.0, 3.0, 4)
    moved = wide.move(points, u)
    values = joint.values(made.system.unknowns, names, points[..., -2:])
    for j in range(4):
        p = made.parameters.clone()
        p[..., NAMES.index("rain_factor")] = values[:, j : j + 1, 0]
        p[..., NAMES.index("slow_rate")] = values[:, j : j + 1, 1]
        close(moved[:, j : j + 1, :-2], MODEL.step(x, u, p), 1e-12)
    error = wide.model_error(z)
    expected = torch.zeros(3, 8, 8, dtype=torch.float64)
    expected[:, :6, :6], expected[:, 6:, 6:] = made.system.model_error(x), 0.01 * torch.eye(2)
    close(error, expected, 1e-9)
    assert wide.stores is not None and wide.stores.tolist() == [*(s.water for s in MODEL.states), False, False]


@pytest.mark.parametrize("theta", [-1e3, -5.0, 0.0, 5.0, 1e3])
def test_no_parameter_leaves_its_bounds(theta):
    known = catchments(sigma.ukf, torch.ones(3).double()).system.unknowns
    for name, lower, upper in zip(known.names, known.lower, known.upper, strict=True):
        value = joint.values(known, (name,), torch.full((1,), theta, dtype=torch.float64))
        assert lower <= value <= upper


def test_parameters_that_are_not_there_are_refused():
    made = catchments(sigma.ukf, torch.ones(3).double())
    with pytest.raises(ValueError, match=r"no parameter 'rain'; there are soil_capacity, .*rain_factor"):
        joint.parameters(sigma.ukf, names="rain_factor, rain")(made.system)
    with pytest.raises(ValueError, match="nothing is known of the parameters"):
        joint.parameters(sigma.ukf, names="rain_factor")(gauges().system)
    for options in ({"names": " , "}, {"names": "rain_factor", "spread": 0.0}, {"names": "rain_factor", "walk": -1.0}):
        with pytest.raises(ValueError, match="must name a parameter"):
            joint.parameters(sigma.ukf, **options)
