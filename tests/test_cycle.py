"""The cycle: a backfill is the hourly runs, nothing is known too early, late data count, a kill costs nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import FIRST

from hydroda import domain as domains
from hydroda import steps
from hydroda.domain import store_of
from hydroda.forecast import ledger, window
from hydroda.publishing.acceptance import check
from hydroda.publishing.fields import DEGRADED_FORCING, MISSING, UNUSABLE
from hydroda.running import archive, forecasting, operation, restart, start
from hydroda.running.groups import grouped
from hydroda.schema import LEADS
from hydroda.settings_file import load
from hydroda.storage import netcdf, records
from hydroda.units import HOUR, parse_utc
from hydroda.verifying import scoring

CLOCK = ("date_created", "history", "hydroda_run_id")  # all that may follow the clock
LABEL = ("id", "hydroda_run_kind", "title", "summary")  # what says that a hindcast is one
TWO_DAYS = 48


def same(a: xr.Dataset, b: xr.Dataset, but: tuple[str, ...] = CLOCK) -> bool:
    """Equal in every number, bit for bit, and in all attributes but some."""
    told = [{k: v for k, v in ds.attrs.items() if k not in but and k != "hydroda_data_sha256"} for ds in (a, b)]
    return told[0] == told[1] and a.drop_attrs(deep=False).identical(b.drop_attrs(deep=False))


def hourly(settings, count, first=FIRST):
    for i in range(count):
        done = steps.run(settings, first + i * HOUR)
        assert done.state in ("published", "degraded"), done
    return [first + i * HOUR for i in range(count)]


def test_a_hindcast_of_two_days_is_two_days_of_hourly_runs(settings):
    cycles = hourly(settings, TWO_DAYS)
    store = store_of(settings)
    steps.hindcast(settings, cycles[0], cycles[-1], forcing="none", products=True)
    for cycle in cycles:
        live, past = (netcdf.read(store.product_path(kind, cycle)) for kind in ("fc", "fc-hindcast"))
        assert same(live, past, CLOCK + LABEL), cycle
        check(live)
    for day in np.unique(np.array(cycles).astype("datetime64[D]")).astype("datetime64[ns]")[1:]:
        live, past = (netcdf.read(store.product_path(kind, day)) for kind in ("an", "an-hindcast"))
        assert same(live, past, CLOCK + LABEL), day
    archive = netcdf.read(store.archive_path("none", cycles[0]))
    last = netcdf.read(store.product_path("fc", cycles[-1]))
    np.testing.assert_allclose(archive["discharge"].values[-1], last["discharge"].values, rtol=1e-6)
    method = archive["discharge_method"]
    np.testing.assert_array_equal(method.values[-1], last["discharge_method"].values)
    assert method.dtype == np.int8 and method.attrs["flag_meanings"] == last["discharge_method"].attrs["flag_meanings"]


def test_forecasts_rolled_out_together_are_those_rolled_out_alone(settings):
    end = FIRST + 30 * HOUR
    paths = steps.hindcast(settings, FIRST, end, forcing="observed")
    together = netcdf.read(paths[0])
    shutil.rmtree(store_of(settings).folder / "hindcast")
    shutil.rmtree(store_of(settings).folder / "belief-hindcast-observed")
    alone = netcdf.read(steps.hindcast(settings, FIRST, end, forcing="observed", products=True)[0])
    xr.testing.assert_allclose(together, alone, rtol=1e-6)


def test_nothing_is_known_before_it_is_known(settings):
    """Changing every value known after the cut-off changes nothing in that product."""
    other = settings.file.parent / "changed"
    shutil.copytree(settings.store, other / "store")
    shutil.copy(settings.file, other)
    changed = load(other / "hydroda.toml")
    until = settings.known_by(FIRST)
    stations = [c.id for c in settings.catchments]
    everything = store_of(settings).observations(stations, FIRST - 4000 * HOUR, FIRST + 1000 * HOUR)
    after = everything["known"].values > until
    assert after.any()
    assert (everything["time"].values[after] <= FIRST).any()
    shutil.rmtree(store_of(changed).folder / "observations")
    wrong = everything.copy(deep=True)
    for name in ("discharge", "precipitation"):
        wrong[name].values[after] = 3.0 * wrong[name].values[after] + 1.0
    store_of(changed).append(wrong, now=FIRST + 2000 * HOUR)
    for one in (settings, changed):
        steps.run(one, FIRST)
    mine, theirs = (netcdf.read(store_of(one).product_path("fc", FIRST)) for one in (settings, changed))
    assert same(mine, theirs)


def test_a_run_repeated_is_the_same_file(settings):
    hourly(settings, 3)
    store = store_of(settings)
    path = store.product_path("fc", FIRST + 2 * HOUR)
    before = netcdf.read(path)
    assert steps.run(settings, FIRST + 2 * HOUR).state == "skipped"
    assert steps.run(settings, FIRST + 2 * HOUR, force=True).state == "degraded"
    assert same(before, netcdf.read(path))


def test_a_late_value_is_used_as_soon_as_it_is_there(settings):
    hourly(settings, 2)
    store, third = store_of(settings), FIRST + 2 * HOUR
    corrected = store.observations(["ach"], FIRST - 3 * HOUR, FIRST)
    corrected = records.select(corrected, np.isfinite(corrected["discharge"].values))
    corrected["discharge"].values[:] *= 1.4
    news = corrected.assign_coords(known=("record", np.full(corrected.sizes["record"], third)))
    untouched = settings.file.parent / "untouched"
    shutil.copytree(settings.store, untouched / "store")
    shutil.copy(settings.file, untouched)
    store.append(news, now=third)
    without = load(untouched / "hydroda.toml")
    for one in (settings, without):
        steps.run(one, third)
    mine, theirs = (netcdf.read(store_of(one).product_path("an", third)).discharge[-2:] for one in (settings, without))
    assert (mine.values[:, 0] > theirs.values[:, 0]).all()
    assert (mine.values[:, 1] == theirs.values[:, 1]).all()


def test_missed_cycles_come_in_order_and_are_bounded(settings):
    assert steps.missed(settings, FIRST) == []
    hourly(settings, 1)
    assert steps.missed(settings, FIRST) == []
    assert steps.missed(settings, FIRST + 3 * HOUR) == [FIRST + i * HOUR for i in (1, 2)]
    assert len(steps.missed(settings, FIRST + 500 * HOUR)) == settings.cycle.catch_up_hours


def test_old_beliefs_make_room(settings):
    hourly(settings, 2)
    store = store_of(settings)
    old = [FIRST - days * 24 * HOUR for days in (3, 8, 9, 100, 101)]
    for cycle in old:
        netcdf.write(netcdf.read(store.belief_path(FIRST)), store.belief_path(cycle), record_dim=None)
        netcdf.write(netcdf.read(store.belief_path(FIRST)), store.belief_path(cycle + HOUR), record_dim=None)
    steps.run(settings, FIRST + 2 * HOUR)
    kept = store.cycles("belief")
    assert {FIRST, FIRST + HOUR, FIRST + 2 * HOUR, old[0], old[0] + HOUR, old[1], old[2], old[4]} == set(kept)


def test_a_damaged_belief_costs_an_hour_of_replay_not_the_forecast(settings):
    hourly(settings, 3)
    store = store_of(settings)
    store.belief_path(FIRST + 2 * HOUR).write_bytes(b"\x89HDF rubbish")
    done = steps.run(settings, FIRST + 3 * HOUR)
    product = netcdf.read(done.files[0])
    assert product.attrs["hydroda_start_kind"] == "older_state"
    assert product.attrs["hydroda_state_age_hours"] == settings.cycle.window_hours + 1
    assert np.isfinite(product.discharge.values).all()


def test_an_archive_of_an_earlier_version_is_made_again(settings):
    """Which did not say of what data it was made; another is kept as it is."""
    (path,) = steps.hindcast(settings, FIRST, FIRST + 3 * HOUR, forcing="observed")
    made = netcdf.read(path)
    before = path.stat().st_mtime_ns
    assert steps.hindcast(settings, FIRST, FIRST + 3 * HOUR, forcing="observed") == [path]
    assert path.stat().st_mtime_ns == before
    told = {key: value for key, value in made.attrs.items() if key != archive.INPUTS}
    netcdf.write(made.drop_attrs(deep=False).assign_attrs(told), path, record_dim="forecast_reference_time")
    steps.hindcast(settings, FIRST, FIRST + 3 * HOUR, forcing="observed")
    xr.testing.assert_identical(netcdf.read(path), made)


def test_a_flood_beyond_the_record_is_told_and_half_left_to_the_open_loop(settings):
    store, end = store_of(settings), FIRST + 2 * HOUR
    content = store.read_parameters("ach")
    content["choice"] = {"observed": ["filter"] * LEADS.size}
    store.write_parameters("ach", content | {"highest": 1e-6})
    steps.hindcast(settings, FIRST, end, forcing="observed")
    made = scoring.samples(settings, FIRST, end, "observed")["ach"].forecasts
    own, open_loop, issued = (made.sel({"method": name}).values for name in ("filter", "decaying_error", "forecast"))
    np.testing.assert_allclose(issued, 0.5 * (own + open_loop), rtol=1e-6)
    assert np.abs(own / open_loop - 1.0).max() > 0.01
    done = steps.run(settings, FIRST)
    told = netcdf.read(done.files[0])["discharge_method"].attrs["comment"]
    assert told == "near or beyond the highest flow on record: ach up to 50 % left to open loop + last error at 1-24 h"
    store.write_parameters("ach", content)
    steps.run(settings, FIRST, force=True)
    assert "comment" not in netcdf.read(done.files[0])["discharge_method"].attrs


def test_a_belief_of_other_parameters_is_not_used(settings):
    hourly(settings, 2)
    store = store_of(settings)
    content = store.read_parameters("ach")
    content["parameters"]["soil_capacity"] *= 1.01
    store.write_parameters("ach", content)
    done = steps.run(settings, FIRST + 2 * HOUR)
    assert netcdf.read(done.files[0]).attrs["hydroda_start_kind"] == "cold"
    domain = domains.load(settings)
    (group,), _ = grouped(domain)
    assert start.begin(domain, group, FIRST + 3 * HOUR).kind == "warm"


def test_a_belief_with_a_ledger_of_other_methods_is_not_used(settings):
    """As of a version that could issue more of them."""
    hourly(settings, 1)
    path = store_of(settings).belief_path(FIRST)
    (saved,) = restart.groups_of(netcdf.read(path))
    old, more = saved.ledger, [(0, 2), (0, 0), (0, 0)]
    wider = {"forecasts": np.pad(old.forecasts, [(0, 0), *more]), "squares": np.pad(old.squares, more)}
    other = replace(old, **wider, weights=np.pad(old.weights, more))
    netcdf.write(restart.dataset([replace(saved, ledger=other)]), path, record_dim=None)
    with pytest.raises(ValueError, match="11 methods, there are 9"):
        restart.groups_of(netcdf.read(path))
    done = steps.run(settings, FIRST + HOUR)
    assert netcdf.read(done.files[0]).attrs["hydroda_start_kind"] == "cold"


def test_a_ledger_learns_from_what_was_observed_when_it_asks(settings, monkeypatch):
    told, learned = [], forecasting.learned
    monkeypatch.setattr(forecasting, "learned", lambda *given: told.append(given[1]) or learned(*given))
    hourly(settings, 1)
    at = FIRST - ledger.DELAY * HOUR
    stored = store_of(settings).observations(["ach", "bregenz"], at, at)
    expected = [stored["discharge"].values[stored["station"].values == name][-1] for name in ("ach", "bregenz")]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(told[-1], expected, rtol=1e-6)


def test_what_widens_an_interval_above_does_so_above(settings):
    """The ledger by what it has learned, the calibration by its factors."""

    def bounds():
        product = netcdf.read(steps.run(settings, FIRST + HOUR, force=True).files[0])
        return [product[f"discharge_{name}"].values for name in ("q05", "q50", "q95")]

    hourly(settings, 1)
    low, median, high = bounds()
    store = store_of(settings)
    path = store.belief_path(FIRST)
    (saved,) = restart.groups_of(netcdf.read(path))
    wider = saved.ledger.widening + np.array([0.0, np.log(1.5)])[:, None, None, None]
    other = replace(saved, ledger=replace(saved.ledger, widening=wider))
    netcdf.write(restart.dataset([other]), path, record_dim=None)
    found = bounds()
    np.testing.assert_allclose(found[:2], (low, median), rtol=1e-5)
    np.testing.assert_allclose(np.log(found[2] / median), 1.5 * np.log(high / median), rtol=0.01)
    netcdf.write(restart.dataset([saved]), path, record_dim=None)
    for station in ("ach", "bregenz"):
        content = store.read_parameters(station)
        for below, _ in content["spread"].values():
            below[:] = (1.5 * np.array(below)).tolist()
        store.write_parameters(station, content)
    found = bounds()
    np.testing.assert_allclose(found[1:], (median, high), rtol=1e-5)
    np.testing.assert_allclose(np.log(found[0] / median), 1.5 * np.log(low / median), rtol=0.01)


def test_no_interval_is_wider_than_a_factor_of_a_hundred(settings):
    store = store_of(settings)
    content = store.read_parameters("ach")
    wide = {kind: np.full(np.shape(factors), 1e4).tolist() for kind, factors in content["spread"].items()}
    store.write_parameters("ach", content | {"spread": wide})
    product = netcdf.read(steps.run(settings, FIRST).files[0])
    for name, sign in (("q05", -1.0), ("q95", 1.0)):
        ratio = np.log(product[f"discharge_{name}"] / product.discharge).values[:, 0]
        np.testing.assert_allclose(ratio, sign * 3.0 * 1.6448536, rtol=1e-5)


def test_rain_that_is_a_guess_makes_all_later_hours_one(settings, monkeypatch):
    real = window.lead

    def gap(*given):
        return real(*given)._replace(assumed=np.arange(24)[:, None] == np.array([3, 30]))

    monkeypatch.setattr(window, "lead", gap)
    steps.hindcast(settings, FIRST, FIRST, forcing="observed", products=True)
    status = netcdf.read(store_of(settings).product_path("fc-hindcast", FIRST)).discharge_status.values
    assert np.flatnonzero(status[:, 0] == DEGRADED_FORCING).tolist() == list(range(3, 24))
    assert (status[:, 1] != DEGRADED_FORCING).all()


def test_a_forecast_from_a_belief_that_broke_down_is_unusable(settings, monkeypatch):
    real = forecasting.assimilate

    def broken(*given):
        return [each._replace(repaired=torch.tensor([True, False])) for each in real(*given)]

    monkeypatch.setattr(forecasting, "assimilate", broken)
    status = netcdf.read(steps.run(settings, FIRST).files[0]).discharge_status.values
    assert (status[:, 0] == UNUSABLE).all() and (status[:, 1] != UNUSABLE).all()


def test_beliefs_survive_a_file_bit_for_bit(settings, tmp_path):
    hourly(settings, 1)
    domain = domains.load(settings)
    (group,), _ = grouped(domain)
    begun = start.begin(domain, group, FIRST + HOUR)
    path = tmp_path / "belief.nc"
    saved = restart.Saved(group.ids, group.fingerprints, begun.moment, begun.ledger)
    netcdf.write(restart.dataset([saved]), path, record_dim=None)
    (back,) = restart.groups_of(netcdf.read(path))
    assert restart.digest(back.moment) == restart.digest(begun.moment)
    assert back.fingerprints == group.fingerprints
    for name, values in vars(begun.ledger).items():
        np.testing.assert_array_equal(getattr(back.ledger, name), values)
    assert np.isfinite(begun.ledger.median[-1]).all() and np.isnan(begun.ledger.median[:-1]).all()


def test_a_catchment_without_parameters_does_not_stop_the_others(settings):
    store_of(settings).parameters_path("ach").unlink()
    done = steps.run(settings, FIRST)
    product = check(netcdf.read(done.files[0]))
    assert done.state == "degraded"
    assert "ach is not calibrated" in done.message
    assert (product.discharge_status.values[:, 0] == MISSING).all()
    assert np.isfinite(product.discharge.values[:, 1]).all()


def test_a_storm_of_impossible_weather_stays_with_its_catchment(settings):
    store = store_of(settings)
    some = store.observations(["ach"], FIRST - 5 * HOUR, FIRST)
    some["precipitation"].values[:] = np.inf
    some["discharge"].values[:] = -999999.0
    storm = some.assign_coords(known=("record", np.full(some.sizes["record"], FIRST)))
    calm = steps.run(settings, FIRST)
    before = netcdf.read(calm.files[0])
    store.append(storm, now=FIRST)
    steps.run(settings, FIRST, force=True)
    after = check(netcdf.read(calm.files[0]))
    assert np.isfinite(after.discharge.values).all()
    assert (after.discharge.values[:, 1] == before.discharge.values[:, 1]).all()


def test_numerics_that_fail_leave_the_last_good_files(settings, monkeypatch):
    hourly(settings, 1)
    monkeypatch.setattr(operation, "outlook", lambda *_: 1 / 0)
    done = steps.run(settings, FIRST + HOUR)
    assert done.state == "failed"
    assert "ZeroDivisionError" in done.message
    assert store_of(settings).cycles("belief") == [FIRST]
    monkeypatch.undo()
    assert steps.run(settings, FIRST + HOUR).state == "degraded"


LOOP = """
import sys, numpy as np, torch
from pathlib import Path
from hydroda import steps
from hydroda.settings_file import load
settings, first = load(Path(sys.argv[1])), np.datetime64(sys.argv[2], "ns")
steps.run(settings, first)
print("ready", flush=True)
for hour in range(1, 1000):
    steps.run(settings, first + hour * np.timedelta64(1, "h"))
