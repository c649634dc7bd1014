"""Calibration from stored data: one task per catchment, so that one without enough data does not stop the others."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from hydroda import steps
from hydroda.settings import load
from hydroda.units import parse_utc


@task(task_run_name="calibrate {station}", cache_policy=NO_CACHE)
def calibrate(config: str, station: str, start: str, end: str) -> str:
    """The parameters and error levels of one catchment; what was found, in words."""
    (result,) = steps.calibrate(load(Path(config)), [station], parse_utc(start), parse_utc(end))
    if result.failed:
        raise ValueError(f"{station}: {result.summary}")
    return result.summary


@flow(name="train")
def train(start: str, end: str, config: str = "hydroda.toml", stations: list[str] | None = None) -> State:
    """Calibrate the named catchments (all, if none is named) on a period."""
    ids = stations or [catchment.id for catchment in load(Path(config)).catchments]
    failed = [station for station in ids if calibrate(config, station, start, end, return_state=True).is_failed()]
    if failed:
        return Failed(message=f"not calibrated: {', '.join(failed)}")
    return Completed(message=f"calibrated: {', '.join(ids)}")
