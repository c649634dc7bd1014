"""The demonstration data: reproducible, small, labelled as made up, and with the faults its README promises."""

import gzip
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydroda import catalogue, generator, quality
from hydroda.forecast import known
from hydroda.schema import check_records, hours
from hydroda.settings import Catchment
from hydroda.sources import csv_file, netcdf_file, synthetic
from hydroda.storage import netcdf
from hydroda.storage.store import Store

DATA = Path(__file__).parent.parent / "data"
NOW = np.datetime64("2025-01-01T00:00", "ns")
HOUR, MINUTE = np.timedelta64(1, "h"), np.timedelta64(1, "m")
SPAN = hours(np.datetime64("2023-01-01T00:00", "ns"), NOW - HOUR)
BASINS = {basin.id: basin for basin in generator.BASINS}


@pytest.fixture(scope="module")
def truth():
    return {basin.id: generator.river(basin) for basin in generator.BASINS}


@pytest.fixture(scope="module")
def observed():
    return check_records(csv_file.read(SPAN[0], NOW, generator.BASINS, path=DATA, now=NOW))


@pytest.fixture(scope="module")
def forecasts():
    return check_records(netcdf_file.read(SPAN[0], NOW, generator.BASINS, path=DATA / "weather_forecasts.nc", now=NOW))


def when(span):
    first, last = (np.datetime64(text) for text in span)
    return np.flatnonzero((first <= SPAN) & (last >= SPAN))


def test_the_generator_writes_the_bundled_files(tmp_path):
    for path in generator.write(tmp_path):
        bundled, again = (DATA / path.name).read_bytes(), path.read_bytes()
        if path.name.endswith(".gz"):
            assert gzip.decompress(again) == gzip.decompress(bundled), path.name
        elif path.name.endswith(".nc"):
            assert netcdf.read(path).equals(netcdf.read(DATA / path.name))
        assert again == bundled, f"{path.name}: same numbers, other bytes: other library versions than constraints.txt?"


def test_it_is_small_and_says_that_it_is_made_up():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_000_000
    assert "made up, not measured" in (DATA / "README.md").read_text().splitlines()[0]
    for name in BASINS:
        with gzip.open(DATA / f"{name}_hourly.csv.gz", "rt") as file:
            assert generator.NOT_REAL in file.readline()
    assert netcdf.read(DATA / "weather_forecasts.nc").attrs["comment"] == generator.NOT_REAL


def test_the_settings_in_the_readme_are_valid():
    text = (DATA / "README.md").read_text().split("```toml")[1].split("```")[0]
    content = tomllib.loads(text)
    for entry in content["catchment"]:
        assert Catchment(**entry).area_km2 == BASINS[entry["id"]].area_km2
    for source in content["source"]:
        options = {key: value for key, value in source.items() if key not in ("name", "kind")}
        assert not list(catalogue.option_problems(catalogue.sources()[source["kind"]], options))
        assert (DATA.parent / options["path"]).exists()


def test_every_hour_is_there_and_faults_are_where_the_readme_says(observed):
    assert observed.attrs["notes"] == () and "known_assumed" not in observed.attrs
    final = known.as_known(observed, list(BASINS), SPAN)
    assert np.isfinite(final["precipitation"]).all() and np.isfinite(final["pet"]).all()
    assert np.isfinite(final["temperature"][:, 1]).all() and np.isnan(final["temperature"][:, 0]).all()
    for i, name in enumerate(BASINS):
        flow, trouble = final["discharge"][:, i], generator.TROUBLES[name]
        for gap in trouble.gaps:
            assert np.isnan(flow[when(gap)]).all()
        assert np.isnan(flow).mean() < 0.012
        assert np.nanmax(np.diff(flow[when(trouble.stuck)])) == 0
        at = when((trouble.spike, trouble.spike))[0]
        assert flow[at] > 5 * flow[at + 1]
        first = known.as_known(observed, list(BASINS), SPAN, SPAN + 10 * MINUTE)["discharge"][:, i]
        ratio = first[when(trouble.revised)] / flow[when(trouble.revised)]
        np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1.2, atol=0.01)
        assert np.isnan(first[when(trouble.late)]).all()
    changes = known.late(observed, list(BASINS), SPAN, 10 * MINUTE)
    assert 300 < changes.known.size < 900 and set(changes.variable) == {known.NAMES.index("discharge")}


