"""What changes nothing of a deployment, one function each: filters compared or tried on made-up rivers, gauges made
wrong, studies made again. The counterpart of `steps`; heavy libraries are loaded by what needs them.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hydroda.progress import Progress, silent
from hydroda.settings import Settings
from hydroda.storage import files

REAL_DATA = "../shared/data"
SHORT = (
    "*Made with `--quick`, to see that it works: too short a search and training to compare with what was published.*"
)
STUDIES = {"pauwels2013": "pauwels2013.everything", "rkn2025": "rkn2025", "sun2026": "sun2026"}  # and the file of each


def compare(
    settings: Settings,
    names: Sequence[str],
    start: np.datetime64,
    end: np.datetime64,
    folder: Path,
    *,
    progress: Progress = silent,
) -> str:
    """The same hindcast with several filters: a table in Markdown for each catchment, written to `folder` too.

    Raises ValueError for a filter that there is not.
    """
    from hydroda.trials import comparison

    results = comparison.compare(settings, names, start, end, folder, progress)
    text = "\n\n".join(comparison.table(results, catchment.id) for catchment in settings.catchments) + "\n"
    files.replace(folder / "comparison.md", text.encode())
    return text


class Tried(NamedTuple):
    """What came of a twin experiment: a table in Markdown, the files, and whether a filter failed."""

    table: str
    paths: Sequence[Path]
    failed: bool


def twin(filters: Sequence[str], days: int, folder: Path, *, progress: Progress = silent) -> Tried:
    """Filters on made-up rivers whose truth is known, scored over `days`. Raises ValueError for an unknown filter."""
    from hydroda.trials import trial, twin_figures

    scores = trial.compare(filters, days=days, progress=progress)
    paths = twin_figures.write(scores, folder)
    return Tried(twin_figures.table(scores), paths, any(score.problem for score in scores))


def drift(
    settings: Settings,
    station: str,
    start: np.datetime64,
    end: np.datetime64,
    at: np.datetime64,
    path: Path,
    *,
    progress: Progress = silent,
    **how: Any,
) -> str:
    """What a wrong gauge does to forecasts with and without its bias estimated: a table, and a picture in `path`.

    `how` are the other arguments of `drift.tried`. Raises ValueError as that does.
    """
    from hydroda.pages import drawing
    from hydroda.trials import drift as trials
    from hydroda.trials import drift_figure

    trial = trials.tried(settings, station, start, end, at, progress=progress, **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, drawing.png(drift_figure.figure(trial), dpi=100))
    return drift_figure.table(trial)


def reproduce(study: str, folder: Path, *, quick: bool = False, progress: Progress = silent) -> tuple[str, list[Path]]:
    """One of `STUDIES` made again: its tables in Markdown, and the files, in a folder of its own; `quick` ones say so.

    Raises FileNotFoundError without the data it needs, which are in the folder that HYDRODA_REAL_DATA names.
    """
    made = importlib.import_module(f"hydroda.reproduction.{STUDIES[study]}")
    data = Path(os.environ.get("HYDRODA_REAL_DATA", REAL_DATA))
    own = folder / (f"{study}-quick" if quick else study)
    text, paths = made.reproduce(data, own, quick=quick, progress=progress)
    if quick:
        text = f"{SHORT}\n\n{text}"
        for page in (path for path in paths if path.suffix == ".md"):
            told = page.read_text(encoding="utf-8").removeprefix(f"{SHORT}\n\n")
            files.replace(page, f"{SHORT}\n\n{told}".encode())
    return text, paths
