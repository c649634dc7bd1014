"""What an hourly run costs beside its numerics, and whether a long hindcast grows: `pytest -m slow -s` on this file."""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import FIRST, with_networks

from hydroda import steps
from hydroda.forecast import choice
from hydroda.running import operation
from hydroda.settings_file import load
from hydroda.steps import store_of
from hydroda.storage import netcdf
from hydroda.units import HOUR

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COUNT = 100


@pytest.fixture
def hundred(settings):
    """The small deployment with a hundred gauges: the data and parameters of one under many names."""
    store = store_of(settings)
    names = [f"g{i:03d}" for i in range(COUNT)]
    text = settings.file.read_text()
    blocks = "".join(f"[[catchment]]\nid = '{name}'\narea_km2 = 40.0\nlat = 47.0\nlon = 9.8\n" for name in names)
    settings.file.write_text(text[: text.index("[[catchment]]")] + blocks)
    content = store.read_parameters("ach")
    seen = store.observations(["ach"], FIRST - 3000 * HOUR, FIRST + 48 * HOUR)
    for name in names:
        store.write_parameters(name, {**content, "station": name})
        store.append(
            seen.assign_coords(station=("record", np.full(seen.sizes["record"], name))), now=FIRST + 999 * HOUR
        )
    return load(settings.file)


def test_share_of_an_hourly_run_outside_the_numerics(hundred, monkeypatch):
    spent = {"numerics": 0.0}

    def timed(function):
        def call(*arguments):
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent["numerics"] += time.perf_counter() - began

        return call

    steps.run(hundred, FIRST)  # cold: not what is measured
    for module, name in ((operation, "advance"), (operation, "outlook")):
        monkeypatch.setattr(module, name, timed(getattr(module, name)))
    began = time.perf_counter()
    for i in range(1, 6):
        assert steps.run(hundred, FIRST + i * HOUR).state == "degraded"
    inside = (time.perf_counter() - began) / 5
    numerics = spent["numerics"] / 5
    began = time.perf_counter()
    cycle = np.datetime_as_string(FIRST + 6 * HOUR, "m")
    command = [sys.executable, "-m", "hydroda", "run", "--cycle", cycle, "--config", str(hundred.file)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    whole = time.perf_counter() - began
    print(
        f"\n{COUNT} gauges, window {hundred.cycle.window_hours} h: numerics {numerics:.2f} s, a cycle {inside:.2f} s, "
        f"a whole process {whole:.2f} s; outside the numerics {1 - numerics / inside:.0%} of the cycle, "
        f"{1 - numerics / whole:.0%} of the process"
    )
    assert numerics < inside < whole


def test_memory_stays_flat_over_a_year_of_hindcasts(settings):
    store = store_of(settings)
    seen = store.observations(["ach", "bregenz"], FIRST - 3000 * HOUR, FIRST + 400 * HOUR)
    for repeat in range(1, 4):  # the same months again and again make a long record
        moved = seen.assign_coords(
            {name: ("record", seen[name].values + repeat * 3400 * HOUR) for name in ("time", "known")}
        )
        store.append(moved, now=FIRST + 99999 * HOUR)
    peaks: list[tuple[str, int]] = []

    def watch(fraction, text):
        month = text[:7]
        if not peaks or peaks[-1][0] != month:
            peaks.append((month, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

    began = time.perf_counter()
    steps.hindcast(settings, FIRST, FIRST + 8760 * HOUR, progress=watch)
    print("\nhighest memory so far [MiB]:", json.dumps({month: peak >> 10 for month, peak in peaks}))
    print(f"a year of hindcasts of two catchments: {time.perf_counter() - began:.0f} s")
    settled, last = peaks[2][1], peaks[-1][1]
    assert last < 1.1 * settled


@pytest.mark.parametrize("design", ["gain", "levels"])
def test_networks_beside_the_filter_cost_little(hundred, design):
    def seconds(first: int) -> float:
        taken = []
        for i in range(first, first + 4):
            began = time.process_time()
            assert steps.run(hundred, FIRST + i * HOUR).state == "degraded"
            taken.append(time.process_time() - began)
        return min(taken[1:])  # the first starts cold

    plain = seconds(0)
    with_networks(hundred, {catchment.id: design for catchment in hundred.catchments})
    both = seconds(4)
    method = netcdf.read(store_of(hundred).product_path("fc", FIRST + 7 * HOUR)).discharge_method
    assert (method.values == 1 + choice.METHODS.index(choice.BOTH)).all()
    print(
        f"\n{COUNT} gauges, an hourly cycle: {plain:.2f} s with a filter, {both / plain:.2f} times that with networks "
        f"({design})"
    )
