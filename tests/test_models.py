"""Models: laws every model keeps, on a table of models; then what only one of them promises."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hydroda.models import hbv, linear
from hydroda.models.inputs import LARGEST_LOG_ERROR, MIXED_RANGE, corrected, degree_day
from hydroda.models.model import Model, Parameter, from_unit, to_unit
from hydroda.models.routing import lag, nash

CATCHMENTS, POINTS, SETS = 5, 8, 100  # no model has as many states, forcings or parameters
MM_PER_HOUR = hbv.AREA_ZWALM / 3.6  # m³/s


def as_proposed(model: Model, x: Tensor, p: Tensor) -> Tensor:
    """The water of any proposal counts, negative or not."""
    return x


def routing_non_negative(model: Model, x: Tensor, p: Tensor) -> Tensor:
    """The routing counts from empty, the rest as proposed."""
    held = x.clone()
    for i, state in enumerate(model.states):
        if state.name.startswith("routing"):
            held[..., i].clamp_(min=0.0)
    return held


def inside_bounds(model: Model, x: Tensor, p: Tensor) -> Tensor:
    """Stores count from empty, the soil up to its capacity."""
    held = x.clone()
    for i, state in enumerate(model.states):
        if state.water:
            held[..., i].clamp_(min=0.0)
    held[..., 0] = torch.minimum(held[..., 0], p[..., 0])
    return held


class Row(NamedTuple):
    """A model; the water its balance starts from, of states a filter proposes; whether its stores stay non-negative
    from any state ("always": the first is then the soil and the first parameter its capacity), from good ones, or
    never; hours of its step."""

    model: Model
    held: Callable[[Model, Tensor, Tensor], Tensor]
    non_negative: str
    hours: float = 1.0


ROWS = {
    "pauwels daily": Row(hbv.pauwels2013(24), as_proposed, "never", 24.0),
    "pauwels hourly": Row(hbv.pauwels2013(1), as_proposed, "never"),
    "pauwels capped": Row(hbv.pauwels2013(1, capped=True), as_proposed, "never"),
    "stores": Row(hbv.stores(), inside_bounds, "always"),
    "hourly": Row(hbv.hourly(), inside_bounds, "always"),
    "hourly snow": Row(hbv.hourly(temperature=True), inside_bounds, "always"),
    "lagged": Row(hbv.lagged(), inside_bounds, "always"),
    "lagged snow": Row(hbv.lagged(temperature=True), inside_bounds, "always"),
    "linear": Row(linear.reservoirs(2), as_proposed, "from non-negative"),
    "nash": Row(nash(linear.reservoirs(1), 3), routing_non_negative, "from non-negative"),
}
every = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
BOUNDED = {name: row for name, row in ROWS.items() if row.non_negative != "never"}
bounded = pytest.mark.parametrize("row", BOUNDED.values(), ids=BOUNDED.keys())


def tensor(values) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def uniform(random: np.random.Generator, lower: float, upper: float, *shape: int) -> Tensor:
    return tensor(random.uniform(lower, upper, shape))


def parameters(model: Model, seed: int, points: int = POINTS, corners: bool = False) -> Tensor:
    """Sets (catchment, points, parameter) from within the bounds of the table, or from its corners."""
    shape = (CATCHMENTS * points, len(model.parameters))
    random = np.random.default_rng(seed)
    z = random.integers(0, 2, shape).astype(float) if corners else random.uniform(size=shape)
    return tensor(from_unit(model.parameters, z)).reshape(CATCHMENTS, points, -1)


def forcing(model: Model, seed: int, dry: bool = False) -> Tensor:
    """Weather (catchment, 1, forcing), different in each catchment."""
    random = np.random.default_rng(seed)
    ranges = {"precipitation": (0.0, 0.0) if dry else (0.1, 9.0), "pet": (0.0, 0.6), "temperature": (-4.0, 9.0)}
    return torch.cat([uniform(random, *ranges[name], CATCHMENTS, 1, 1) for name in model.forcings], -1)


def states(model: Model, p: Tensor, seed: int, points: int = POINTS) -> Tensor:
    """States (catchment, points, state) of stores neither empty nor full."""
    random = np.random.default_rng(seed)
    x = uniform(random, 0.2, 20.0, CATCHMENTS, points, len(model.states))
    for i, state in enumerate(model.states):
        names = [q.name for q in model.parameters]
        if f"{state.name}_capacity" in names:
            x[..., i] = uniform(random, 0.05, 0.95, CATCHMENTS, points) * p[..., names.index(f"{state.name}_capacity")]
        elif not state.water:
            x[..., i] = uniform(random, -0.5, 0.5, CATCHMENTS, points)
    return x


def example(model: Model, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    p = parameters(model, seed)
    return states(model, p, seed + 1), forcing(model, seed + 2), p


def everything(model: Model, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
    """All a model answers, (catchment, point, number)."""
    new, fluxes = model.balance(x, u, p)
    flows = [flux.expand(new.shape[:-1]) for flux in fluxes]
    return torch.cat((new, model.discharge(x, p).expand(*new.shape[:-1], 1), torch.stack(flows, -1)), -1)


# ------------------------------------------------------------------------------------------------- laws of every model


@every
def test_the_axes_of_the_fixtures_differ_and_the_answers_have_them(row):
    x, u, p = example(row.model, 0)
    n = len(row.model.states)
    lengths = {n, len(row.model.parameters), len(row.model.forcings)}
    assert {CATCHMENTS, POINTS, SETS}.isdisjoint(lengths), "give CATCHMENTS and POINTS lengths that no model has"
    new, fluxes = row.model.balance(x, u, p)
    assert new.shape == (CATCHMENTS, POINTS, n)
    assert new.dtype == torch.float64
    assert all(f.expand(CATCHMENTS, POINTS).shape == (CATCHMENTS, POINTS) for f in fluxes)
    assert row.model.discharge(x, p).shape == (CATCHMENTS, POINTS, 1)
    assert row.model.storage(x).shape == (CATCHMENTS, POINTS)
    assert row.model.start(p).shape == (CATCHMENTS, POINTS, n)
    assert row.model.start(row.model.defaults).shape == (1, 1, n)
    torch.testing.assert_close(row.model.step(x, u, p), new, rtol=0, atol=0)


@every
def test_water_in_is_water_out_and_change_of_storage(row):
    for seed in range(20):
        x, u, p = example(row.model, 10 * seed)
        outside = np.random.default_rng(seed)
        wild = x + uniform(outside, -60.0, 60.0, *x.shape)  # negative contents
        wild[..., 0] = torch.where(uniform(outside, 0, 1, *wild.shape[:-1]) < 0.3, 1.3 * p[..., 0] + 9.0, wild[..., 0])
        for proposal in (x, wild):
            new, fluxes = row.model.balance(proposal, u, p)
            assert torch.isfinite(new).all()
            change = row.model.storage(new) - row.model.storage(row.held(row.model, proposal, p))
            scale = 1.0 + (proposal.abs() + new.abs()).sum(-1) + sum(f.abs() for f in fluxes)
            assert ((change - (fluxes.inflow - fluxes.evaporation - fluxes.outflow)).abs() / scale).max() < 1e-14


@every
def test_the_water_that_comes_in_is_the_rain(row):
    x, u, p = example(row.model, 1)
    rain = row.hours * u[..., 0]
    names = [q.name for q in row.model.parameters]
    if "rain_factor" in names:
        rain = rain * p[..., names.index("rain_factor")] * torch.exp(x[..., -1])
    torch.testing.assert_close(row.model.balance(x, u, p)[1].inflow.expand_as(rain), rain, rtol=1e-14, atol=0)


@every
def test_discharge_is_the_water_that_leaves(row):
    """In the hour that led to a state, or in a dry one after it; models that say it for a moment are near."""
    x, u, p = example(row.model, 3)
    for _ in range(5):
        x = row.model.step(x, u, p)
    new, wet = row.model.balance(x, u, p)
    dry = row.model.balance(x, forcing(row.model, 5, dry=True), p)[1]
    pairs = (new, wet.outflow), (x, dry.outflow)
    apart = [(row.hours * row.model.discharge(at, p)[..., 0] / left - 1).abs().max() for at, left in pairs]
    assert min(apart) < 0.03


@bounded
def test_stores_stay_inside_their_bounds_whatever_is_proposed(row):
    random = np.random.default_rng(3)
    p = parameters(row.model, 4)
    u = forcing(row.model, 5)
    water = [i for i, s in enumerate(row.model.states) if s.water]
    x = uniform(random, -500.0, 2000.0, CATCHMENTS, POINTS, len(row.model.states))
    if row.non_negative == "from non-negative":
        x = x.abs()
    for _ in range(48):
        x, fluxes = row.model.balance(x, u, p)
        assert (x[..., water] >= 0).all()
        assert (row.model.discharge(x, p) >= 0).all()
        assert all((f >= 0).all() for f in fluxes)
        if row.non_negative == "always":
            assert (x[..., 0] <= p[..., 0] * (1 + 1e-14)).all()


@every
def test_without_rain_the_river_recedes_and_gives_no_more_than_there_was(row):
    z = to_unit(row.model.parameters, row.model.defaults[0]) + np.random.default_rng(6).uniform(
        -0.06, 0.06, (CATCHMENTS * POINTS, len(row.model.parameters))
    )
    p = tensor(from_unit(row.model.parameters, z)).reshape(CATCHMENTS, POINTS, -1)
    wet, dry = forcing(row.model, 7), forcing(row.model, 8, dry=True)
    # not so wet that α s exceeds one, and the slow store above what percolation feeds: otherwise it could rise
    wet[..., 0] = 0.06 + 0.01 * torch.arange(CATCHMENTS)[:, None]
    wet[..., 1:2] = 0.15
    wet[..., 2:] = dry[..., 2:] = 12.0
    x = row.model.start(p)
    for i, state in enumerate(row.model.states):
        if state.name == "slow":
            x[..., i] = 60.0
    for _ in range(int(480 / row.hours)):
        x = row.model.step(x, wet, p)
    before, total = row.model.storage(x), 0.0
    settling = 1 if "routing_time" not in [q.name for q in row.model.parameters] else 30
    flows = []
    for _ in range(int(480 / row.hours)):
        x, fluxes = row.model.balance(x, dry, p)
        flows.append(row.model.discharge(x, p)[..., 0])
        total = total + fluxes.outflow + fluxes.evaporation
    flow = torch.stack(flows)[settling:]
    assert (flow[0] > 1e-4).all()
    assert (flow.diff(dim=0) <= 0).all()
    assert (flow[-1] < 0.8 * flow[0]).all()
    assert (total <= before * (1 + 1e-12)).all()


@every
def test_a_batch_is_its_members_one_by_one_bit_for_bit(row):
    x, u, population = example(row.model, 20)
    for p in (population, population[:, :1]):
        whole = everything(row.model, x, u, p)
        for c in range(CATCHMENTS):
            one = slice(c, c + 1)
            assert torch.equal(everything(row.model, x[one], u[one], p[one]), whole[one])
        for k in range(POINTS):
            own = p[:, k : k + 1] if p.shape[1] > 1 else p
            assert torch.equal(everything(row.model, x[:, k : k + 1], u, own), whole[:, k : k + 1])
            alone = everything(row.model, x[2:3, k : k + 1], u[2:3], own[2:3])
            assert torch.equal(alone, whole[2:3, k : k + 1])


@every
def test_the_layout_in_memory_changes_no_bit(row):
    x, u, p = example(row.model, 21)
    by_component = [a.movedim(-1, 0).contiguous().movedim(0, -1) for a in (x, u, p)]
    assert torch.equal(everything(row.model, *by_component), everything(row.model, x, u, p))


@every
def test_catchments_in_another_order_give_the_same_in_that_order(row):
    x, u, p = example(row.model, 22)
    order = torch.tensor([3, 0, 4, 2, 1])
    whole = everything(row.model, x, u, p)
    assert torch.equal(everything(row.model, x[order], u[order], p[order]), whole[order])
    assert all((whole[i] != whole[j]).any() for i in range(CATCHMENTS) for j in range(i))


@every
def test_the_arguments_are_left_alone(row):
    arguments = example(row.model, 23)
    arguments[0][:, 0] = -5.0
    copies = [a.clone() for a in arguments]
    everything(row.model, *arguments)
    row.model.start(arguments[2])
    row.model.storage(arguments[0])
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


@every
def test_gradients_are_central_differences(row):
    for seed in (30, 40, 50):
        arguments = example(row.model, seed)
        weights = uniform(np.random.default_rng(seed), 0.5, 1.5, len(row.model.states) + 4)
        leaves = [a.clone().requires_grad_() for a in arguments]
        gradients = torch.autograd.grad((everything(row.model, *leaves) @ weights).sum(), leaves)
        for which, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
            for i in range(argument.shape[-1]):
                step = 1e-6 * argument[..., i].abs().clamp(min=1e-3)
                ends = []
                for sign in (1.0, -1.0):
                    moved = argument.clone()
                    moved[..., i] += sign * step
                    value = everything(row.model, *arguments[:which], moved, *arguments[which + 1 :]) @ weights
                    ends.append(value.sum(1, keepdim=True) if which == 1 else value)
                difference = (ends[0] - ends[1]) / (2 * step)
                # what the value loses to rounding is the noise of the difference
                noise = 1e-6 * difference.abs() + 1e-14 * (1 + ends[0].abs()) / step
                assert ((difference - gradient[..., i]).abs() <= noise).all(), (which, i)


@every
def test_gradients_are_finite_at_empty_and_at_full_stores(row):
    p = torch.cat((parameters(row.model, 60), parameters(row.model, 61, corners=True)), 1)
    names = [q.name for q in row.model.parameters]
    for filling in (0.0, 1.0):
        x = torch.zeros(CATCHMENTS, 2 * POINTS, len(row.model.states), dtype=torch.float64)
        for i, state in enumerate(row.model.states):
            if f"{state.name}_capacity" in names:
                x[..., i] = filling * p[..., names.index(f"{state.name}_capacity")]
        for u in (forcing(row.model, 62), torch.zeros_like(forcing(row.model, 62))):
            leaves = [a.clone().requires_grad_() for a in (x, u, p)]
            value = everything(row.model, *leaves)
            assert torch.isfinite(value).all()
            for gradient in torch.autograd.grad(value.sum(), leaves):
                assert torch.isfinite(gradient).all()


@bounded
@pytest.mark.parametrize("corners", [False, True], ids=["random sets", "corners"])
def test_extreme_parameters_and_weather_stay_finite_and_non_negative(row, corners):
    p = parameters(row.model, 70, SETS, corners)
    x = row.model.start(p)
    water = [i for i, s in enumerate(row.model.states) if s.water]
    extremes = {"precipitation": (200.0, 0.0), "pet": (0.0, 3.0), "temperature": (40.0, -50.0)}
    for hour in range(60):
        u = forcing(row.model, 71)
        for i, name in enumerate(row.model.forcings):  # floods, droughts, and some snow in the flood
            u[..., i] = extremes[name][(hour // 20 + (name == "temperature" and hour % 3 == 0)) % 2]
        x, fluxes = row.model.balance(x, u, p)
        for value in (x, row.model.discharge(x, p), *fluxes):
            assert torch.isfinite(value).all()
        assert (x[..., water] >= 0).all()
        assert (row.model.discharge(x, p) >= 0).all()
        assert all((f >= 0).all() for f in fluxes)


@every
def test_one_step_from_a_good_state_is_finite_for_extreme_parameters(row):
    for corners in (False, True):
        p = parameters(row.model, 72, SETS, corners)
        u = forcing(row.model, 73)
        u[..., 0] = 200.0
        assert torch.isfinite(everything(row.model, states(row.model, p, 74, SETS), u, p)).all()


@every
def test_what_is_not_a_number_stays_visible(row):
    x, u, p = example(row.model, 75)
    u[1] = np.nan
    new = row.model.step(x, u, p)
    assert torch.isnan(new[1]).any(-1).all()
    assert torch.isfinite(new[[0, 2, 3, 4]]).all()
    for i in range(x.shape[-1]):
        x, u, p = example(row.model, 75)
        x[3, 2, i] = np.nan
        for _ in range(5):
            x = row.model.step(x, u, p)
            lasting = row.model.states[i].name != "underway"  # the water of one hour, passed on
            assert torch.isnan(x[3, 2, i] if lasting else x[3, 2]).any()
        lost = torch.isnan(row.model.discharge(x, p))
        assert lost[3, 2].all()
        assert lost.sum() == 1


@every
def test_the_start_is_a_state_inside_the_bounds(row):
    p = parameters(row.model, 76, SETS)
    start = row.model.start(p)
    assert (start >= 0).all()
    torch.testing.assert_close(row.held(row.model, start, p), start, rtol=0, atol=0)


@every
def test_the_tables_have_distinct_names_and_bounds_a_search_can_use(row):
    for table in (row.model.states, row.model.parameters, row.model.forcings):
        names = [getattr(entry, "name", entry) for entry in table]
        assert len(set(names)) == len(names)
    assert all(q.lower < q.upper for q in row.model.parameters)
    assert all(q.lower > 0 for q in row.model.parameters if q.log)
    assert {q.role for q in row.model.parameters} <= {"model", "filter"}


# ----------------------------------------------------------------------------------------------- Pauwels et al. (2013)


def test_the_defaults_are_table_2_in_published_units():
    ours = {q.name: q.default for q in hbv.pauwels2013(24).parameters}
    mm_per_m, seconds = 1000.0, 3600.0
    assert ours == pytest.approx(
        {
            "evaporation_threshold": 1.228,
            "soil_capacity": 0.322 * mm_per_m,
            "infiltration_shape": 1.219,
            "percolation": 1.077e-8 * mm_per_m * seconds,
            "percolation_shape": 1.326,
            "fast_share": 1.512,
            "slow_rate": 6.916e-7 * seconds,
            "fast_rate": 1.369e-7 * mm_per_m * seconds,
            "fast_capacity": 0.01726 * mm_per_m,
            "fast_shape": 1.049,
        },
        rel=1e-12,
    )
    assert ours["fast_rate"] == pytest.approx(0.49284)
    assert ours["slow_rate"] == pytest.approx(0.0024898, abs=5e-8)
    assert ours["percolation"] == pytest.approx(0.038772)


def test_a_full_fast_store_gives_its_rate_times_the_area():
    model = hbv.pauwels2013(24)
    full = tensor([[[100.0, 0.0, 17.26]]])
    assert model.discharge(full, model.defaults).item() * MM_PER_HOUR == pytest.approx(15.6, abs=0.05)


def test_the_deterministic_rollout_is_that_of_an_independent_implementation():
    # an hourly step, the discharge that of the state after it; start: the analysis of a UKF (filterpy) at hour 240
    model = hbv.pauwels2013(1)
    x, u = tensor([[[155.078824982, 13.318712375, 1.940484597]]]), tensor([[[0.5, 0.1]]])
    found = {}
    for lead in range(1, 25):
        x = model.step(x, u, model.defaults)
        found[lead] = model.discharge(x, model.defaults).item() * MM_PER_HOUR
    assert [found[lead] for lead in (1, 6, 24)] == pytest.approx([2.767295979, 3.396536157, 5.170090249], abs=1e-6)
    assert x.flatten().tolist() == pytest.approx([158.995757676, 14.683974995, 4.712878219], abs=1e-6)


def test_one_daily_step_written_out_in_numbers():
    model = hbv.pauwels2013(24)
    x, (rain, pet) = (200.0, 20.0, 5.0), (0.4, 0.05)
    s = x[0] / 322.0
    infiltration = (1 - s) ** 1.219 * rain
    evaporation = s * pet / 1.228
    percolation = 0.0387720 * (1 - np.exp(-1.326 * s))
    to_fast = 1.512 * s * (rain - infiltration)
    slow, fast = 6.916e-7 * 3600 * x[1], 0.49284 * (x[2] / 17.26) ** 1.049
    expected = (
        x[0] + 24 * (infiltration - evaporation - percolation),
        x[1] + 24 * (rain - infiltration - to_fast - slow + percolation),
        x[2] + 24 * (to_fast - fast),
    )
    new, fluxes = model.balance(tensor([[x]]), tensor([[[rain, pet]]]), model.defaults)
    assert new.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert [f.item() for f in fluxes] == pytest.approx([24 * rain, 24 * evaporation, 24 * (slow + fast)], rel=1e-12)
    assert model.discharge(tensor([[x]]), model.defaults).item() == pytest.approx(slow + fast, rel=1e-12)


@pytest.mark.parametrize("filling", [0.4, 0.9])
def test_a_fast_share_above_one_draws_on_the_slow_store_unless_capped(filling):
    u = tensor([[[5.0, 0.0]]])
    x = tensor([[[filling * 322.0, 0.0, 0.0]]])
    free, capped = (hbv.pauwels2013(1, capped=c) for c in (False, True))
    published, limited = (m.step(x, u, m.defaults)[0, 0] for m in (free, capped))
    percolation = 0.038772 * (1 - np.exp(-1.326 * filling))
    excess = 5.0 * (1 - (1 - filling) ** 1.219)
    assert published[1].item() == pytest.approx((1 - 1.512 * filling) * excess + percolation, rel=1e-9)
    assert published[2].item() == pytest.approx(1.512 * filling * excess, rel=1e-9)
    if filling * 1.512 <= 1:
        assert torch.equal(published, limited)
    else:
        assert published[1] < 0
        assert limited[1].item() == pytest.approx(percolation, rel=1e-9)
        assert limited[2].item() == pytest.approx(excess, rel=1e-9)
        assert published.sum().item() == pytest.approx(limited.sum().item(), rel=1e-14)


def test_an_overfull_soil_and_a_negative_fast_store_do_not_break_the_powers():
    model = hbv.pauwels2013(1)
    x, u = tensor([[[400.0, 10.0, -3.0]]]), tensor([[[2.0, 0.0]]])
    new = model.step(x, u, model.defaults)[0, 0]
    s = 400.0 / 322.0
    assert new[0].item() == pytest.approx(400.0 - 0.038772 * (1 - np.exp(-1.326 * s)), rel=1e-9)  # nothing infiltrates
    assert new[2].item() == pytest.approx(-3.0 + 1.512 * s * 2.0, rel=1e-12)  # and nothing drains
    assert model.discharge(x, model.defaults).item() == pytest.approx(6.916e-7 * 3600 * 10.0, rel=1e-12)


# ------------------------------------------------------------------------------------------- the hourly three stores


def test_the_fast_store_drains_with_its_rate_frozen_over_the_hour():
    model = hbv.stores()
    p = model.defaults
    x = tensor([[[0.0, 30.0, 25.0]]])
    rate = 0.05 * 2.5**0.3
    drained = 30.0 * (1 - np.exp(-2e-3)) + 25.0 * (1 - np.exp(-rate))
    assert model.discharge(x, p).item() == pytest.approx(drained, rel=1e-12)
    assert model.balance(x, tensor([[[0.0, 0.4]]]), p)[1].outflow.item() == pytest.approx(drained, rel=1e-12)


def test_evaporation_is_potential_above_the_threshold_and_in_proportion_below():
    model = hbv.stores()
    capacity, threshold = model.defaults[0, 0, [0, 2]].tolist()
    for filling, share in ((0.95, 1.0), (0.75, 1.0), (0.35, 0.35 / threshold), (0.0, 0.0)):
        x = tensor([[[filling * capacity, 5.0, 5.0]]])
        evaporation = model.balance(x, tensor([[[0.0, 0.4]]]), model.defaults)[1].evaporation.item()
        assert evaporation == pytest.approx(0.4 * share, rel=1e-12)


def test_a_full_soil_sends_all_rain_to_the_river_and_a_dry_one_keeps_it():
    model = hbv.stores()
    capacity = model.defaults[0, 0, 0].item()
    full = model.step(tensor([[[capacity, 0.0, 0.0]]]), tensor([[[3.0, 0.0]]]), model.defaults)[0, 0]
    still = model.step(tensor([[[capacity, 0.0, 0.0]]]), tensor([[[0.0, 0.0]]]), model.defaults)[0, 0]
    assert full[0] == still[0]
    assert full[1] == still[1]
    assert full[2].item() == pytest.approx(3.0 * np.exp(-0.05 * 0.3**0.3), rel=1e-12)
    dry = model.step(tensor([[[0.0, 0.0, 0.0]]]), tensor([[[3.0, 0.0]]]), model.defaults)[0, 0]
    assert dry[0].item() == pytest.approx(3.0, rel=1e-3)
    assert dry[2] == 0


# ------------------------------------------------------------------------------------------------- linear reservoirs


def test_a_linear_reservoir_recedes_geometrically():
    model = linear.reservoirs(1)
    p = parameters(model, 80)
    x0 = x = states(model, p, 81)
    for k in range(1, 31):
        x = model.step(x, forcing(model, 82, dry=True), p)
        torch.testing.assert_close(x, x0 * (1 - p) ** k, rtol=1e-13, atol=0)


def test_linear_reservoirs_settle_at_rain_over_rate():
    model = linear.reservoirs(2)
    p = 0.05 + 0.9 * uniform(np.random.default_rng(83), 0, 1, CATCHMENTS, POINTS, 2)
    u = forcing(model, 84)
    x = torch.zeros(CATCHMENTS, POINTS, 2, dtype=torch.float64)
    for _ in range(900):
        x = model.step(x, u, p)
    torch.testing.assert_close(x, u / p, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.discharge(x, p), u.expand(-1, POINTS, -1), rtol=1e-12, atol=0)


# ----------------------------------------------------------------------------------------------------------- routing


@pytest.mark.parametrize("name", ["hourly", "hourly snow", "lagged", "lagged snow", "nash"])
def test_the_discharge_of_a_routed_state_is_what_drained_in_the_hour_just_ended(name):
    model = ROWS[name].model
    x, _, p = example(model, 90)
    for hour in range(20):
        x, fluxes = model.balance(x, forcing(model, 91 + hour, dry=hour > 9), p)
        torch.testing.assert_close(model.discharge(x, p)[..., 0], fluxes.outflow, rtol=1e-12, atol=1e-15)


def test_a_pulse_leaves_a_cascade_whole_after_its_residence_times():
    model = nash(linear.reservoirs(1), 3)
    times = torch.linspace(0.3, 24.0, CATCHMENTS, dtype=torch.float64)
    rate = torch.linspace(0.1, 1.0, POINTS, dtype=torch.float64)
    p = torch.stack(torch.broadcast_tensors(rate, times[:, None]), -1)
    x = torch.zeros(CATCHMENTS, POINTS, 4, dtype=torch.float64)
    flows = []
    for hour in range(1500):
        u = torch.full((CATCHMENTS, 1, 1), 1.0 if hour == 0 else 0.0, dtype=torch.float64)
        x = model.step(x, u, p)
        flows.append(model.discharge(x, p)[..., 0])
    flow = torch.stack(flows)
    torch.testing.assert_close(flow.sum(0), torch.ones_like(flow[0]), rtol=1e-12, atol=0)
    hours = torch.arange(1500, dtype=torch.float64)[:, None, None]
    centroid = (hours * flow).sum(0) - 1 / rate  # the explicit reservoir in front delays by exactly 1/κ
    kept = torch.exp(-1 / times)
    torch.testing.assert_close(centroid, (3 * kept / (1 - kept))[:, None].expand_as(centroid), rtol=1e-9, atol=1e-9)
    # a reservoir passes on in the hour it receives, on average half an hour early
    assert ((centroid / 3 + 0.5 - times[:, None]).abs() <= 1 / (12 * times[:, None]) + 1e-9).all()


def test_a_lag_delivers_its_share_an_hour_later_and_the_rest_at_once():
    model, plain = lag(linear.reservoirs(1)), linear.reservoirs(1)
    x, u, p = example(model, 95)
    x[..., 1] = 0.0
    left = x[..., :1]
    before = torch.zeros(CATCHMENTS, POINTS, dtype=torch.float64)
    for hour in range(20):
        rain = u if hour < 5 else torch.zeros_like(u)
        x, fluxes = model.balance(x, rain, p)
        left, drained = plain.balance(left, rain, p[..., :1])
        share = p[..., 1]
        torch.testing.assert_close(fluxes.outflow, (1 - share) * drained.outflow + before, rtol=1e-12, atol=1e-15)
        before = share * drained.outflow
        assert torch.equal(x[..., :1], left)


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_rain_is_seen_in_the_river_an_hour_later_where_all_of_it_lags(delay):
    model = hbv.lagged()
    p = model.defaults.clone()
    p[..., [q.name for q in model.parameters].index("delay")] = delay
    dry = wet = model.start(p)
    told = []
    for hour in range(2):
        dry = model.step(dry, tensor([[[0.0, 0.1]]]), p)
        wet = model.step(wet, tensor([[[9.0 if hour == 0 else 0.0, 0.1]]]), p)
        told.append((model.discharge(wet, p) - model.discharge(dry, p)).item())
    assert (told[0] == 0.0) == (delay == 1.0)
    assert told[1] > 0.01


# ------------------------------------------------------------------------------------------------ snow, correction


def snowy() -> tuple[Model, Tensor]:
    """One reservoir behind snow: states (store, snow), forcing (precipitation, temperature)."""
    model = degree_day(linear.reservoirs(1))
    return model, model.defaults


def test_all_is_snow_in_the_cold_and_all_of_it_melts_in_the_end():
    model, p = snowy()
    x = tensor([[[4.0, 0.0]]])
    for hour in range(1, 21):
        x = model.step(x, tensor([[[1.5, -8.0]]]), p)
        assert x[0, 0, 1].item() == pytest.approx(1.5 * hour)
        assert x[0, 0, 0].item() == pytest.approx(4.0 * 0.9**hour)
    left, total = 30.0 + x[0, 0, 0].item(), 0.0
    for hour in range(400):
        x, fluxes = model.balance(x, tensor([[[0.0, 4.5]]]), p)  # four degrees of 0.12 mm/h each
        total += fluxes.outflow.item()
        assert x[0, 0, 1].item() == pytest.approx(max(30.0 - (hour + 1) * 0.48, 0.0), abs=1e-9)
    assert x[0, 0, 1] == 0
    assert total == pytest.approx(left)


def test_snow_and_rain_mix_in_proportion_around_the_threshold():
    model, p = snowy()
    threshold, factor = p[0, 0, 1:].tolist()
    for warmth in (-5.0, -1.0, -0.6, -0.25, 0.0, 0.25, 0.6, 1.0, 5.0):
        x, fluxes = model.balance(tensor([[[0.0, 90.0]]]), tensor([[[2.0, threshold + warmth]]]), p)
        melt = factor * max(warmth, 0.0)
        snow = 2.0 * min(max((MIXED_RANGE - warmth) / (2 * MIXED_RANGE), 0.0), 1.0)
        assert x[0, 0, 1].item() == pytest.approx(90.0 + snow - melt, rel=1e-13)
        assert x[0, 0, 0].item() == pytest.approx(2.0 - snow + melt, rel=1e-12)
        assert fluxes.inflow.item() == 2.0


def test_melt_is_never_more_than_the_pack():
    model, p = snowy()
    for pack in (0.05, -3.0):
        x = model.step(tensor([[[0.0, pack]]]), tensor([[[0.0, 20.0]]]), p)
        assert x.flatten().tolist() == pytest.approx([max(pack, 0.0), 0.0])


def test_the_rain_error_multiplies_rain_within_limits_and_fades():
    model = corrected(hbv.stores())
    p = parameters(model, 95)
    rain_factor, pet_factor, memory = p[..., -3:].unbind(-1)
    u = forcing(model, 96)
    x = states(model, p, 97)
    for error in (-4.0, -0.7, -0.3, 0.0, 0.3, 0.7, 4.0):
        x[..., -1] = error
        new, fluxes = model.balance(x, u, p)
        limited = min(max(error, -LARGEST_LOG_ERROR), LARGEST_LOG_ERROR)
        rain = u[..., 0] * rain_factor * np.exp(limited)
        torch.testing.assert_close(fluxes.inflow, rain, rtol=1e-14, atol=0)
        torch.testing.assert_close(new[..., -1], error * torch.exp(-1 / memory), rtol=1e-14, atol=0)
        given = torch.stack((rain, u[..., 1] * pet_factor), -1)
        expected, plain = hbv.stores().balance(x[..., :-1], given, p[..., :-3])
        torch.testing.assert_close(new[..., :-1], expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(fluxes.evaporation, plain.evaporation, rtol=1e-13, atol=0)
    assert LARGEST_LOG_ERROR == 0.7


def test_the_rain_error_holds_no_water_and_its_memory_is_tuned_with_the_filter():
    model = hbv.hourly()
    assert [s.name for s in model.states if not s.water] == ["rain_error"]
    assert [s.name for s in model.states if not s.relative] == ["rain_error"]
    assert [q.name for q in model.parameters if q.role == "filter"] == ["rain_memory"]


def test_what_an_input_adds_stands_last():
    model = hbv.hourly(temperature=True)
    assert model.forcings == ("precipitation", "pet", "temperature")
    names = [s.name for s in model.states]
    assert names == ["soil", "slow", "fast", "routing_1", "routing_2", "snow", "rain_error"]


def test_the_warm_forecast_model_is_the_one_without_snow():
    cold, warm = hbv.hourly(temperature=True), hbv.hourly()
    x, u, p = example(cold, 98)
    x[..., 5] = 0.0
    u[..., 2] = 15.0
    keep = [i for i, q in enumerate(cold.parameters) if q in warm.parameters]
    new = cold.step(x, u, p)
    assert torch.equal(new[..., [0, 1, 2, 3, 4, 6]], warm.step(x[..., [0, 1, 2, 3, 4, 6]], u[..., :2], p[..., keep]))
    assert (new[..., 5] == 0).all()


# ----------------------------------------------------------------------------------------------------------- tables

ALL_PARAMETERS = tuple({q: None for row in ROWS.values() for q in row.model.parameters})


@given(st.lists(st.floats(0, 1), min_size=len(ALL_PARAMETERS), max_size=len(ALL_PARAMETERS)))
def test_from_unit_and_to_unit_are_inverse(z):
    values = from_unit(ALL_PARAMETERS, np.array([z]))
    for value, q in zip(values[0], ALL_PARAMETERS, strict=True):
        slack = 1e-12 * (abs(q.lower) + abs(q.upper))
        assert q.lower - slack <= value <= q.upper + slack
    np.testing.assert_allclose(to_unit(ALL_PARAMETERS, values), [z], atol=1e-12)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_to_unit_and_from_unit_are_inverse_too(shares):
    table = (Parameter("a", "1", "", -2.0, 5.0, 0.0), Parameter("b", "1", "", 1e-4, 3.0, 1.0, log=True))
    values = np.array([[-2.0 + 7.0 * share, 1e-4 + (3.0 - 1e-4) * share] for share in shares])
    np.testing.assert_allclose(from_unit(table, to_unit(table, values)), values, rtol=1e-12, atol=1e-12)


def test_the_ends_and_the_middle_of_the_unit_cube():
    table = (Parameter("a", "1", "", -2.0, 6.0, 0.0), Parameter("b", "1", "", 0.01, 100.0, 1.0, log=True))
    found = from_unit(table, np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0], [-3.0, 7.0]]))
    np.testing.assert_allclose(found, [[-2.0, 0.01], [2.0, 1.0], [6.0, 100.0], [-2.0, 100.0]], rtol=1e-14)
    np.testing.assert_allclose(to_unit(table, np.array([[-9.0, 1e-6], [9.0, 1e6]])), [[0.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize("default", [0.9, 4.1, float("nan")])
def test_a_default_outside_the_bounds_is_refused(default):
    with pytest.raises(ValueError, match=r"parameter κ: default .* outside \[1.0, 4.0\]"):
        Parameter("κ", "h-1", "rate", 1.0, 4.0, default)


def test_an_unknown_forcing_is_refused_by_name():
    with pytest.raises(ValueError, match=r"linear.reservoirs: unknown forcing \['snowfall'\]; known are .*'pet'"):
        dataclasses.replace(linear.reservoirs(2), forcings=("precipitation", "snowfall"))
