"""A small deployment for the tests of whole steps: made-up gauges, parameters without a search, no file outside tmp."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydroda import steps
from hydroda.calibrating import fitting
from hydroda.filters import guided
from hydroda.forecast import designs, network_files
from hydroda.forecast.batches import build_model
from hydroda.schema import LEADS
from hydroda.settings import Settings
from hydroda.settings_file import load
from hydroda.sources import synthetic
from hydroda.units import HOUR

START = np.datetime64("2003-01-01T00", "ns")
CALIBRATED_UNTIL = np.datetime64("2003-05-31T23", "ns")
END = np.datetime64("2003-06-30T23", "ns")
FIRST = np.datetime64("2003-06-10T06", "ns")  # a cycle with data before and after it
GAUGES = (("ach", 40.0), ("bregenz", 160.0))
EFFORT = fitting.Effort(model=(2, 6), filter=(1, 6))
SMALL = (
    '[deployment]\ndomain = "alps"\n[cycle]\nwindow_hours = 30\nspin_up_hours = 1200\n[forcing]\nforecast = "none"\n'
    + "".join(f"[[catchment]]\nid = '{name}'\narea_km2 = {area}\nlat = 47.0\nlon = 9.8\n" for name, area in GAUGES)
)


def compliance(files: Sequence[Path], *tests: str) -> dict[str, Any]:
    """The report of the IOOS compliance checker on files, {name: {test: report}}; skips where it is not installed."""
    tool = shutil.which("compliance-checker", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("compliance-checker is not installed")
    report = files[0].parent / "report.json"
    asked = [part for test in tests for part in ("-t", test)]
    command = [tool, *asked, "-c", "strict", "-f", "json_new", "-o", str(report), *map(str, files)]
    subprocess.run(command, check=False, capture_output=True)
    found = json.loads(report.read_text())
    assert len(found) == len(files)
    return {Path(name).name: of for name, of in found.items()}


def complaints(report, *levels):
    """What lost points; a remark on something that passes is none."""
    entries = [entry for level in levels for entry in report[f"{level}_priorities"]]
    return [
        (entry["name"], what) for entry in entries if entry["value"][0] < entry["value"][1] for what in entry["msgs"]
    ]


def with_late_values(records):
    """Records in which every seventh discharge of one gauge came hours late, and some were corrected later."""
    late = (np.arange(records.sizes["record"]) % 7 == 3) & (records["station"].values == "ach")
    hours = 1 + np.arange(late.size) % 5
    known = np.where(late, records["time"].values + hours * HOUR, records["time"].values)
    return records.assign_coords(known=("record", known.astype("datetime64[ns]")))


def with_networks(settings: Settings, kinds: Mapping[str, str]) -> None:
    """Untrained networks of a design for each gauge, three of each, that every lead of the forecast asks for."""
    store = steps.store_of(settings)
    for station, name in kinds.items():
        path, content = store.weights_path(station), store.read_parameters(station)
        stores = torch.tensor([state.water for state in build_model(content["model"], content["temperature"]).states])
        states = 20.0 * torch.rand(200, len(stores), dtype=torch.float64)
        scales = guided.scales(states, torch.rand(200, dtype=torch.float64), stores)
        network_files.save(path, designs.design(name).initial(scales, stores, range(3), (6.0, 0.0)), {"design": name})
        content["choice"] = dict.fromkeys(("observed", "none"), ["filter_and_networks"] * LEADS.size)
        report = {"design": name, "filter": settings.filter.model_dump(mode="json")}
        content["taught"] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "report": report}
        store.write_parameters(station, content)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory) -> Path:
    """The settings file of a calibrated deployment with half a year of data; copy its folder before writing to it."""
    folder = tmp_path_factory.mktemp("deployed")
    config = folder / "hydroda.toml"
    config.write_text(SMALL)
    settings = load(config)
    found = synthetic.read(START, END, settings.catchments, now=END)
    assert not steps.store_of(settings).append(with_late_values(found), now=END + 24 * HOUR).problems
    results = steps.calibrate(
        settings, [name for name, _ in GAUGES], START + 20 * 24 * HOUR, CALIBRATED_UNTIL, effort=EFFORT
    )
    assert not [result for result in results if result.failed]
    return config


@pytest.fixture
def settings(deployed, tmp_path) -> Settings:
    """A copy of the deployment of its own."""
    shutil.copytree(deployed.parent, tmp_path / "mine")
    return load(tmp_path / "mine" / "hydroda.toml")
