"""Bias-aware assimilation in the hourly cycle: chosen in the settings, seen in the analysis, said to the operator."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import FIRST

from hydroda import domain, inspection, steps
from hydroda.forecast.cycle import ahead, rollout
from hydroda.publishing import day, gauge_bias
from hydroda.publishing.acceptance import check
from hydroda.running.groups import grouped
from hydroda.running.hindcasting import hindcast
from hydroda.schema import LEADS
from hydroda.settings_file import load
from hydroda.steps import store_of
from hydroda.storage import netcdf
from hydroda.trials import drift, drift_figure
from hydroda.units import HOUR, utc_now

CHOSEN = '[[filter.modifier]]\nname = "bias.two_stage"\n'


def aware(settings, more=""):
    """The deployment with the biases estimated."""
    settings.file.write_text(settings.file.read_text() + CHOSEN + more)
    return load(settings.file)


def analysis(settings, cycle=FIRST) -> xr.Dataset:
    return check(netcdf.read(store_of(settings).product_path("an", cycle)))


def test_biases_are_in_the_analysis_where_the_filter_estimates_them(settings):
    steps.run(settings, FIRST)
    assert not [name for name in analysis(settings).variables if "bias" in str(name)]
    mine = aware(settings, "state_fraction = 0.9\ngauge_ratio = 0.5\nrelative = true\n")
    assert steps.run(mine, FIRST, force=True).state == "degraded"
    found = analysis(mine)
    for name, units in ((gauge_bias.NAME, "m3 s-1"), ("soil_bias", "mm"), ("fast_bias", "mm")):
        assert found[name].attrs["units"] == units
        assert found[name].attrs["ancillary_variables"] == f"{name}_standard_error"
        assert np.isfinite(found[name].values).all() and (found[f"{name}_standard_error"].values > 0).any()
    assert np.abs(found[gauge_bias.NAME].values).max() < 0.5 * found.discharge.values.max()
    settings.file.write_text(settings.file.read_text().replace("state_fraction = 0.9", "state_fraction = 1.0"))
    day = FIRST + 24 * HOUR
    steps.run(load(settings.file), day)
    assert {str(n) for n in analysis(settings, day).variables if "bias" in str(n)} == {
        gauge_bias.NAME,
        f"{gauge_bias.NAME}_standard_error",
    }


def test_hour_by_hour_the_biases_go_on(settings):
    """Two cycles, the second from the belief of the first, are what one window over both would find."""
    mine = aware(settings, "gauge_ratio = 0.5\n")
    for hour in range(3):
        steps.run(mine, FIRST + hour * HOUR)
    found = analysis(mine, FIRST + 2 * HOUR)
    assert found.attrs["hydroda_start_kind"] == "warm"
    assert len(np.unique(found[gauge_bias.NAME].values[:, 0])) == found.sizes["time"]


def test_a_forecast_keeps_the_bias_of_the_model_all_the_way(settings):
    """The model goes on from its biased state, and what is seen is without the bias."""
    mine = aware(settings, "state_fraction = 0.8\ngauge_ratio = 0.0\n")
    group = grouped(domain.load(mine))[0][0]
    batch = group.batch
    x = batch.model.start(batch.parameters)
    belief = batch.believe(x, 0)
    bias = 0.1 * x
    held = replace(belief, bias=bias)
    forcing = torch.full((LEADS.size, len(group.ids), len(group.forcings)), 0.1, dtype=torch.float64)
    with torch.inference_mode():
        found = rollout(batch, held, x, forcing, np.zeros(len(group.ids)))
        state = x
        for u, median in zip(forcing, found.median, strict=True):
            state = batch.model.step(state, u.unsqueeze(1), batch.parameters)
            expected = batch.model.discharge(state - bias, batch.parameters)[:, 0, 0]
            assert torch.allclose(median, expected, rtol=1e-12)
        plain = torch.stack(list(ahead(batch.system, x, forcing)))[..., 0]
    assert torch.equal(plain, found.open_loop)


def product(share: float, error: float, hours: int = 24) -> xr.Dataset:
    """An analysis of two gauges at 10 m³/s, of which the second reads too high by a share ± an error."""
    flow = np.full((hours, 2), 10.0)
    bias = flow * [0.0, share]
    return xr.Dataset(
        {
            "discharge": (("time", "station"), flow),
            gauge_bias.NAME: (("time", "station"), bias),
            f"{gauge_bias.NAME}_standard_error": (("time", "station"), np.full_like(bias, error)),
            "station_id": ("station", ["ach", "inn"]),
        },
        {"time": FIRST + np.arange(hours) * HOUR},
    )


def test_a_gauge_beyond_its_band_is_named_with_side_size_and_hour():
    (told,) = gauge_bias.outside(product(0.15, 0.2))
    assert told == (
        "inn: the gauge seems to read 15% too high, or the model is too low (+1.5 ± 0.2 m3/s at 2003-06-11T05:00Z)"
    )
    (told,) = gauge_bias.outside(product(-0.3, 0.2))
    assert "30% too low, or the model is too high (-3 ± 0.2" in told


@pytest.mark.parametrize(("share", "error"), [(0.15, 0.8), (0.08, 0.1), (0.0, 0.0), (np.nan, 0.1)])
def test_within_its_band_or_too_small_to_act_on_nothing_is_said(share, error):
    assert not list(gauge_bias.outside(product(share, error)))
    assert not list(gauge_bias.outside(product(0.5, 0.1).drop_vars(gauge_bias.NAME)))


def test_a_bias_counts_when_it_lasted_a_day_of_which_yesterday_is_a_part():
    found = product(0.15, 0.2, hours=24)
    yesterday, today = found.isel(time=slice(None, 20)), found.isel(time=slice(20, None))
    assert not list(gauge_bias.outside(today)) and not list(gauge_bias.outside(None, today))
    swapped = yesterday.isel(station=[1, 0])
    assert list(gauge_bias.outside(swapped, today)) == list(gauge_bias.outside(found)) != []


def test_one_hour_within_the_band_is_enough_to_wait():
    found = product(0.15, 0.2)
    found[gauge_bias.NAME][3, 1] = 0.1
    assert not list(gauge_bias.outside(found))


def test_run_and_check_warn(settings, caplog, monkeypatch):
    mine = aware(settings, "gauge_ratio = 0.5\n")
    monkeypatch.setattr(gauge_bias, "SHARE", -1.0)
    monkeypatch.setattr(gauge_bias, "BAND", -1.0)
    monkeypatch.setattr(gauge_bias, "HOURS", 4)  # of the first day
    with caplog.at_level(logging.WARNING):
        steps.run(mine, FIRST)
    assert [record for record in caplog.records if "ach: the gauge seems to read" in record.getMessage()]
    found = [each for each in inspection.inspect(mine, utc_now()) if "the gauge seems to read" in each.what]
    assert {each.level for each in found} == {"warning"} and "gauging" in found[0].remedy


def test_what_cannot_be_a_bias_is_missing():
    values = np.array([[np.inf, 0.3], [-0.2, np.nan]])
    column = day._bias((2, 2), "soil_bias", day.Bias(values, np.abs(values), "mm", "the soil"))["soil_bias"]
    assert np.isnan(column.values).sum() == 2 and column.values[1, 0] == np.float32(-0.2)


def test_hindcasts_of_a_biased_filter_run(settings):
    mine = aware(settings, "gauge_ratio = 0.1\nrelative = true\n")
    (path,) = hindcast(mine, FIRST, FIRST + 5 * HOUR)
    assert np.isfinite(netcdf.read(path).discharge.values).all()


def test_a_wrong_gauge_is_tried_without_a_trace(settings, tmp_path):
    """Forecasts of the plain filter are wrong by what the gauge is; the deployment is as it was."""
    before = sorted(path for path in settings.store.rglob("*") if path.is_file())
    at = FIRST + 48 * HOUR
    options = {"error": 0.3, "state_fraction": 1.0, "gauge_ratio": 0.02, "relative": True}
    trial = drift.tried(settings, "ach", FIRST, FIRST + 240 * HOUR, at, progress=lambda *told: None, **options)
    assert trial.rmse[f"{drift.PLAIN}, gauge wrong"][0] > 1.5 * trial.rmse[f"{drift.PLAIN}, gauge right"][0]
    assert np.array_equal(trial.share[:48], trial.share_right[:48]) and trial.share[-1] > trial.share_right[-1]
    assert trial.share.shape == trial.hours.shape and all(v.shape == (24,) for v in trial.rmse.values())
    assert "true +30.0%" in drift_figure.table(trial) and drift_figure.figure(trial).axes
    assert sorted(path for path in settings.store.rglob("*") if path.is_file()) == before
    with pytest.raises(ValueError, match="not between"):
        drift.tried(settings, "ach", FIRST, at, at, progress=lambda *told: None, **options)
