"""Calibration and training from stored data: one task per catchment, so that one without enough data does not stop the
others."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from hydroda import steps
from hydroda.settings import load
from hydroda.units import parse_utc


@task(task_run_name="calibrate {station}", cache_policy=NO_CACHE)
def calibrate(config: str, station: str, start: str, end: str, validation_start: str | None = None) -> str:
    """The parameters and error levels of one catchment; what was found, in words."""
    unseen = None if validation_start is None else parse_utc(validation_start)
    return _said(steps.calibrate(load(Path(config)), [station], parse_utc(start), parse_utc(end), validation=unseen))


@task(task_run_name="train networks of {station}", cache_policy=NO_CACHE)
def train_networks(config: str, station: str, start: str, end: str, design: str | None, parameters: bool) -> str:
    """The networks of one calibrated catchment and their share in its forecasts, in words."""
    period = (parse_utc(time) for time in (start, end))
    return _said(steps.train(load(Path(config)), [station], *period, design=design, parameters=parameters))


def _said(results: list[steps.Calibration]) -> str:
    (result,) = results
    if result.failed:
        raise ValueError(result.summary)
    return result.summary


@flow(name="train")
def train(
    start: str,
    end: str,
    config: str = "hydroda.toml",
    stations: list[str] | None = None,
    validation_start: str | None = None,
    networks: bool = False,
    design: str | None = None,
    parameters: bool = False,
) -> State:
    """Calibrate the named catchments (all, if none is named) on a period; with `networks`, train those too, of a design
    or the better of both and perhaps with model parameters of their own (`hydroda train --help`)."""
    ids = stations or [catchment.id for catchment in load(Path(config)).catchments]
    failed = []
    for station in ids:
        state = calibrate(config, station, start, end, validation_start, return_state=True)
        if networks and not state.is_failed():
            state = train_networks(config, station, start, end, design, parameters, return_state=True)
        if state.is_failed():
            failed.append(station)
    if failed:
        return Failed(message=f"not calibrated or trained: {', '.join(failed)}")
    return Completed(message=f"calibrated: {', '.join(ids)}")
