"""The command line: the steps that the flows run, for the night when the scheduler is down and for first steps.

Nothing heavy is imported before a command needs it: `hydroda --help` answers at once.
"""

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from hydroda import __version__, research
from hydroda.console import (
    COMMON,
    INTERRUPTED,
    SAID,
    USAGE,
    Common,
    UsageError,
    counted,
    explain,
    period,
    progress,
    utc,
)

if TYPE_CHECKING:
    from hydroda.settings import Settings
    from hydroda.steps import Calibration

HELP = """Hourly streamflow forecasts by data assimilation, as NetCDF.

A first forecast from a CSV file (columns time, precipitation, discharge; temperature and pet if there are any):

    hydroda init mine && cd mine
    hydroda add-catchment dornbirn ../gauge.csv --area-km2 114.8
    hydroda calibrate --start 1997-01-01 --end 2002-12-31
    hydroda run --cycle 2003-07-01T06
    hydroda report
"""
EXIT_CODES = """Times are UTC: 2003-07-01 or 2003-07-01T06:00.
Exit codes: 0 done, 1 a problem was found or a step failed, 2 wrong usage, 3 wrong settings, 4 another run is writing.
"""

app = App(
    name="hydroda",
    help=HELP,
    help_format="plaintext",
    help_epilogue=EXIT_CODES,
    version=f"hydroda {__version__}",
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,
)


@app.command(sort_key=1)
def init(folder: Path = Path(), /) -> int:
    """Make a folder with a settings file to fill in.

    Example: hydroda init mine

    Parameters
    ----------
    folder
        Where; made if it is not there.
    """
    from hydroda import steps

    print(f"{steps.init(folder)}: name your deployment there, then add a catchment: hydroda add-catchment --help")
    return 0


@app.command(sort_key=2)
def add_catchment(
    station: str,
    csv: Path,
    /,
    *,
    area_km2: float,
    name: str | None = None,
    lat: float | None = None,
    lon: float | None = None,
    elevation: float | None = None,
    common: Common = COMMON,
) -> int:
    """Add a catchment to the settings and its data to the store.

    Example: hydroda add-catchment dornbirn gauge.csv --area-km2 114.8 --lat 47.4 --lon 9.7

    Parameters
    ----------
    station
        Its id, as in file names: a-z, 0-9, _ and -.
    csv
        Hourly data, .csv or .csv.gz: time (end of the hour, UTC), precipitation (mm/h), discharge (m3/s),
        temperature (degC) and pet (mm/h) if there are any; empty where missing.
    area_km2
        Area above the gauge.
    name
        Its name for people.
    lat
        Latitude of the gauge, degrees north.
    lon
        Longitude of the gauge, degrees east.
    elevation
        Of the gauge, m.
    """
    from hydroda import steps

    counts = steps.add_catchment(common.file, station, csv, area_km2, lat=lat, lon=lon, elevation=elevation, name=name)
    print(f"{station}: {counted(counts)}")
    return 0


@app.command(sort_key=3)
def check(*, common: Common = COMMON) -> int:
    """Say what is wrong with the settings, the data and the store, and what to do about it.

    Example: hydroda check || mail -s "hydroda needs you" me
    """
    from hydroda import steps

    findings = steps.check(common.settings)
    for finding in findings:
        print(f"{finding.level:7} {finding.what}" + (f"\n        -> {finding.remedy}" if finding.remedy else ""))
    return int(any(finding.level == "error" for finding in findings))


def _known(settings: "Settings", stations: Sequence[str]) -> list[str]:
    """The ids of stations, of all where none is named; refuses a wrong one before minutes of work."""
    ids = list(stations) or [catchment.id for catchment in settings.catchments]
    for station in ids:
        settings.catchment(station)
    return ids


def _told(results: "Sequence[Calibration]") -> int:
    """What came of every catchment, and the exit code."""
    for result in results:
        print(result.summary)
    return int(any(result.failed for result in results))


