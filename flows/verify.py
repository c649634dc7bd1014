"""Scores for a period, shown where the flow runs are."""

from pathlib import Path

import numpy as np
from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from hydroda import steps
from hydroda.settings_file import load
from hydroda.units import floor_hour, iso, parse_utc
from hydroda.vocabulary import VerifiedKind


@task(task_run_name="score {start} {end}", cache_policy=NO_CACHE)
def score(config: str, start: str, end: str, kind: VerifiedKind) -> str:
    """The file of scores of a period; their table becomes an artifact of the run."""
    path = steps.verify(load(Path(config)), parse_utc(start), parse_utc(end), kind=kind)
    create_markdown_artifact(f"```\n{steps.score_table(path)}\n```", key="scores", description=str(path))
    return str(path)


@flow(name="verify")
def verify(
    start: str | None = None,
    end: str | None = None,
    config: str = "hydroda.toml",
    kind: VerifiedKind = "operational",
) -> State:
    """Scores from `start` to `end`; without them of the 30 days before the scheduled start."""
    last = floor_hour(parse_utc(end or str(runtime.flow_run.scheduled_start_time)))
    first = parse_utc(start) if start else last - np.timedelta64(30, "D")
    return Completed(message=score(config, iso(first), iso(last), kind))
