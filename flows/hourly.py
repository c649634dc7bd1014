"""The hourly cycle: ingest -> run, and what was missed -> verify what can be verified."""

from pathlib import Path

import numpy as np
from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from flows.ingest import fetch_all
from hydroda import steps
from hydroda.settings import Settings
from hydroda.settings_file import load
from hydroda.storage.lock import Busy
from hydroda.units import check_full_hour, iso, parse_utc

VERIFIED = np.timedelta64(7, "D")  # scores that follow each cycle; the nightly flow looks back further


@task(task_run_name="run {cycle}", cache_policy=NO_CACHE)
def run_cycle(config: str, cycle: str, force: bool, catch_up: bool) -> State:
    """One cycle; not retried, what fails in the numerics fails again."""
    try:
        done = steps.run(load(Path(config)), parse_utc(cycle), force=force, catch_up=catch_up)
    except Busy as busy:
        return Completed(name="Busy", message=str(busy))
    message = f"{cycle} {done.message} {' '.join(str(f) for f in done.files)}"
    return (
        Failed(message=message) if done.state == "failed" else Completed(name=done.state.capitalize(), message=message)
    )


@task(task_run_name="verify until {cycle}", cache_policy=NO_CACHE)
def verify_recent(config: str, cycle: str) -> State:
    """Scores of what was published in the last days; in the first hours there is nothing to score."""
    end = parse_utc(cycle)
    try:
        path = steps.verify(load(Path(config)), end - VERIFIED, end, kind="operational")
    except ValueError as error:
        return Completed(name="Skipped", message=str(error))
    return Completed(message=str(path))


def cycle_of(settings: Settings, cycle: str | None) -> np.datetime64:
    """The cycle asked for, else the one that belongs to the scheduled start: a late start does not change it.

    Raises ValueError for one that is no full hour.
    """
    if not cycle:
        return settings.cycle_at(parse_utc(str(runtime.flow_run.scheduled_start_time)))
    target = parse_utc(cycle)
    check_full_hour(target, cycle)
    return target


@flow(name="hourly", timeout_seconds=900)
def hourly(config: str = "hydroda.toml", cycle: str | None = None, force: bool = False) -> State:
    """Publish the forecast of a cycle and make good the missed ones before it; ends as the cycle itself ended."""
    settings = load(Path(config))
    target = cycle_of(settings, cycle)
    silent = fetch_all(config, iso(target))
    if silent:
        get_run_logger().warning("sources without news: %s", ", ".join(silent))
    for each in [*steps.missed(settings, target), target]:
        late = bool(each != target)
        ended = run_cycle(config, iso(each), force and not late, late, return_state=True)
        if ended.name == "Busy":
            return Completed(name="Skipped", message=ended.message)
    if not ended.is_failed():
        verified = verify_recent(config, iso(target), return_state=True)
        if verified.is_failed():
            get_run_logger().warning("no scores: %s", verified.message)
    # a state of its own: Prefect would sum up a task's state as "All states completed."
    make = Failed if ended.is_failed() else Completed
    return make(name=ended.name, message=ended.message)
