"""A learned gain inside a rainfall-runoff model (after Sun et al. 2026, EGU26-8698) on four hourly catchments.

Each is a deployment of its own in a folder, made by the steps that the commands call: calibrated, trained, and asked
for a forecast of every hour of its test period, with the rain of the lead hours as observed, degraded, and none. What
is there already is not made again, so a folder with calibrated and trained deployments is only scored.

Not stated there, and chosen here: catchments, periods, and how rain is degraded (`hydroda.generator`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydroda import calibrated, domain, fitting, generator, learning, records, scoring, steps, window
from hydroda import settings as configuration
from hydroda.progress import Progress, among
from hydroda.reproduction import sun2026_report
from hydroda.reproduction.sun2026_scores import Result, scored
from hydroda.schema import LEADS, hours
from hydroda.settings import Settings
from hydroda.units import HOUR

DAY = 24 * HOUR
SPANS = ((1, 6), (7, 12), (13, 24))  # leads [h] of a weather run at which degraded rain is described


@dataclass(frozen=True)
class River:
    """An hourly record: km², degrees of its gauge, yearly PET [mm] where it has none; first and last hour of the part
    that is calibrated and trained on and of the test. Validation lies between the first part and `validated`."""

    area_km2: float
    place: tuple[float, float] | None
    pet: float | None
    taught: tuple[str, str]
    validated: str
    test: tuple[str, str]

    @property
    def validation(self) -> np.datetime64:
        """The first hour of validation."""
        return _time(self.taught[1]) + HOUR

    def tested(self, days: int | None) -> tuple[np.datetime64, np.datetime64]:
        """First and last issue time of the test, or of its first days."""
        first, last = map(_time, self.test)
        return first, last if days is None else first + days * DAY - HOUR

    def told(self, days: int | None) -> str:
        """The periods in words."""
        first, last = self.tested(days)
        return (
            f"calibrated and trained {self.taught[0][:10]} to {self.taught[1][:10]}, validated to "
            f"{self.validated[:10]}, forecasts issued {str(first)[:10]} to {str(last)[:10]}"
        )


RIVERS = {
    "dornbirnerach": River(
        114.8,
        (47.4, 9.7),
        550.0,
        ("1996-07-01", "2000-12-31T23"),
        "2001-12-31T23",
        ("2002-01-01", "2003-12-30T23"),
    ),
    "l0123003": River(
        920.0, None, None, ("2004-04-01", "2005-12-31T23"), "2006-12-31T23", ("2007-01-01", "2007-12-30T23")
    ),
    "posina": River(
        111.5, (45.8, 11.3), None, ("1995-01-01", "1996-03-31T23"), "1996-09-30T23", ("1996-10-01", "1997-12-30T23")
    ),
    "wye": River(
        10.6, (52.4, -3.7), 480.0, ("1987-05-01", "1988-03-31T23"), "1988-06-30T23", ("1988-07-01", "1988-12-30T23")
    ),
}


@dataclass(frozen=True)
class Study:
    """What is run: catchments, how long to search and to train, and days of the test, all where it is None."""

    rivers: tuple[str, ...]
    search: fitting.Effort
    training: learning.Effort
    days: int | None


FULL = Study(tuple(RIVERS), fitting.Effort(), learning.Effort(), None)
QUICK = Study(("wye",), fitting.Effort((3, 16), (2, 12)), learning.Effort(networks=1, steps=10, windows=4), 31)


def reproduce(data: Path, folder: Path, *, quick: bool = False, progress: Progress) -> tuple[str, list[Path]]:
    """The tables and the files in a folder, which holds a deployment for each catchment too.

    `quick` takes one catchment, a short search and a month of test: minutes. Raises FileNotFoundError without the
    records of catchments that have no deployment yet, ValueError where one cannot be calibrated or trained.
    """
    study = QUICK if quick else FULL
    _require(data, folder, study.rivers)
    results: list[Result] = []
    rain = {}
    for i, name in enumerate(study.rivers):
        told = among(progress, i, len(study.rivers), name)
        settings = deployed(data, folder / name, name, study, told)
        first, last = RIVERS[name].tested(study.days)
        rain[name] = degrade(settings, name, first, last)
        for k, forcing in enumerate(sun2026_report.FORCINGS):
            own = among(told, 2 + k, 5, forcing)
            steps.hindcast(settings, first, last, forcing=forcing, progress=own)  # type: ignore[arg-type]
            results.append(scored(name, forcing, scoring.samples(settings, first, last, forcing)[name]))
    text = sun2026_report.page(results, {name: RIVERS[name].told(study.days) for name in study.rivers}, rain)
    paths = sun2026_report.write(folder, text, results)
    progress(1.0, "done")
    return text, paths


def _require(data: Path, folder: Path, names: Sequence[str]) -> None:
    """Says which records are not there before anything takes hours."""
    needed = {name: _csv(data, name) for name in names if not _known(folder / name)}
    lacking = [str(path) for path in needed.values() if not path.exists()]
    if lacking:
        raise FileNotFoundError(
            f"{', '.join(lacking)}: not there; the study needs these hourly records (columns time, precipitation in "
            "mm/h, discharge in m3/s); name the folder they are in by HYDRODA_REAL_DATA"
        )


def _csv(data: Path, name: str) -> Path:
    return data / name / f"{name}_hourly.csv.gz"


def _known(folder: Path) -> bool:
    """Whether a deployment with a catchment is there."""
    path = folder / "hydroda.toml"
    return path.exists() and bool(configuration.load(path).catchments)


def deployed(data: Path, folder: Path, name: str, study: Study, progress: Progress) -> Settings:
    """The calibrated and trained deployment of a catchment, made as far as it is not there."""
    river = RIVERS[name]
    config = folder / "hydroda.toml"
    if not config.exists():
        steps.init(folder)
    if not _known(folder):
        lat, lon = river.place or (None, None)
        steps.add_catchment(config, name, _csv(data, name), river.area_km2, lat=lat, lon=lon)
    settings = configuration.load(config)
    if river.pet not in (None, settings.catchment(name).pet_mm_per_year):
        with config.open("a", encoding="utf-8") as file:
            file.write(f"pet_mm_per_year = {river.pet}\n")
        settings = configuration.load(config)
    store = domain.store_of(settings)
    start, end = _time(river.taught[0]), _time(river.validated)
    if store.read_parameters(name) is None:
        told = among(progress, 0, 5, "calibrate")
        _checked(
            steps.calibrate(
                settings, [name], start, end, validation=river.validation, progress=told, effort=study.search
            )
        )
    content = store.read_parameters(name)
    assert content is not None
    if calibrated.restore(content).taught is None:
        told = among(progress, 1, 5, "train")
        _checked(steps.train(settings, [name], start, river.validation, end, progress=told, effort=study.training))
    return settings


def _checked(found: Sequence[steps.Calibration]) -> None:
    for each in found:
        if each.failed:
            raise ValueError(each.summary)


def degrade(
    settings: Settings, name: str, first: np.datetime64, last: np.datetime64
) -> tuple[tuple[float, float], ...]:
    """Puts weather forecasts made from the observed weather into the store, for issue times from `first` to `last`.

    Returns correlation with the observed rain, and amount over it, at `SPANS` of leads. Repeated it changes nothing:
    the same weather gives the same forecasts.
    """
    known = domain.load(settings)
    stretch = hours(first - DAY, last + LEADS.size * HOUR)
    before = window.CONTEXT
    seen = known.store.observations([name], stretch[0] - before * HOUR, stretch[-1])
    longer = hours(stretch[0] - before * HOUR, stretch[-1])
    forcing = window.load(seen, known.places, longer, None).forcing
    truth = generator.Sky(name, stretch, *(forcing[v][before:, 0] for v in ("precipitation", "temperature")))
    columns = generator.forecasts([truth], stretch[0])
    told = ("precipitation", "temperature") if known.members[0].temperature else ("precipitation",)
    values = {variable: columns[variable] for variable in told}
    made = records.build(columns["station"], columns["time"], columns["known"], values, columns["reference_time"])
    counts = known.store.append(made)
    if counts.problems:
        raise ValueError(f"{name}, degraded weather: {'; '.join(counts.problems)}")
    return _likeness(columns, truth)


def _likeness(columns: Mapping[str, Any], truth: generator.Sky) -> tuple[tuple[float, float], ...]:
    """Correlation and amount of forecast rain (n,) against the observed of the same hours, by `SPANS`."""
    observed = truth.precipitation[(columns["time"] - truth.time[0]) // HOUR]
    lead = (columns["time"] - columns["reference_time"]) // HOUR
    found = []
    for shortest, longest in SPANS:
        some = (shortest <= lead) & (lead <= longest)
        pair = columns["precipitation"][some], observed[some]
        found.append((float(np.corrcoef(*pair)[0, 1]), float(pair[0].sum() / pair[1].sum())))
    return tuple(found)


def _time(text: str) -> np.datetime64:
    return np.datetime64(text, "ns")