def test_quality_control_finds_the_faults_and_nothing_else(observed):
    final = known.as_known(observed, list(BASINS), SPAN)["discharge"]
    limits = [quality.limits_from(final[:, i], basin.area_km2) for i, basin in enumerate(generator.BASINS)]
    total = quality.aggregate(quality.flags(final, limits))
    for i, name in enumerate(BASINS):
        trouble = generator.TROUBLES[name]
        stuck = when(trouble.stuck)
        expected = {*stuck[72:].tolist(), *when((trouble.spike, trouble.spike)).tolist()}
        assert abs(len(expected ^ set(np.flatnonzero(total[:, i] == quality.FAIL).tolist()))) <= 8
        assert (total[:, i] == quality.SUSPECT).mean() < 0.01


def test_the_rivers_behave_like_rivers(truth):
    for name, river in truth.items():
        q, p = river.discharge, river.precipitation
        depth = q.sum() * 3.6 / BASINS[name].area_km2
        assert 0.5 < depth / p.sum() < 0.9
        assert 0.98 < np.corrcoef(q[1:], q[:-1])[0, 1] < 0.9995
        assert q.min() > 0 and 20 < q.max() / np.median(q) < 200
        assert 0.12 < (p > 0.1).mean() < 0.22 and 8 < p.max() < 40
    alder, fell = truth["alder"], truth["fell"]
    assert 0.3 < np.corrcoef(alder.precipitation, fell.precipitation)[0, 1] < 0.95
    month = SPAN.astype("datetime64[M]").astype(int) % 12
    melt, winter = (fell.discharge[np.isin(month, months)].mean() for months in ((4, 5), (0, 1)))
    assert melt > 2 * winter
    assert alder.discharge[np.isin(month, (0, 1))].mean() > alder.discharge[np.isin(month, (6, 7))].mean()


def test_water_is_neither_made_nor_lost():
    basin = replace(generator.FELL, bands=(100.0,))
    time = synthetic.hours_of(2023)
    steady = synthetic.Weather(time, np.full((8760, 1), 0.8), np.full((8760, 1), 12.0), np.zeros(8760))
    q = synthetic.runoff(basin, steady) * 3.6 / basin.area_km2
    np.testing.assert_allclose(q[-100:], 0.8, rtol=1e-3)
    pulse = np.zeros((8760, 1))
    pulse[3000:3010] = 4.0
    quiet = replace(steady, precipitation=np.full((8760, 1), 0.05))
    extra = synthetic.runoff(basin, replace(quiet, precipitation=0.05 + pulse)) - synthetic.runoff(basin, quiet)
    assert (extra > -1e-9).all()
    assert 0.95 < extra.sum() * 3.6 / basin.area_km2 / 40.0 <= 1.001


def test_forecasts_are_known_after_they_were_made_and_get_worse_with_lead(forecasts, truth):
    delay = (forecasts["known"] - forecasts["reference_time"]).values / MINUTE
    assert delay.min() >= 210 and delay.max() <= 250
    lead = (forecasts["time"] - forecasts["reference_time"]).values // HOUR
    assert lead.min() == 1 and lead.max() == 36
    assert forecasts["reference_time"].values.min() == generator.FORECASTS_FROM
    place = ((forecasts["time"].values - SPAN[0]) // HOUR).astype(int)
    correlations, ratios = [], []
    for low, high in ((1, 6), (7, 12), (13, 24), (25, 36)):
        inside = (lead >= low) & (lead <= high)
        pairs = []
        for name, river in truth.items():
            mine = inside & (forecasts["station"].values == name)
            pairs.append((forecasts["precipitation"].values[mine], river.precipitation[place[mine]]))
        made, real = (np.concatenate(column) for column in zip(*pairs, strict=True))
        correlations.append(np.corrcoef(made, real)[0, 1])
        ratios.append(made.sum() / real.sum())
    assert 0.8 < correlations[0] < 0.95 and 0.6 < correlations[-1] < 0.85
    assert correlations[0] > correlations[1] + 0.03
    assert all(0.8 < ratio < 1.02 for ratio in ratios) and np.mean(ratios) < 0.96


def test_the_demonstration_fits_through_the_store(tmp_path, observed, forecasts):
    store = Store(tmp_path, "demo")
    counts = store.append(observed, NOW)
    assert counts.duplicate == counts.rejected == 0 and counts.late > 300
    assert store.append(forecasts, NOW).new == forecasts.sizes["record"]
    back = store.observations(list(BASINS), SPAN[0], NOW)
    for at in (None, np.datetime64("2024-10-24T00:00")):
        before, after = (known.as_known(ds, list(BASINS), SPAN, at) for ds in (observed, back))
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
