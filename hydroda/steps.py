"""What there is to do, one function each: settings and a time in, files out, safe to repeat. Flows and the command line
call these and nothing else. Heavy libraries are loaded by the step that needs them.
"""

import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydroda import domain as domains
from hydroda import settings_file
from hydroda.domain import store_of
from hydroda.forecast import calibrated
from hydroda.progress import Progress, among, silent
from hydroda.settings import Catchment, Settings
from hydroda.sources import csv_file, drop_folder
from hydroda.sources.intake import Refused
from hydroda.storage import files
from hydroda.storage.record_files import Counts
from hydroda.storage.records import ALWAYS
from hydroda.units import HOUR, check_period, utc_now
from hydroda.vocabulary import LeadForcing, VerifiedKind

if TYPE_CHECKING:
    from hydroda.calibrating import fitting
    from hydroda.inspection import Finding
    from hydroda.running.operation import Done
    from hydroda.teaching import learning

log = logging.getLogger(__name__)
OVERLAP = 240 * HOUR  # how far before the newest observation a source is asked again, for what came late


@dataclass(frozen=True)
class Outcome:
    """How the calibration or training of one catchment ended, in words."""

    station: str
    summary: str
    failed: bool = False


def init(folder: Path) -> Path:
    """Writes a settings file to fill in into a folder and returns its path. Raises FileExistsError."""
    path = folder / "hydroda.toml"
    if path.exists():
        raise FileExistsError(f"{path} is there already and was left as it is")
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(path, settings_file.TEMPLATE.encode())
    return path


def add_catchment(
    config: Path,
    station: str,
    csv: Path,
    area_km2: float,
    *,
    lat: float | None = None,
    lon: float | None = None,
    elevation: float | None = None,
    name: str | None = None,
) -> Counts:
    """Adds a catchment to the settings file and the data of a CSV file to the store; the settings keep every character.

    Nothing is changed when the file, the numbers or the id cannot be used. Raises SettingsError, Refused, OSError.
    """
    settings = settings_file.load(config)
    if csv.is_dir():
        raise Refused(f"{csv} is a folder; name the one file of {station}, .csv or .csv.gz")
    # not checked here: the extended settings are, as a whole and with line numbers
    new = Catchment.model_construct(
        id=station, area_km2=area_km2, lat=lat, lon=lon, elevation=elevation, name=name or ""
    )
    extended = settings_file.append_catchment(config.read_bytes().decode("utf-8"), new, config)
    gauge = settings_file.parse(extended, config).catchment(station)
    found = csv_file.read(ALWAYS, utc_now(), [gauge], path=csv, station=station)
    if not found.sizes["record"]:
        said = "; ".join(found.attrs.get("notes", ())) or "there is none"
        raise Refused(f"{csv}: no row can be used for {station}: {said}")
    counts = store_of(settings).append(found)
    files.replace(config, extended.encode())
    return counts


def check(settings: Settings) -> "list[Finding]":
    """What is right and wrong with settings, data and store, the worst first, each with what to do about it."""
    from hydroda import inspection

    return inspection.inspect(settings, utc_now())


def ingest(settings: Settings, source: str) -> Counts:
    """News from one source into the store. Raises what the source raises; nothing stored is lost."""
    described = settings.source(source)
    read = importlib.import_module(f"hydroda.sources.{described.kind}").read
    options = settings.source_options(source)
    now = utc_now()
    store = store_of(settings)
    start = ALWAYS if "path" in options else _asked_from(settings, now)
    found = read(start, now, settings.catchments, **options)
    counts = store.append(found)
    if not counts.unwritten:  # else all is read again, and what is there already is no news
        drop_folder.taken(found)
    for problem in counts.problems:
        log.warning("%s: %s", source, problem)
    return counts


def _asked_from(settings: Settings, now: np.datetime64) -> np.datetime64:
    """The first hour a provider is asked for: some days before the newest observation, else all that a start needs."""
    needed = now - (settings.cycle.spin_up_hours + settings.cycle.window_hours) * HOUR
    store = store_of(settings)
    newest = [store.newest(catchment.id) for catchment in settings.catchments]
    known = [time for time in newest if time is not None]
    return max(needed, min(known) - OVERLAP) if len(known) == len(newest) and known else needed


def missed(settings: Settings, target: np.datetime64) -> list[np.datetime64]:
    """The cycles since the last complete one and before the target, oldest first, at most `catch_up_hours`; none where
    nothing is known of the hours they would look back at.

    A cycle is complete when its belief is stored, which is written last.
    """
    from hydroda.running import operation

    return operation.missed(settings, target)


def run(settings: Settings, cycle: np.datetime64, *, force: bool = False, catch_up: bool = False) -> "Done":
    """The forecast of one cycle from what is in the store. Raises lock.Busy when another run writes."""
    from hydroda.running import operation

    return operation.run(settings, cycle, force=force, catch_up=catch_up)


