"""What a run may look at: gaps are filled from what was known, judgements follow the clock, borders are no borders."""

import numpy as np
import pytest

from hydroda import quality
from hydroda.forecast import known, weather, window
from hydroda.forecast.weather import Climate
from hydroda.forecast.window import CONTEXT, DOUBT, Place
from hydroda.schema import LEADS
from hydroda.schema import hours as hours_between
from hydroda.storage import records
from hydroda.units import HOUR

START = np.datetime64("2003-03-01T00", "ns")
COUNT = 500
FORCINGS = ("precipitation", "pet", "temperature")
MONTHS = tuple(float(m) for m in range(12))
CLIMATES = (Climate(47.0, 9.0, "oudin", 500.0, MONTHS), Climate(None, None, "given", 600.0))
CUT_OFF = np.timedelta64(10, "m")


@pytest.fixture(scope="module")
def stretch():
    return hours_between(START, START + (COUNT - 1) * HOUR)


@pytest.fixture(scope="module")
def places():
    history = 5.0 + 3.0 * np.sin(np.arange(3000) / 50)
    return tuple(
        Place(name, area, quality.limits_from(history, area), climate)
        for name, area, climate in zip(("ach", "inn"), (50.0, 80.0), CLIMATES, strict=True)
    )


def series(rng, missing=0.1):
    values = {
        "precipitation": np.maximum(rng.normal(size=(COUNT, 2)), 0.0),
        "temperature": 5.0 + rng.normal(size=(COUNT, 2)),
        "pet": rng.uniform(0.0, 0.3, (COUNT, 2)),
        "discharge": 5.0 + 3.0 * np.sin(np.arange(COUNT) / 50)[:, None] + rng.normal(0, 0.05, (COUNT, 2)),
    }
    for column in values.values():
        column[rng.random(column.shape) < missing] = np.nan
    return values


def test_forcing_is_complete_and_gaps_are_filled_in_the_order_promised(stretch):
    values = series(np.random.default_rng(1), missing=0.0)
    values["precipitation"][50, 0] = np.nan
    values["temperature"][60, 0] = values["temperature"][36, 0] = np.nan  # and so the same hour of the day before
    values["temperature"][200:300, 0] = np.nan
    values["temperature"][:, 1] = np.nan
    values["pet"][70, 1] = np.nan
    done = weather.complete(stretch, values, CLIMATES)
    assert all(np.isfinite(column).all() for column in done.values.values())
    assert done.assumed.sum() == 1
    assert done.values["precipitation"][50, 0] == 0.0
    assert done.values["temperature"][60, 0] == values["temperature"][12, 0]
    assert done.values["temperature"][210, 0] == values["temperature"][186, 0]
    assert done.values["temperature"][290, 0] == MONTHS[2]
    assert (done.values["temperature"][:, 1] == weather.MILD).all()
    assert done.values["pet"][71, 1] == values["pet"][71, 1]
    assert 0.0 <= done.values["pet"][70, 1] < 0.5
    assert not np.array_equal(done.values["pet"][:, 0], values["pet"][:, 0])  # this station's comes from temperature


