"""From raw file to score table by five commands, on real catchments.

Calibrated on the first years, scored on the last. The hours between are for validation: the model is not searched on
them, but chosen by them too, and the error levels of the filter are fitted to both. The floors are what another
implementation of the same kind of model and an unscented filter tuned for all leads reached.
Set HYDRODA_SKILL to keep the deployments, and the tables of README.md, in a folder.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hydroda.__main__ import main
from hydroda.verification import LABELS

ROOT = Path(__file__).parent.parent.parent
REAL = Path(os.environ.get("HYDRODA_REAL_DATA", ROOT.parent / "shared" / "data"))
LEADS = (1, 2, 3, 6, 9, 12, 18, 24)
TOLERANCE = 0.01

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not REAL.is_dir(), reason=f"real catchments are not in {REAL}; HYDRODA_REAL_DATA says where"),
]


@dataclass(frozen=True)
class Case:
    """A catchment: km², place, periods, and NSE to reach: of the model alone and of the filter at LEADS."""

    area: float
    place: tuple[str, ...]
    pet: float | None
    calibration: tuple[str, str]
    validated: str  # last hour of validation, which begins where calibration ends
    test: tuple[str, str]
    plain: float
    filtered: tuple[float, ...]


CASES = {
    "dornbirnerach": Case(
        114.8,
        ("--lat", "47.4", "--lon", "9.7"),
        550.0,
        ("1996-07-01", "2000-12-31T23"),
        "2001-12-31T23",
        ("2002-01-01", "2003-12-30T23"),
        0.750,
        (0.9917, 0.968, 0.938, 0.858, 0.814, 0.800, 0.792, 0.782),
    ),
    "l0123003": Case(
        920.0,
        (),
        None,
        ("2004-04-01", "2005-12-31T23"),
        "2006-12-31T23",
        ("2007-01-01", "2007-12-30T23"),
        0.837,
        (0.9984, 0.9932, 0.986, 0.964, 0.945, 0.935, 0.921, 0.908),
    ),
    "posina": Case(
        111.5,
        ("--lat", "45.8", "--lon", "11.3"),
        None,
        ("1995-01-01", "1996-03-31T23"),
        "1996-09-30T23",
        ("1996-10-01", "1997-12-30T23"),
        0.807,
        (0.9951, 0.984, 0.970, 0.940, 0.920, 0.904, 0.880, 0.854),
    ),
    "wye": Case(
        10.6,
        ("--lat", "52.4", "--lon", "-3.7"),
        480.0,
        ("1987-05-01", "1988-03-31T23"),
        "1988-06-30T23",
        ("1988-07-01", "1988-12-30T23"),
        0.933,
        (0.941, 0.932, 0.926, 0.925, 0.929, 0.929, 0.931, 0.938),
    ),
}


def hydroda(folder: Path, *arguments: str) -> None:
    """One command, as a person types it in that folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(list(arguments)) == 0, arguments
    finally:
        os.chdir(before)


@pytest.fixture(params=CASES)
def scores(request, tmp_path):
    """The scores of a catchment as `hydroda verify --json` writes them; what is there already is not made again."""
    name, case = request.param, CASES[request.param]
    folder = Path(os.environ.get("HYDRODA_SKILL", tmp_path)) / name
    if not (folder / "hydroda.toml").exists():
        hydroda(Path.cwd(), "init", str(folder))
    text = (folder / "hydroda.toml").read_text()
    if "\n[[catchment]]" not in text:
        csv = REAL / name / f"{name}_hourly.csv.gz"
        hydroda(folder, "add-catchment", name, str(csv), "--area-km2", str(case.area), *case.place)
        if case.pet is not None:
            with (folder / "hydroda.toml").open("a") as file:
                file.write(f"pet_mm_per_year = {case.pet}\n")
    if not list(folder.glob("store/*/parameters/*.json")):
        after = str(np.datetime64(case.calibration[1], "h") + 1)
        period = ("--start", case.calibration[0], "--validation-start", after, "--end", case.validated)
        hydroda(folder, "calibrate", *period)
    hydroda(folder, "hindcast", *case.test)
    hydroda(folder, "verify", *case.test, "--json", "scores.json")
    return name, json.loads((folder / "scores.json").read_text())["stations"][name]


def markdown(name: str, case: Case, found: dict) -> str:
    """The tables of README.md: NSE of every method and, of the forecast, KGE, CRPS and coverage at every lead."""
    methods = found["methods"]
    head = [*(LABELS[method] for method in methods), "KGE", "CRPS [m³/s]", "% inside 90 %"]
    lines = [
        f"**{name}**: calibrated {case.calibration[0][:7]} to {case.calibration[1][:7]}, validated to "
        f"{case.validated[:7]}, {min(found['n'])} forecasts "
        f"issued {case.test[0][:10]} to {case.test[1][:10]}, observed rain in the lead hours",
        "",
        f"| lead | {' | '.join(head)} |",
        "|---" * (len(head) + 1) + "|",
    ]
    for i in range(24):
        nse = [methods[method]["nse"][i] for method in methods]
        best = max(nse)
        cells = [f"**{value:.3f}**" if value == best else f"{value:.3f}" for value in nse]
        own = methods["forecast"]
        cells += [f"{own['kge'][i]:.3f}", f"{own['crps'][i]:.3g}", f"{found['coverage_90'][i]:.0f}"]
        lines.append(f"| {i + 1} h | {' | '.join(cells)} |")
    return "\n".join(lines)


def reaches(value: float, floor: float) -> bool:
    """Whether a score is at most the tolerance below a floor, to the three decimals floors are printed with."""
    return round(value, 3) >= round(floor - TOLERANCE, 3)


def test_five_commands_reach_what_others_reached(scores):
    name, found = scores
    print(f"\n{markdown(name, CASES[name], found)}")
    nse = {method: [found["methods"][method]["nse"][lead - 1] for lead in LEADS] for method in found["methods"]}
    assert reaches(nse["open_loop"][0], CASES[name].plain)
    for lead, value, floor in zip(LEADS, nse["forecast"], CASES[name].filtered, strict=True):
        assert reaches(value, floor), f"{name} at {lead} h"
