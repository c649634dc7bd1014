"""The commands of what is done once for a catchment: a folder, its data, its calibration, its networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hydroda.commands.console import COMMON, Common, UsageError, counted, period, progress, utc

if TYPE_CHECKING:
    from hydroda.settings import Settings
    from hydroda.steps import Outcome


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


def calibrate(
    *stations: str,
    start: str,
    end: str,
    validation_start: str | None = None,
    quick: bool = False,
    common: Common = COMMON,
) -> int:
    """Fit the model and the error levels of the filter to the observations of a period.

    Keep some years out of it: scores of the period it was fitted to flatter.

    Example: hydroda calibrate dornbirn --start 1997-01-01 --end 2002-12-31T23

    Parameters
    ----------
    stations
        Ids; without any, all catchments.
    start
        First hour.
    end
        Last hour; a date alone is its 00:00.
    validation_start
        First hour of a part at the end that is not searched on: of the parameters that were tried those are taken that
        do best over all hours. Worth a year of a short record, which very different parameters fit alike.
    quick
        A search of seconds instead of minutes, to see whether everything works. It does not forecast well.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import steps

    unseen = None if validation_start is None else period(validation_start, end)[0]
    ids = _known(settings, stations)
    with progress("calibrate") as report:
        results = steps.calibrate(settings, ids, first, last, validation=unseen, quick=quick, progress=report)
    return _told(results)


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
    hydroda train dornbirn --start 1997-01-01 --end 2002-12-31T23
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


def _known(settings: "Settings", stations: Sequence[str]) -> list[str]:
    """The ids of stations, of all where none is named; refuses a wrong one before minutes of work."""
    ids = list(stations) or [catchment.id for catchment in settings.catchments]
    for station in ids:
        settings.catchment(station)
    return ids


def _told(results: "Sequence[Outcome]") -> int:
    """What came of every catchment, and the exit code."""
    for result in results:
        print(result.summary)
    return int(any(result.failed for result in results))