@app.command(sort_key=4)
def calibrate(
    *stations: str, start: str, end: str, validation_start: str | None = None, common: Common = COMMON
) -> int:
    """Fit the model and the error levels of the filter to the observations of a period.

    Keep some years out of it: scores of the period it was fitted to flatter.

    Example: hydroda calibrate dornbirn --start 1997-01-01 --end 2002-12-31

    Parameters
    ----------
    stations
        Ids; without any, all catchments.
    start
        First hour.
    end
        Last hour.
    validation_start
        First hour of a part at the end that is not searched on: of the parameters that were tried those are taken that
        do best over all hours. Worth a year of a short record, which very different parameters fit alike.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import steps

    unseen = None if validation_start is None else period(validation_start, end)[0]
    ids = _known(settings, stations)
    with progress("calibrate") as report:
        results = steps.calibrate(settings, ids, first, last, validation=unseen, progress=report)
    return _told(results)


@app.command(sort_key=5)
def train(
    *stations: str,
    start: str | None = None,
    end: str | None = None,
    design: Literal["gain", "levels", "best"] = "gain",
    parameters: bool = False,
    rain: bool = False,
    together: bool = False,
    unseen: list[str] | None = None,
    common: Common = COMMON,
) -> int:
    """Train networks that help the filter of calibrated catchments, each in all but a part of the record.

    That part says what share they get in forecasts. Their weights are kept beside the parameters and are used from then
    on. Training that is interrupted goes on.

    Examples: hydroda train
    hydroda train dornbirn --start 1997-01-01 --end 2002-12-31
    hydroda train dornbirn wye --together --unseen posina

    Parameters
    ----------
    stations
        Ids; without any, all catchments.
    start
        First hour; without it, that of the calibration of each catchment.
    end
        Last hour; without it, that of the calibration.
    design
        What networks do: give the gain of their own run of the model, or set the error levels of the filter, run again
        with them, hour by hour; for the best both are trained, and the gain is kept unless the other is clearly better.
    parameters
        Whether each network learns parameters of the model too, within their bounds, for its own run of it.
    rain
        Whether networks that give the gain correct the error of the rain too.
    together
        Whether all catchments get the same networks, trained on all of them and told how they differ.
    unseen
        Ids of catchments that get them too and are not trained on, with --together.
    """
    settings, others = common.settings, list(unseen or ())
    times = [None if time is None else utc(time) for time in (start, end)]
    if None not in times and not times[0] < times[1]:  # type: ignore[operator]
        raise UsageError(f"training starts before it ends, not {start} and then {end}")
    if others and not together:
        raise UsageError("--unseen is for networks that are trained --together; the others are of one catchment each")
    from hydroda import steps

    ids = [station for station in _known(settings, stations) if station not in others]
    others = _known(settings, others) if others else []
    if not ids:
        raise UsageError("there is no catchment to train on; all of them are --unseen")
    with progress("train") as report:
        results = steps.train(
            settings,
            ids,
            *times,
            progress=report,
            design=design,
            parameters=parameters,
            rain=rain,
            together=together,
            unseen=others,
        )
    return _told(results)


@app.command(sort_key=6)
def run(*, cycle: str | None = None, force: bool = False, common: Common = COMMON) -> int:
    """Make the forecast of this hour: fetch data, catch up on missed hours, assimilate, publish.

    With --cycle: the forecast of that hour from what is in the store.

    Example: hydroda run --cycle 2003-07-01T06

    Parameters
    ----------
    cycle
        Issue time, the last hour whose observations are used. [default: now, less the cut-off]
    force
        Make it again although it is there.
    """
    settings = common.settings
    target = None if cycle is None else utc(cycle)
    from hydroda import steps
    from hydroda.units import floor_hour, iso, utc_now

    if target is None:
        target = settings.cycle_at(utc_now())
        _fetch(settings)
        cycles = [*(c for c in steps.pending(settings, target) if c != target), target]
    elif target != floor_hour(target):
        raise UsageError(f"{cycle} is not a full hour; the nearest cycle before it is {iso(floor_hour(target))}")
    else:
        cycles = [target]
    failed = False
    for each in cycles:
        late = each != target  # a missed cycle, made good
        result = steps.run(settings, each, force=force and not late, catch_up=late)
        failed |= result.state == "failed"
        print(" ".join(filter(None, (iso(each), result.state, result.message))))
        for file in result.files:
            print(f"  {file}")
    return int(failed)


def _fetch(settings: "Settings") -> None:
    """Ask every source for news; one that fails is said and does not stop the others."""
    from hydroda import steps

    for source in settings.sources:
        try:
            print(f"{source.name}: {counted(steps.ingest(settings, source.name))}")
        except SAID as error:
            print(f"source {source.name} failed, going on without it: {error}", file=sys.stderr)


@app.command(sort_key=7)
def hindcast(
    start: str,
    end: str,
    /,
    *,
    forcing: Literal["observed", "none", "archived"] = "observed",
    products: bool = False,
    common: Common = COMMON,
) -> int:
    """Forecast every hour of a past period, as it would have been done then, for verification.

    Live products are not touched.

    Example: hydroda hindcast 2003-01-01 2003-12-31

    Parameters
    ----------
    start
        First issue time.
    end
        Last issue time.
    forcing
        Weather of the lead hours: what was observed (perfect foresight), none (no rain), or forecasts as they were
        available then.
    products
        Write the forecast file of every hour too.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import steps

    with progress("hindcast") as report:
        archives = steps.hindcast(settings, first, last, forcing=forcing, products=products, progress=report)
    for archive in archives:
        print(archive)
    return 0


@app.command(sort_key=8)
def verify(
    start: str,
    end: str,
    /,
    *,
    kind: Literal["hindcast", "operational"] = "hindcast",
    forcing: Literal["observed", "none", "archived"] | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    all_leads: bool = False,
    common: Common = COMMON,
) -> int:
    """Score the forecasts of a period against the observations, beside open loop, persistence and error correction.

    Example: hydroda verify 2003-01-01 2003-12-31 --json scores.json

    Parameters
    ----------
    start
        First issue time.
    end
        Last issue time.
    kind
        The hindcasts, or what was really published.
    forcing
        Which hindcasts, when there are several.
    json_file
        Write the scores there too, for programs.
    all_leads
        Show every lead hour, not a few.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import steps

    scores = steps.verify(settings, first, last, kind=kind, forcing=forcing)
    print(steps.score_table(scores, all_leads=all_leads))
    print(f"scores: {scores}\nfigure: {steps.skill_figure(scores)}")
    if json_file:
        json_file.write_text(json.dumps(steps.score_json(scores), indent=1) + "\n", encoding="utf-8")
        print(f"json:   {json_file}")
    return 0


@app.command(sort_key=9)
def report(*, common: Common = COMMON) -> int:
    """Write a page with the latest forecasts and scores, to be opened in a browser.

    Example: hydroda report
    """
    settings = common.settings
    from hydroda import steps

    print(steps.report(settings))
    return 0


app.command(research.compare, sort_key=10)
app.command(research.twin, sort_key=11)
app.command(research.drift, sort_key=12)
app.command(research.reproduce, sort_key=13)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; an error becomes a message, with `--debug` a traceback too."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s", force=True
    )
    try:
        return app(tokens, exit_on_error=False, result_action="return_value") or 0
    except CycloptsError:
        return USAGE  # already printed
    except KeyboardInterrupt:
        print("stopped; what is written is whole, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, text = explain(error)
        print(f"hydroda {tokens[0]}: {text}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
