"""Potential evapotranspiration: published radiation, the sum asked for, no more knowledge than there is."""

import numpy as np
import pytest

from hydroda.forecast import pet
from hydroda.units import HOUR

YEAR = np.datetime64("2001-01-01T01:00", "ns") + np.arange(365 * 24) * HOUR
LATITUDES = (-52.0, -20.0, 0.0, 35.0, 48.0, 60.0)


def day(text: str) -> np.ndarray:
    """The 24 hours that end on a day, or at its last midnight."""
    return np.datetime64(f"{text}T01:00", "ns") + np.arange(24) * HOUR


@pytest.mark.parametrize(
    ("latitude", "date", "expected"),
    [
        (-20.0, "2001-09-03", 32.2),  # FAO-56, example 8
        (-34.0, "2001-02-15", 39.2),  # FAO-56, annex 2, the middle of the month
        (-36.0, "2001-02-15", 38.9),
    ],
)
def test_daily_radiation_is_that_of_fao_56(latitude, date, expected):
    assert pet.radiation(day(date), latitude).sum() == pytest.approx(expected, rel=0.01)


def test_the_hours_add_up_to_the_daily_integral():
    for latitude in LATITUDES:
        for date in ("2001-01-17", "2001-06-20", "2001-09-25"):
            number = float((np.datetime64(date) - np.datetime64("2001-01-01")).astype(int)) + 0.5
            declination = 0.409 * np.sin(2 * np.pi / 365 * number - 1.39)
            phi = np.deg2rad(latitude)
            sunset = np.arccos(-np.tan(phi) * np.tan(declination))
            daily = (
                (24 * 60 / np.pi)
                * 0.0820
                * (1 + 0.033 * np.cos(2 * np.pi / 365 * number))
                * (
                    sunset * np.sin(phi) * np.sin(declination)
                    + np.cos(phi) * np.cos(declination) * np.sin(sunset)  # FAO-56, eq. 21
                )
            )
            assert pet.radiation(day(date), latitude).sum() == pytest.approx(daily, rel=2e-3)


def test_the_sun_is_highest_at_noon_of_the_longitude():
    for longitude, noon in ((0.0, (12, 13)), (90.0, (6, 7)), (-90.0, (18, 19)), (179.0, (24, 1))):
        hourly = pet.radiation(day("2001-03-21"), 10.0, longitude)
        highest = np.argsort(hourly)[-2:] + 1  # hours that end at
        assert set(highest.tolist()) == set(noon)
        if longitude != 179.0:
            assert hourly[noon[0] - 1] == pytest.approx(hourly[noon[1] - 1], rel=1e-3)


@pytest.mark.parametrize("longitude", [0.0, 75.0])
def test_a_polar_day_has_no_night_and_a_polar_night_no_day(longitude):
    assert (pet.radiation(day("2001-06-21"), 75.0, longitude) > 0).all()
    assert (pet.radiation(day("2001-12-21"), 75.0, longitude) == 0).all()


def test_places_beside_each_other_are_the_places_alone():
    longitudes = np.array([0.0, 11.0, -60.0, 150.0, 7.0, -120.0])
    together = pet.radiation(YEAR[:50, None], np.array(LATITUDES), longitudes)
    assert together.shape == (50, 6)
    for place, latitude in enumerate(LATITUDES):
        np.testing.assert_array_equal(together[:, place], pet.radiation(YEAR[:50], latitude, longitudes[place]))


# ---------------------------------------------------------------------------------------------------- climatological


@pytest.mark.parametrize("latitude", LATITUDES)
@pytest.mark.parametrize("longitude", [None, -110.0])
def test_the_year_has_the_sum_asked_for_and_no_hour_is_negative(latitude, longitude):
    found = pet.climatological(YEAR, latitude, 640.0, longitude)
    assert found.sum() == pytest.approx(640.0, rel=1e-9)
    assert (found >= 0).all()
    np.testing.assert_allclose(pet.climatological(YEAR, latitude, 320.0, longitude), found / 2, rtol=1e-12)


def test_a_winter_night_evaporates_nothing_and_a_winter_noon_something():
    found = pet.climatological(day("2001-12-21"), 48.0)
    assert (found[[0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 22, 23]] == 0).all()
    assert (found[[10, 11, 12, 13]] > 0).all()


def test_summer_is_where_the_hemisphere_has_it():
    def of(date, latitude):
        return pet.climatological(day(date), latitude).sum()

    assert of("2001-07-10", 48.0) > 4 * of("2001-01-10", 48.0)
    assert of("2001-01-10", -48.0) > 4 * of("2001-07-10", -48.0)
    assert of("2001-07-10", 5.0) == pytest.approx(of("2001-01-10", 5.0), rel=0.2)