"""


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_kill_9_leaves_no_damaged_file_and_the_next_run_completes(settings, kills):
    random = np.random.default_rng(kills)
    store, first = store_of(settings), FIRST
    for _ in range(kills):
        victim = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(settings.file), str(first)],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        time.sleep(random.uniform(0.05, 1.0))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        for path in store.folder.rglob("hydroda_*.nc"):
            netcdf.read(path)
        first = store.cycles("belief")[0] + HOUR
        assert steps.run(settings, first).state == "degraded"
    store.remove_stale_temporaries(older_than=0.0)
    assert not [path for path in Path(store.folder).rglob(".*.tmp")]


def weather_forecasts(settings, first, last):
    """A run every six hours for 30 hours, known four hours after its start: twice the rain that fell."""
    stations = [c.id for c in settings.catchments]
    seen = store_of(settings).observations(stations, first - 48 * HOUR, last + 40 * HOUR)
    parts = []
    for begin in np.arange(first - 24 * HOUR, last, 6 * HOUR):
        ahead = records.select(seen, (seen["time"].values > begin) & (seen["time"].values <= begin + 30 * HOUR))
        size = ahead.sizes["record"]
        stamp = np.full(size, begin)
        values = {"precipitation": 2.0 * ahead["precipitation"].values, "temperature": ahead["temperature"].values}
        parts.append(records.build(ahead["station"].values, ahead["time"].values, stamp + 4 * HOUR, values, stamp))
    return records.join(parts, "forecasts")


def test_archived_weather_forecasts_are_used_as_they_were_known(settings):
    count = 10
    settings.file.write_text(settings.file.read_text().replace('forecast = "none"', 'forecast = "archived"'))
    mine = load(settings.file)
    store = store_of(mine)
    assert store.append(weather_forecasts(mine, FIRST, FIRST + count * HOUR), now=FIRST + 5000 * HOUR).new > 0
    cycles = hourly(mine, count)
    steps.hindcast(mine, cycles[0], cycles[-1], forcing="archived", products=True)
    references = []
    for cycle in cycles:
        live, past = (netcdf.read(store.product_path(kind, cycle)) for kind in ("fc", "fc-hindcast"))
        assert same(live, past, CLOCK + LABEL), cycle
        references.append(live.attrs["hydroda_forcing_reference_time"])
        assert live.attrs["hydroda_forcing_source"] == "archived"
    assert len(set(references)) >= 2
    assert all(parse_utc(r) + 4 * HOUR <= mine.known_by(c) for r, c in zip(references, cycles, strict=True))
    dry = steps.hindcast(mine, cycles[0], cycles[-1], forcing="none")
    wet = store.archive_path("archived", cycles[0])
    without, with_rain = (netcdf.read(path)["discharge_filter"].values for path in (dry[0], wet))
    assert (with_rain >= without * (1 - 1e-6)).all()
    assert (with_rain > without).any()


def test_an_ensemble_filter_publishes_its_members(settings):
    settings.file.write_text(
        settings.file.read_text() + '[filter]\nname = "ensemble.etkf"\nseed = 7\n[filter.options]\nmembers = 12\n'
    )
    mine = load(settings.file)
    store = store_of(mine)
    cycles = hourly(mine, 3)
    for cycle in cycles:
        members = check(netcdf.read(store.product_path("ens", cycle)))
        assert members.sizes["realization"] == 12
        assert (members["discharge"].std("realization") > 0).all()
    steps.hindcast(mine, cycles[0], cycles[-1], forcing="none", products=True)
    for kind in ("fc", "ens"):
        live, past = (netcdf.read(store.product_path(k, cycles[-1])) for k in (kind, f"{kind}-hindcast"))
        assert same(live, past, CLOCK + LABEL)
