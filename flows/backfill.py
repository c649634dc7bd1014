"""Past hours by the same steps, in order and month by month; a killed backfill goes on when it is run again."""

from pathlib import Path

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from hydroda import steps
from hydroda.settings_file import load
from hydroda.storage.lock import Busy
from hydroda.units import HOUR, check_period, iso, parse_utc
from hydroda.vocabulary import LeadForcing


def months(start: np.datetime64, end: np.datetime64) -> list[tuple[np.datetime64, np.datetime64]]:
    """(first, last) issue time of every calendar month from `start` to `end`, both included. Raises ValueError."""
    check_period(start, end)
    firsts = np.arange(start.astype("datetime64[M]"), end.astype("datetime64[M]") + 1).astype("datetime64[ns]")
    lasts = [*(firsts[1:] - HOUR), end]
    return [(max(a, start), b) for a, b in zip(firsts, lasts, strict=True)]


@task(task_run_name="hindcast {start} {end}", cache_policy=NO_CACHE)
def hindcast(config: str, start: str, end: str, forcing: LeadForcing, products: bool) -> list[str]:
    """One chunk; the archives it wrote or found."""
    period = parse_utc(start), parse_utc(end)
    return [str(path) for path in steps.hindcast(load(Path(config)), *period, forcing=forcing, products=products)]


@flow(name="backfill")
def backfill(
    start: str, end: str, config: str = "hydroda.toml", forcing: LeadForcing = "observed", products: bool = False
) -> State:
    """Hindcasts of a period; live products are not touched."""
    archives: list[str] = []
    try:
        for first, last in months(parse_utc(start), parse_utc(end)):
            archives += hindcast(config, iso(first), iso(last), forcing, products)
    except Busy as busy:
        return Completed(name="Skipped", message=str(busy))
    return Completed(message=" ".join(dict.fromkeys(archives)))
