"""A gain learned inside a model: what it may do to stores, what it does with nothing, and that it learns."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from hydroda import gains, training
from hydroda.cycle import Batch, Levels, rollout
from hydroda.filters import lstm, sigma
from hydroda.filters.beliefs import mapped, named
from hydroda.filters.lstm import with_networks
from hydroda.filters.nested import built, kind
from hydroda.filters.networks import Trained
from hydroda.filters.recipe import Hour
from hydroda.gains import Past, Reference
from hydroda.losses import begin
from hydroda.models.hbv import hourly
from hydroda.schema import LEADS

C, SEEDS, T = 3, 2, 60
GENERATOR = np.random.default_rng(4)


@cache
def batch() -> Batch:
    """Three catchments that differ in all parameters."""
    model = hourly()
    lower, upper = (torch.tensor([getattr(p, side) for p in model.parameters]) for side in ("lower", "upper"))
    p = model.defaults.expand(C, -1, -1) * torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)[:, None, None]
    x = torch.ones(C, 1, len(model.states), dtype=torch.float64)
    levels = Levels(0.02 * x, 0.05 * x, 0.05 * x[..., 0, :1], 0.01 * x[..., 0, :1])
    return Batch(model, torch.minimum(torch.maximum(p, lower), upper).double(), levels, sigma.ukf, np.arange(C), 7)


@cache
def weather() -> torch.Tensor:
    """Rain in showers and some evaporation, (T, c, 2)."""
    rain = GENERATOR.gamma(0.1, 8.0, (T + LEADS.size, C))
    return torch.from_numpy(np.stack((rain, np.full_like(rain, 0.05)), -1))


@cache
def observed() -> torch.Tensor:
    """Runoff of other parameters, with a gap and single hours missing, (T, c)."""
    model, p = batch().model, batch().parameters.clone()
    p[..., 7] *= 1.7
    x, found = model.start(p), []
    for u in weather():
        x = model.step(x, u.unsqueeze(1), p)
        found.append(model.discharge(x, p)[:, 0, 0])
    y = torch.stack(found) * torch.from_numpy(np.exp(0.05 * GENERATOR.normal(size=(len(found), C))))
    y[20:26, 0] = torch.nan
    y[40, 1] = torch.nan
    return y


@cache
def weights(size: float = 0.5) -> dict[str, torch.Tensor]:
    """Networks of each catchment that do something, (c·s, …)."""
    world = batch()
    states = torch.rand(200, C, len(world.model.states), generator=torch.Generator().manual_seed(1)).double() * 20
    stores = world.system.stores
    every = [lstm.initial(lstm.scales(states[:, c], observed()[:, c], stores), stores, range(SEEDS)) for c in range(C)]
    found = {name: torch.cat([each[name] for each in every]) for name in every[0]}
    shape = found["last.weight"].shape
    found["last.weight"] = size * torch.randn(shape, generator=torch.Generator().manual_seed(2)).double()
    return found


def single() -> dict[str, torch.Tensor]:
    """The first network of each catchment."""
    return {name: tensor[::SEEDS] for name, tensor in weights().items()}


def run(made, belief, hours, doubt=None, y=None):
    y = observed() if y is None else y
    beliefs, updates = [], []
    for i in hours:
        noise = batch().noise(np.full(C, i))
        belief, update = made.step(belief, Hour(weather()[i].unsqueeze(1), y[i].unsqueeze(-1), noise, doubt))
        beliefs.append(belief)
        updates.append(update)
    return beliefs, updates


def begun(made):
    x = batch().model.start(batch().parameters)
    return made.init(x, torch.diag_embed((0.1 * x[:, 0] + 0.01).square()), batch().noise(np.zeros(C, np.int64)))


def committee():
    every = {name: tensor.unflatten(0, (C, SEEDS)) for name, tensor in weights().items()}
    return replace(batch(), build=with_networks(sigma.ukf), networks=Trained(every))


def test_nothing_observed_is_a_forecast_bit_for_bit():
    made = lstm.lstm_gain(batch().system, weights=single())
    (*_, belief), _ = run(made, begun(made), range(20))
    hour = Hour(
        weather()[20].unsqueeze(1), torch.full((C, 1), torch.nan).double(), batch().noise(np.zeros(C, np.int64))
    )
    after, update = made.step(belief, hour)
    expected = named(made.forecast(belief, hour))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in named(after).items())
    assert not update.shift.any()


def test_one_correction_is_the_one_of_the_equations():
    made, w = lstm.lstm_gain(batch().system, weights=single()), single()
    prior = begun(made)
    hour = Hour(weather()[0].unsqueeze(1), observed()[0].unsqueeze(-1), batch().noise(np.zeros(C, np.int64)))
    moved = made.forecast(prior, hour).mean[:, 0]
    after, _ = made.step(prior, hour)
    n = len(batch().model.states)
    q = batch().system.see(moved[:, None, :n])[:, 0]
    d = hour.observation - q
    r = d / (0.5 * (hour.observation + q) + 0.02 * w["fixed.flow"])
    out = (w["last.weight"] @ after.hidden[:, 0].unsqueeze(-1) + w["last.bias"])[..., 0]
    g = torch.tanh(out[:, :n])
    stores = batch().system.stores
    room = torch.where(stores, moved[:, :n] + 0.1 * w["fixed.content"], 1.0)
    state = moved[:, :n] + w["fixed.reach"] * g * room * r
    state = torch.where(stores, state.clamp(min=0.0), state.clamp(-0.7, 0.7))
    error = (w["error"] + out[:, n : n + 3]) * d  # there was no innovation before
    torch.testing.assert_close(after.mean[:, 0], torch.cat((state, error), -1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(after.innovation, d)


def test_stores_stay_what_they_can_be_whatever_the_network_says():
    wild = weights(50.0)
    made = lstm.lstm_gain(batch().system, weights={name: tensor[::SEEDS] for name, tensor in wild.items()})
    y = observed() * torch.from_numpy(np.exp(2.0 * GENERATOR.normal(size=observed().shape)))
    beliefs, _ = run(made, begun(made), range(T), y=y)
    n = len(batch().model.states)
    states = torch.stack([belief.mean[:, 0, :n] for belief in beliefs])
    stores, ceiling = batch().system.stores, wild["fixed.ceiling"][::SEEDS]
    assert (states[..., stores] >= 0.0).all() and (states <= ceiling).all() and torch.isfinite(states).all()
    assert (states[..., ~stores].abs() <= 0.7).all()


def test_one_run_is_two_with_a_file_between():
    for made in (lstm.lstm_gain(batch().system, weights=single()), committee().filter):
        whole, _ = run(made, begun(made), range(T))
        first, _ = run(made, begun(made), range(25))
        kept = built(
            kind(first[-1]), {name: torch.from_numpy(t.numpy().copy()) for name, t in named(first[-1]).items()}
        )
        second, _ = run(made, kept, range(25, T))
        for a, b in zip(named(whole[-1]).values(), named(second[-1]).values(), strict=True):
            assert torch.equal(a, b)


def test_a_catchment_alone_is_the_catchment_among_others():
    every = committee()
    whole, _ = run(every.filter, begun(every.filter), range(30))
    for c in range(C):
        alone = every.rows(np.array([c]))
        belief = mapped(lambda x, c=c: x[c : c + 1], begun(every.filter))
        for i in range(30):
            hour = Hour(weather()[i, c][None, None], observed()[i, c][None, None], alone.noise(np.array([i])))
            belief, _ = alone.filter.step(belief, hour)
        for a, b in zip(named(whole[-1]).values(), named(belief).values(), strict=True):
            torch.testing.assert_close(a[c : c + 1], b, rtol=1e-11, atol=1e-12)


def test_a_gradient_through_gains_and_a_day_ahead_is_that_of_differences():
    world = batch()
    names = ("last.weight", "memory.weight", "error")

    def loss(*values):
        made = lstm.lstm_gain(world.system, weights=single() | dict(zip(names, values, strict=True)))
        (*_, belief), _ = run(made, begun(made), range(8))
        x = belief.mean
        total = 0.0
        for u in weather()[8:32]:
            x = made.system.move(x, u.unsqueeze(1))
            total = total + made.system.see(x).square().sum()
        return total

    values = [single()[name].clone().requires_grad_() for name in names]
    gradients = torch.autograd.grad(loss(*values), values)
    for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(i)).double()
        shifted = [[v.detach() for v in values] for _ in range(2)]
        for side, sign in zip(shifted, (1.0, -1.0), strict=True):
            side[i] = side[i] + sign * 1e-6 * direction
        by_differences = (loss(*shifted[0]) - loss(*shifted[1])) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), by_differences, rtol=1e-5, atol=1e-8)


def test_networks_beside_a_filter_leave_it_alone_and_forecast_their_mean():
    own = replace(batch(), build=sigma.ukf)
    (*_, alone), before = run(own.filter, begun(own.filter), range(30))
    beside = committee()
    (*_, belief), updates = run(beside.filter, begun(beside.filter), range(30))
    assert torch.equal(belief.state.mean, alone.mean) and torch.equal(belief.cov, alone.cov)
    assert torch.equal(updates[-1].innovation, before[-1].innovation)
    ahead = weather()[30 : 30 + LEADS.size]
    plain, both = (
        rollout(made, end, begun(own.filter).mean, ahead, np.full(C, 30))
        for made, end in ((own, alone), (beside, belief))
    )
    torch.testing.assert_close(plain.median, both.median)
    torch.testing.assert_close(plain.variance, both.variance)
    torch.testing.assert_close(plain.open_loop, both.open_loop)
    assert plain.networks is None
    each = []
    for i in range(SEEDS):
        made = lstm.lstm_gain(batch().system, weights={name: tensor[i::SEEDS] for name, tensor in weights().items()})
        (*_, end), _ = run(made, begun(made), range(30))
        x, flow = end.mean, []
        for u in ahead:
            x = made.system.move(x, u.unsqueeze(1))
            flow.append(made.system.see(x)[:, 0, 0])
        each.append(torch.stack(flow))
    torch.testing.assert_close(both.networks, torch.stack(each).mean(0))
    assert (each[0] - each[1]).abs().max() > 0.0


def test_a_suspect_observation_is_none_for_a_network():
    made = committee().filter
    (*_, belief), _ = run(made, begun(made), range(10))
    noise = batch().noise(np.full(C, 10))
    hour = Hour(weather()[10].unsqueeze(1), observed()[10].unsqueeze(-1), noise, torch.full((C, 1), 9.0).double())
    after, _ = made.step(belief, hour)
    untouched = made.forecast(belief, hour)
    assert torch.equal(after.networks.guided, untouched.networks.guided) and not torch.equal(
        after.state.mean, untouched.state.mean
    )


def test_networks_are_asked_for():
    with pytest.raises(ValueError, match="hydroda train"):
        with_networks(sigma.ukf)(batch().system)
    foreign = single() | {"fixed.content": torch.ones(C, 4).double()}
    with pytest.raises(ValueError, match="weights are for 4 states, the model has 6"):
        lstm.lstm_gain(batch().system, weights=foreign)


def test_rows_of_trained_networks_are_theirs():
    trained = committee().networks
    some = trained.rows(torch.tensor([2, 0, 2])).rows(torch.tensor([1, 0]))
    assert torch.equal(some["error"], trained["error"].unflatten(0, (C, SEEDS))[[0, 2]].flatten(0, 1))
    assert some.seeds == SEEDS


def test_a_loss_may_know_the_first_leads_only(monkeypatch):
    for name, value in (("WINDOW", 24), ("SETTLE", 8), ("LENGTH", 48), ("WARM", 6), ("CHUNK", 12)):
        monkeypatch.setattr(gains, name, value)
    world = batch().rows(np.array([1]))
    states = torch.ones(T + LEADS.size, len(world.model.states), dtype=torch.float64)
    past = Past(weather()[:, 1], observed()[:, 1], states)
    series = gains.series(past, world, states[:2], np.array([0, 5]), gains.LENGTH)
    made = lstm.lstm_gain(world.rows(np.array([0, 0])).system, weights={n: t[[2, 2]] for n, t in weights().items()})
    every = gains.errors(made, begin(made, series), series, range(8, 24, 2), LEADS.tolist())
    first = gains.errors(made, begin(made, series), series, range(8, 24, 2), (1, 3))
    assert all(torch.equal(few, all_of[[0, 2]]) for few, all_of in zip(first[:2], every[:2], strict=True))
    base = Reference(*(torch.linspace(0.1, 1.0, LEADS.size, dtype=torch.float64) * x for x in (0.01, 0.1)))
    loss, _ = gains.teaching(base, 1, (1, 3))(made, begin(made, series), series)
    parts = [
        torch.log1p(torch.nanmean(square[i]) / reference[i])
        for square, reference in zip(every[:2], (base.runoff, base.root), strict=True)
        for i in (0, 2)
    ]
    torch.testing.assert_close(loss, torch.stack(parts).mean().expand(2))
    score, _ = gains.judging(base.runoff, 1, (3,))(made, begin(made, series), series)
    square = gains.errors(made, begin(made, series), series, range(6, 18, gains.SCORED), (3,))[0]
    torch.testing.assert_close(score, (torch.nanmean(square) / base.runoff[2]).expand(2))


def test_training_learns_what_is_wrong(tmp_path, monkeypatch):
    """Stores that drain too fast in the model: after a few steps the loss of the first network has fallen."""
    for name, value in (("WINDOW", 24), ("SETTLE", 8), ("LENGTH", 48), ("WINDOWS", 12), ("CHUNK", 30), ("WARM", 6)):
        monkeypatch.setattr(gains, name, value)
    world = batch().rows(np.array([1]))
    x, states = world.model.start(world.parameters), []
    for u in weather():
        x = world.system.move(x, u[1][None, None])
        states.append(x[0, 0])
    past = Past(weather()[:, 1], observed()[:, 1], torch.stack(states))
    series, rows = gains.windows(past, world, 0, len(states) - 1, SEEDS, 0)
    held = gains.chunks(past, world, 10, len(states) - 25)
    base = torch.full((LEADS.size,), 0.01, dtype=torch.float64)
    task = training.Task(
        lambda w, s: lstm.lstm_gain(world.rows(np.zeros(len(s.parameters), np.int64)).system, weights=w),
        gains.teaching(Reference(base, base), SEEDS, LEADS.tolist()),
        gains.judging(base, SEEDS, LEADS.tolist()),
        series,
        rows,
        held,
        torch.arange(held.mean.shape[0]).expand(SEEDS, -1),
    )
    stores = world.system.stores
    start = lstm.initial(lstm.scales(past.states, past.observed, stores), stores, range(SEEDS))
    plan = training.Plan(9, 4, gains.LENGTH, ((0, gains.LENGTH),), (1e-2, 1e-2), every=3)
    _, state = training.train(start, task, plan, tmp_path / "check")
    scores = np.array([score for _, _, score in state.history])
    assert (scores[-1] < scores[0]).all() and not state.skipped.any()
