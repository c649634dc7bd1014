"""`make demo`: the real hourly flow on the bundled data, hours before a flood, in a folder of its own.

Nothing outside that folder is touched: Prefect gets a home in it, a temporary server, and no settings of the user's.
Run again, it goes on from what is there.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np

from flows import PREFECT_SETTINGS
from hydroda import steps
from hydroda.settings import Settings
from hydroda.settings_file import load
from hydroda.units import HOUR, iso

DATA = Path(__file__).parent.parent / "data"
# id, area, latitude, longitude, elevation, name, and what a person would add to the settings by hand
CATCHMENTS = (
    ("alder", 85.0, 47.1, 9.6, 120.0, "Alder Brook (made up)", "pet_mm_per_year = 520.0\nthresholds = [25.0, 50.0]\n"),
    ("fell", 310.0, 46.9, 10.1, 640.0, "Fell Water (made up)", "pet_mm_per_year = 410.0\nthresholds = [90.0, 160.0]\n"),
)
LAST = np.datetime64("2024-11-01T15", "ns")
CYCLES = (LAST - 2 * HOUR, LAST - HOUR, LAST)
SCORED = np.datetime64("2024-10-01T00", "ns"), np.datetime64("2024-10-30T23", "ns")
SOURCE = '\n[[source]]\nname = "weather"\nkind = "netcdf_folder"\nfolder = "weather"\ncontent = "forecasts"\n'


def own_prefect(home: Path) -> None:
    """Before Prefect is imported: a home here, no server or profile of the user's."""
    home.mkdir(parents=True, exist_ok=True)  # which Prefect warns of otherwise
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(PREFECT_SETTINGS, PREFECT_HOME=str(home.resolve()), NO_PROXY="127.0.0.1,localhost")


def prepare(folder: Path) -> Settings:
    """Settings, two years of gauge data, archived weather forecasts, and parameters; only what is not there yet."""
    config = folder / "hydroda.toml"
    if not config.exists():
        steps.init(folder)
        text = config.read_text(encoding="utf-8").replace('domain = "local"', 'domain = "demo"')
        config.write_text(text + SOURCE, encoding="utf-8")
    (folder / "weather").mkdir(exist_ok=True)
    for file in DATA.glob("weather_forecasts.nc*"):
        if not (folder / "weather" / file.name).exists():
            shutil.copy(file, folder / "weather")
    for station, area, lat, lon, elevation, name, by_hand in CATCHMENTS:
        if station not in {catchment.id for catchment in load(config).catchments}:
            csv = DATA / f"{station}_hourly.csv.gz"
            steps.add_catchment(config, station, csv, area, lat=lat, lon=lon, elevation=elevation, name=name)
            config.write_text(config.read_text(encoding="utf-8") + by_hand, encoding="utf-8")
    settings = load(config)
    for station in steps.uncalibrated(settings):
        steps.adopt(settings, station, DATA / f"{station}_parameters.json")
    return settings


def show(settings: Settings, scores: Path) -> None:
    """How good such forecasts were, the last one as a table, and where to look."""
    print(f"\n{steps.score_table(scores)}\n\n{steps.forecast_table(settings)}")
    for picture in steps.hydrographs(settings):
        print(f"picture   {picture}")
    print(f"page      {steps.report(settings)}  (warns that this forecast is old: the data end in 2024)")
    command = os.path.relpath(Path(sys.executable).parent / "hydroda", settings.file.parent)
    print(f"go on     cd {settings.file.parent} && {command} --help")


def main(folder: Path = Path("demo")) -> int:
    """Prepare, run the flows for some cycles and a month of hindcasts, show; 1 if the last cycle was not published."""
    own_prefect(folder / ".prefect")
    from flows.backfill import backfill  # imports Prefect
    from flows.hourly import hourly
    from flows.verify import verify

    settings = prepare(folder)
    config = str(settings.file)
    for cycle in CYCLES:
        state = hourly(config, iso(cycle), return_state=True)
    if state.is_failed():
        print(f"not published: {state.message}", file=sys.stderr)
        return 1
    first, last = map(iso, SCORED)
    backfill(first, last, config, "archived")
    scored = verify(first, last, config, "hindcast", return_state=True)
    show(settings, Path(scored.message or ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