def test_a_chunk_border_is_no_border(stretch, places):
    values = series(np.random.default_rng(2))
    whole = window.view(places, stretch, values)
    first = 150
    part = window.view(places, stretch[first:], {name: column[first:] for name, column in values.items()})
    whole_rows = window.rows(whole, first + CONTEXT, COUNT - 1, FORCINGS)
    part_rows = window.rows(part, CONTEXT, COUNT - 1 - first, FORCINGS)
    for a, b in zip(whole_rows, part_rows, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_view_that_learned_is_a_view_loaded_later(stretch, places):
    """Late and revised values, hour by hour: what the live run sees is what the hindcast sees."""
    rng = np.random.default_rng(3)
    values = series(rng)
    parts = []
    for i, place in enumerate(places):
        delay = np.where(rng.random(COUNT) < 0.2, rng.integers(1, 30, COUNT), 0) * HOUR
        columns = {name: column[:, i] for name, column in values.items()}
        parts.append(records.build([place.id] * COUNT, stretch, stretch + delay, columns))
        revised = {"discharge": columns["discharge"] * 1.3}
        some = rng.random(COUNT) < 0.05
        late = records.build([place.id] * COUNT, stretch, stretch + 20 * HOUR, revised)
        parts.append(records.select(late, some))
    everything = records.join(parts, "observations")
    names = [place.id for place in places]
    moving = window.load(everything, places, stretch, stretch + CUT_OFF)
    changes = known.late(everything, names, stretch, CUT_OFF)
    clock = records.ALWAYS
    for row in range(CONTEXT + 40, COUNT - 30, 7):
        until = stretch[row] + CUT_OFF
        window.learn(moving, changes, clock, until)
        clock = until
        fresh = window.load(everything, places, stretch[: row + 1], until)
        for a, b in zip(
            window.rows(moving, row - 30, row, FORCINGS), window.rows(fresh, row - 30, row, FORCINGS), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        for name in quality.TESTS:
            np.testing.assert_array_equal(
                window.flags(moving, name, row - 30, row), window.flags(fresh, name, row - 30, row)
            )


def test_failed_values_are_not_used_and_suspect_ones_are_doubted(stretch, places):
    values = series(np.random.default_rng(4), missing=0.0)
    values["discharge"][-1, 0] = -5.0
    values["discharge"][-1, 1] = 60.0  # rises as never before, and nobody knows yet whether it stays
    rows = window.rows(window.view(places, stretch, values), COUNT - 5, COUNT - 1, FORCINGS)
    assert np.isnan(rows.observation[-1, 0])
    assert rows.doubt[-1].tolist() == [1.0, DOUBT]
    assert np.isfinite(rows.observation[-1, 1])
    assert rows.observation[0, 0] == pytest.approx(values["discharge"][-5, 0] * 3.6 / 50.0)


def test_impossible_weather_is_a_gap(stretch, places):
    values = series(np.random.default_rng(5), missing=0.0)
    values["precipitation"][100, 0] = 1e6
    values["temperature"][100, 0] = -300.0
    seen = window.view(places, stretch, values)
    assert seen.rain_assumed[100].tolist() == [True, False]
    assert seen.forcing["temperature"][100, 0] == values["temperature"][76, 0]


def test_lead_hours_say_where_their_rain_is_a_guess_and_how_old_their_oldest_forecast_is(stretch, places):
    values, row = series(np.random.default_rng(6), missing=0.0), 300
    values["precipitation"][row + np.array([0, 1, 24, 25]), 0] = np.nan
    seen = window.view(places, stretch, values)
    assumed = window.lead(seen, row, "observed", FORCINGS, None, stretch[row]).assumed
    assert np.flatnonzero(assumed[:, 0]).tolist() == [0, 23] and not assumed[:, 1].any()
    ahead, runs = stretch[row] + LEADS * HOUR, [stretch[row] - age * HOUR for age in (9, 3)]
    rain = {"precipitation": np.ones(24)}
    parts = [records.build(["inn"] * 24, ahead, np.full(24, run), rain, np.full(24, run)) for run in (runs[0],)]
    newer = {"precipitation": np.ones(12)}  # the newer run ends after half a day
    parts.append(records.build(["inn"] * 12, ahead[:12], np.full(12, runs[1]), newer, np.full(12, runs[1])))
    archive = known.forecast_table(records.join(parts, "forecasts"), ["ach", "inn"])
    assert window.lead(seen, row, "archived", FORCINGS, archive, stretch[row]).reference_time == runs[0]


def test_lead_hours_are_as_observed_as_forecast_or_without_rain(stretch, places):
    values = series(np.random.default_rng(6), missing=0.0)
    seen, row = window.view(places, stretch, values), 300
    observed = window.lead(seen, row, "observed", FORCINGS, None, stretch[row])
    np.testing.assert_array_equal(observed.forcing[..., 0], values["precipitation"][row + 1 : row + 25])
    none = window.lead(seen, row, "none", FORCINGS, None, stretch[row])
    assert (none.forcing[..., 0] == 0.0).all()
    assert none.assumed.all()
    np.testing.assert_array_equal(none.forcing[:, 0, 2], values["temperature"][row - 23 : row + 1, 0])
    ahead = stretch[row] + LEADS * HOUR
    run, told = np.full(24, stretch[row] - 3 * HOUR), np.full(24, stretch[row])
    rain = {"precipitation": np.arange(24.0)}
    archive = known.forecast_table(records.build(["inn"] * 24, ahead, told, rain, run), ["ach", "inn"])
    forecast = window.lead(seen, row, "archived", FORCINGS, archive, stretch[row])
    assert forecast.forcing[:, 1, 0].tolist() == rain["precipitation"].tolist()
    assert forecast.assumed.all(0).tolist() == [True, False]
    assert forecast.reference_time == run[0]
    early = window.lead(seen, row, "archived", FORCINGS, archive, stretch[row] - HOUR)
    assert early.reference_time is None
    assert early.assumed.all()
