"""Fetch news from every source: one task each, so that one that fails does not stop the others."""

from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from prefect.tasks import exponential_backoff

from hydroda import steps
from hydroda.settings_file import load
from hydroda.storage.lock import Busy


def mendable(_task: object, _run: object, state: State) -> bool:
    """A retry can mend a connection, not a wrong file or a full disk."""
    return isinstance(state.result(raise_on_failure=False), ConnectionError | TimeoutError)


@task(
    task_run_name="ingest {source} {cycle}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=0.3,
    retry_condition_fn=mendable,
    timeout_seconds=300,
)
def fetch(config: str, source: str, cycle: str) -> State:
    """One source; the counts of what it brought are the message of the state."""
    try:
        return Completed(message=str(steps.ingest(load(Path(config)), source)))
    except Busy as busy:
        return Completed(name="Skipped", message=str(busy))


def fetch_all(config: str, cycle: str) -> list[str]:
    """Every source in turn (they write to one store); the names of those that failed."""
    names = [source.name for source in load(Path(config)).sources]
    return [name for name in names if fetch(config, name, cycle, return_state=True).is_failed()]


@flow(name="ingest", timeout_seconds=900)
def ingest(config: str = "hydroda.toml") -> State:
    """News from every source; fails only when all of them do."""
    failed = fetch_all(config, "now")
    if failed:
        get_run_logger().warning("sources without news: %s", ", ".join(failed))
    if failed and len(failed) == len(load(Path(config)).sources):
        return Failed(message=f"every source failed: {', '.join(failed)}")
    return Completed(message=f"failed: {', '.join(failed) or 'none'}")