def hindcast(
    settings: Settings,
    start: np.datetime64,
    end: np.datetime64,
    *,
    forcing: LeadForcing = "observed",
    products: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """The archives of the forecasts of every hour of a past period. Raises ValueError, lock.Busy."""
    from hydroda.running import hindcasting

    check_period(start, end)
    return hindcasting.hindcast(settings, start, end, forcing=forcing, products=products, progress=progress)


def calibrate(
    settings: Settings,
    stations: Sequence[str],
    start: np.datetime64,
    end: np.datetime64,
    *,
    validation: np.datetime64 | None = None,
    progress: Progress = silent,
    effort: "fitting.Effort | None" = None,
    quick: bool = False,
) -> list[Outcome]:
    """Fits catchments to their observations from `start` to `end`; one that cannot be fitted does not stop the others.

    The model is not searched on hours from `validation` on, but chosen by them too. `effort` is a
    `fitting.Effort`, how long to search; without one `quick` takes a short one, for a first trial. Raises ValueError
    for a period that is none.
    """
    from hydroda.calibrating import fitting

    check_period(start, end)
    store, effort = store_of(settings), effort or (fitting.QUICK if quick else fitting.Effort())
    results = []
    for i, station in enumerate(stations):
        told = among(progress, i, len(stations), station)
        try:
            found = fitting.fit(settings, store, settings.catchment(station), start, end, effort, told, validation)
        except ValueError as error:
            results.append(Outcome(station, f"not calibrated: {error}", failed=True))
            continue
        store.write_parameters(station, found.content())
        results.append(Outcome(station, fitting.summary(found)))
    return results


def train(
    settings: Settings,
    stations: Sequence[str],
    start: np.datetime64 | None = None,
    end: np.datetime64 | None = None,
    *,
    progress: Progress = silent,
    effort: "learning.Effort | None" = None,
    design: str = "gain",
    parameters: bool = False,
    rain: bool = False,
    together: bool = False,
    unseen: Sequence[str] = (),
) -> list[Outcome]:
    """Trains networks for calibrated catchments from `start` to `end`, each judged in the part held back from it.

    A time that is not given is that of the calibration of each. One that cannot be trained does not stop the others;
    training that was interrupted goes on where it was. `together` makes one set of networks for all of them, and for
    those `unseen`, which they are not trained on. `effort` says how to train; without one networks learn the model's
    `parameters` too, and correct the `rain`, if that is asked for. `design` says what networks do (see `designs`): for
    the "best" both are trained, and the gain is kept unless forecasts with the other err clearly less. Raises
    ValueError for `parameters` or `rain` beside an effort, which says so itself.
    """
    from hydroda.teaching import learning, pupils

    results: list[Outcome] = []
    lessons = [(tuple(stations), tuple(unseen))] if together else [((station,), ()) for station in stations]
    if effort is not None and (parameters or rain):
        raise ValueError("say in the effort whether networks learn parameters or correct the rain, not beside it")
    how = effort or learning.Effort(parameters=parameters, rain=rain)
    for i, (taught, others) in enumerate(lessons):
        told, every = among(progress, i, len(lessons), ", ".join(taught)), (*taught, *others)
        try:
            said = pupils.teach(settings, taught, others, (start, end), how, design, told, together=together)
            results += map(Outcome, every, said)
        except ValueError as error:
            results += [Outcome(each, f"not trained: {error}", failed=True) for each in every]
    return results


def uncalibrated(settings: Settings) -> list[str]:
    """The catchments that cannot be forecast yet."""
    return list(domains.load(settings).lacking)


def adopt(settings: Settings, station: str, file: Path) -> Path:
    """Takes over a parameters file of another deployment of the same catchment. Raises ValueError, OSError."""
    content = json.loads(file.read_text(encoding="utf-8"))
    found = calibrated.restore(content)
    if found.station != settings.catchment(station).id:
        raise ValueError(f"{file} is of {found.station!r}, not of {station!r}")
    return store_of(settings).write_parameters(station, content)


def verify(
    settings: Settings,
    start: np.datetime64,
    end: np.datetime64,
    *,
    kind: VerifiedKind = "hindcast",
    forcing: LeadForcing | None = None,
) -> Path:
    """The file of scores of a period. Raises ValueError when there is nothing to score."""
    from hydroda.verifying import scoring

    check_period(start, end)
    return scoring.verify(settings, start, end, kind=kind, forcing=forcing)


def score_table(path: Path, *, all_leads: bool = False) -> str:
    """The scores of a file for a terminal."""
    from hydroda.pages import score_tables
    from hydroda.verifying import scoring

    return score_tables.table(scoring.read(path), all_leads=all_leads)


def score_json(path: Path) -> dict[str, Any]:
    """The scores of a file for programs."""
    from hydroda.pages import score_tables
    from hydroda.verifying import scoring

    return score_tables.summary_json(scoring.read(path))


def skill_figure(path: Path) -> Path:
    """A picture of the scores of a file, beside it."""
    from hydroda.pages import drawing, figures
    from hydroda.verifying import scoring

    target = path.with_suffix(".png")
    files.replace(target, drawing.png(figures.skill_by_lead(scoring.read(path))))
    return target


def forecast_table(settings: Settings) -> str:
    """The newest published forecast for a terminal, and where its file is. Raises FileNotFoundError."""
    from hydroda.pages import reporting

    return reporting.table(settings)


def hydrographs(settings: Settings) -> list[Path]:
    """Pictures of the newest published forecast, one for each station. Raises FileNotFoundError."""
    from hydroda.pages import reporting

    return reporting.draw(settings)


def report(settings: Settings) -> Path:
    """A page of the latest forecasts and scores. Raises FileNotFoundError when nothing was published."""
    from hydroda.pages import reporting

    return reporting.write(settings, utc_now())
