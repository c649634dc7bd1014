"""A learned gain inside a rainfall-runoff model (after Sun et al. 2026, EGU26-8698) on four hourly catchments.

Each is a deployment of its own in a folder, made by the steps that the commands call: calibrated, trained, and asked
for a forecast of every hour of its test period, with the rain of the lead hours as observed, degraded (drawn several
times), and none.
Variants of it, with another filter or other networks, are asked for the same (`sun2026_rows`). What is there already is
not made again.

Not stated there, and chosen here: catchments, periods, and how rain is degraded (`sun2026_rain`).
"""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from hydroda import domain, settings_file, steps
from hydroda.forecast import calibrated
from hydroda.progress import Progress, among
from hydroda.reproduction import sun2026_report
from hydroda.reproduction.sun2026_plan import FULL, QUICK, RIVERS, Study
from hydroda.reproduction.sun2026_rain import Likeness, degrade, drawn, names
from hydroda.reproduction.sun2026_rows import calibrate, require, restored, rows, variant
from hydroda.reproduction.sun2026_scores import Result, pooled, scored
from hydroda.reproduction.sun2026_together import together
from hydroda.settings import Settings
from hydroda.verifying import scoring
from hydroda.verifying.verification import Sample
from hydroda.vocabulary import LeadForcing

ROWS, SHARED = "rows", "together"  # folders: of the variants of a deployment, and of one of several rivers


def reproduce(data: Path, folder: Path, *, quick: bool = False, progress: Progress) -> tuple[str, list[Path]]:
    """The tables and the files in a folder, which holds a deployment for each catchment too.

    `quick` takes one catchment, a short search and a month of test: minutes. Raises FileNotFoundError without the
    records of catchments that have no deployment yet, ValueError where one cannot be calibrated or trained.
    """
    study = QUICK if quick else FULL
    _require(data, folder, study.rivers)
    results: list[Result] = []
    deployments, rain = {}, {}
    count = len(study.rivers)
    for i, name in enumerate(study.rivers):
        told = among(among(progress, 0, 2, "deployments"), i, count + 1, name)
        deployments[name], rain[name] = deployed(data, folder / name, name, study, told)
    told = among(among(progress, 0, 2, "deployments"), count, count + 1, SHARED)
    shared = together(deployments, folder / SHARED, study, told)
    for i, (name, settings) in enumerate(deployments.items()):
        told = among(among(progress, 1, 2, "rows"), i, count, name)
        making, testing = among(told, 0, 2, ROWS), among(told, 1, 2, "test")
        results += _results(settings, name, folder / name / ROWS, study, shared, making, testing)
    periods = {
        name: f"{RIVERS[name].told(study.days)}; {restored(one, name).model}" for name, one in deployments.items()
    }
    text = sun2026_report.page(results, periods, rain, study.told())
    paths = sun2026_report.write(folder, text, results)
    progress(1.0, "done")
    return text, paths


def _results(
    settings: Settings,
    name: str,
    folder: Path,
    study: Study,
    shared: tuple[Settings, str] | None,
    making: Progress,
    forecasting: Progress,
) -> list[Result]:
    """The scores of a river for each forcing: of its deployment, and of the variants of it in a folder."""
    every, one = rows(settings, name, RIVERS[name], study, shared), {}
    for i, row in enumerate(every):
        one[row.name] = variant(settings, name, row, folder, among(making, i, len(every), row.name))
    found = []
    for k, forcing in enumerate(sun2026_report.FORCINGS):
        told = among(forecasting, k, len(sun2026_report.FORCINGS), forcing)
        tried = [row for row in every if forcing in row.forcings]
        runs = 1 + len(tried)
        sample = _sample(settings, name, study, forcing, among(told, 0, runs, "as issued"))
        beside: dict[str, xr.DataArray] = {}
        for i, row in enumerate(tried):
            beside |= row.told(_sample(one[row.name], name, study, forcing, among(told, 1 + i, runs, row.name)))
        found.append(scored(name, forcing, sample, beside))
    return found


def _sample(settings: Settings, name: str, study: Study, forcing: LeadForcing, progress: Progress) -> Sample:
    """The forecasts of a deployment in the test, made as far as they are not there, and what was observed then; of
    degraded rain those of one draw after the other."""
    first, last = RIVERS[name].tested(study.days)
    draws = study.draws if forcing == "archived" else 1
    settings = drawn(settings, name, draws)
    steps.hindcast(settings, first, last, forcing=forcing, progress=progress)
    found = scoring.samples(settings, first, last, forcing)
    return pooled([found[each] for each in names(name, draws)])


def _require(data: Path, folder: Path, rivers: Sequence[str]) -> None:
    """Says which records are not there before anything takes hours."""
    needed = {name: _csv(data, name) for name in rivers if not _known(folder / name)}
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
    return path.exists() and bool(settings_file.load(path).catchments)


def deployed(data: Path, folder: Path, name: str, study: Study, progress: Progress) -> tuple[Settings, Likeness]:
    """The calibrated and trained deployment of a catchment, made as far as it is not there, and how like the observed
    rain the degraded is, which is in its store from the first hour of training on."""
    river = RIVERS[name]
    config = folder / "hydroda.toml"
    if not config.exists():
        steps.init(folder)
    if not _known(folder):
        lat, lon = river.place or (None, None)
        steps.add_catchment(config, name, _csv(data, name), river.area_km2, lat=lat, lon=lon)
    settings = settings_file.load(config)
    if river.pet not in (None, settings.catchment(name).pet_mm_per_year):
        with config.open("a", encoding="utf-8") as file:
            file.write(f"pet_mm_per_year = {river.pet}\n")
        settings = settings_file.load(config)
    store = domain.store_of(settings)
    likeness = degrade(settings, name, river.learned_on[0], river.tested(study.days), study.draws)
    if store.read_parameters(name) is None:
        told = among(progress, 0, 2, "calibrate")
        calibrate(settings, name, study, told)
    content = store.read_parameters(name)
    assert content is not None
    if calibrated.restore(content).taught is None:
        told = among(progress, 1, 2, "train")
        require(steps.train(settings, [name], *river.learned_on, progress=told, effort=study.training))
    return settings, likeness