@pytest.mark.parametrize("longitude", [0.0, -110.0])
def test_a_day_has_the_shape_of_the_sun_and_half_the_weight_of_the_forty_days_up_to_it(longitude):
    sun = pet.radiation(YEAR, 48.0, longitude).reshape(365, 24)
    daily = sun.sum(1)
    weight = np.array([daily[d] + np.mean([daily[(d - k) % 365] for k in range(40)]) for d in range(365)])
    expected = 600.0 * (sun.T / daily * weight / weight.sum()).T
    np.testing.assert_allclose(pet.climatological(YEAR, 48.0, 600.0, longitude), expected.ravel(), rtol=1e-9)


def test_the_season_lags_the_sun():
    daily = pet.climatological(YEAR, 48.0).reshape(365, 24).sum(1)
    assert 172 < daily.argmax() < 172 + 40  # after the solstice of 21 June
    assert daily[172 + 60] > daily[172 - 60]


def test_without_a_place_it_is_45_north_at_greenwich_and_the_default_sum():
    np.testing.assert_array_equal(pet.climatological(YEAR, None), pet.climatological(YEAR, 45.0, 550.0, 0.0))


def test_a_leap_year_has_every_hour_and_repeats_its_last_day():
    leap = np.datetime64("2004-01-01T01:00", "ns") + np.arange(366 * 24) * HOUR
    found = pet.climatological(leap, 48.0, 600.0).reshape(366, 24)
    plain = pet.climatological(YEAR, 48.0, 600.0).reshape(365, 24)
    np.testing.assert_array_equal(found[:365], plain)
    np.testing.assert_array_equal(found[365], plain[364])
    assert found.sum() == pytest.approx(600.0, rel=2e-3)


def test_an_hour_has_its_value_wherever_the_series_begins():
    whole = pet.climatological(YEAR, 48.0)
    np.testing.assert_array_equal(pet.climatological(YEAR[1000:1007], 48.0), whole[1000:1007])
    np.testing.assert_array_equal(pet.climatological(YEAR + 4 * 365 * 24 * HOUR + 24 * HOUR, 48.0), whole)  # 2005


# ------------------------------------------------------------------------------------------------------------- oudin


def test_oudin_is_the_formula_for_a_constant_temperature():
    times = YEAR[4000:4100]
    found = pet.oudin(times, np.full(100, 15.0), 48.0)
    expected = pet.radiation(times, 48.0) / 2.45 * 20.0 / 100.0
    np.testing.assert_allclose(found[11:], expected[11:], rtol=1e-12)
    whole_day = found[24:48].sum()
    assert whole_day == pytest.approx(pet.radiation(times[24:48], 48.0).sum() / 2.45 * 0.2)
    assert 2.0 < whole_day < 4.0  # mm, a June day of 15 °C


def test_oudin_takes_the_mean_of_the_past_day():
    times = YEAR[4000:4072]
    temperature = np.random.default_rng(0).uniform(5, 25, 72)
    found = pet.oudin(times, temperature, 48.0)
    for t in (23, 40, 71):
        mean = temperature[t - 23 : t + 1].mean()
        expected = pet.radiation(times[t : t + 1], 48.0)[0] / 2.45 * (mean + 5) / 100
        assert found[t] == pytest.approx(expected, rel=1e-12)
    later = temperature.copy()
    later[50:] = -40.0
    np.testing.assert_array_equal(pet.oudin(times, later, 48.0)[:50], found[:50])


def test_oudin_is_nothing_in_the_cold():
    times = YEAR[4000:4072]
    for temperature in (-5.0, -5.1, -30.0):
        assert (pet.oudin(times, np.full(72, temperature), 48.0)[11:] == 0).all()
    assert pet.oudin(times, np.full(72, -4.0), 48.0)[24:48].sum() > 0


def test_oudin_needs_twelve_hours_of_twenty_four():
    times = YEAR[4000:4072]
    temperature = np.full(72, 12.0)
    found = pet.oudin(times, temperature, 48.0)
    assert np.isnan(found[:11]).all()
    assert np.isfinite(found[11:]).all()
    temperature[30:43] = np.nan  # thirteen hours
    found = pet.oudin(times, temperature, 48.0)
    known = np.convolve(np.isfinite(temperature), np.ones(24))[:72]
    assert (known[30:] < 12).any()
    np.testing.assert_array_equal(np.isnan(found), known < 12)
    seen = np.isfinite(found)
    expected = pet.radiation(times, 48.0) / 2.45 * 17.0 / 100.0
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-12)


def test_oudin_of_places_is_oudin_of_each_and_of_any_beginning():
    random = np.random.default_rng(1)
    latitudes, longitudes = np.array(LATITUDES), np.array([0.0, 11.0, -60.0, 150.0, 7.0, -120.0])
    times = YEAR[3000:3090]
    temperature = random.uniform(-10, 25, (90, 6))
    temperature[random.uniform(size=(90, 6)) < 0.3] = np.nan
    together = pet.oudin(times, temperature, latitudes, longitudes)
    for place in range(6):
        alone = pet.oudin(times, temperature[:, place], latitudes[place], longitudes[place])
        np.testing.assert_array_equal(together[:, place], alone)
    late = pet.oudin(times[30:], temperature[30:], latitudes, longitudes)
    np.testing.assert_array_equal(late[23:], together[53:])
