"""Calibration and training from stored data: one task per catchment, so that one without enough data does not stop the
others."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from hydroda import steps
from hydroda.settings_file import load
from hydroda.units import parse_utc


@task(task_run_name="calibrate {station}", cache_policy=NO_CACHE)
def calibrate(config: str, station: str, start: str, end: str, validation_start: str | None = None) -> str:
    """The parameters and error levels of one catchment; what was found, in words."""
    unseen = None if validation_start is None else parse_utc(validation_start)
    return _said(steps.calibrate(load(Path(config)), [station], parse_utc(start), parse_utc(end), validation=unseen))


@task(task_run_name="train networks of {stations}", cache_policy=NO_CACHE)
def train_networks(
    config: str, stations: list[str], start: str, end: str, design: str, parameters: bool, together: bool
) -> str:
    """The networks of calibrated catchments and their share in the forecasts of each, in words."""
    period = (parse_utc(time) for time in (start, end))
    settings = load(Path(config))
    return _said(steps.train(settings, stations, *period, design=design, parameters=parameters, together=together))


def _said(results: list[steps.Outcome]) -> str:
    told = "; ".join(result.summary for result in results)
    if any(result.failed for result in results):
        raise ValueError(told)
    return told


@flow(name="train")
def train(
    start: str,
    end: str,
    config: str = "hydroda.toml",
    stations: list[str] | None = None,
    validation_start: str | None = None,
    networks: bool = False,
    design: str = "gain",
    parameters: bool = False,
    together: bool = False,
) -> State:
    """Calibrate the named catchments (all, if none is named) on a period; with `networks`, train those too, of a design
    or the best, perhaps with model parameters of their own, or one set for all `together` (`hydroda train
    --help`)."""
    ids = stations or [catchment.id for catchment in load(Path(config)).catchments]
    calibrations = {
        station: calibrate(config, station, start, end, validation_start, return_state=True) for station in ids
    }
    failed = {station: str(state.message) for station, state in calibrations.items() if state.is_failed()}
    fit = [station for station in ids if station not in failed]
    lessons = ([fit] if together else [[station] for station in fit]) if networks and fit else []
    for lesson in lessons:
        state = train_networks(config, lesson, start, end, design, parameters, together, return_state=True)
        failed |= dict.fromkeys(lesson, str(state.message)) if state.is_failed() else {}
    if failed:
        return Failed(message="; ".join(f"{station}: {why}" for station, why in failed.items()))
    return Completed(message=f"calibrated: {', '.join(ids)}")
