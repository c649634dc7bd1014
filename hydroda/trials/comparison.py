"""The same hindcast with several filters, and one table of their scores.

Each filter gets a store of its own in which what was observed and calibrated are links to the deployment's, so that
nothing of the deployment changes. Model parameters and error levels are those of the calibration for all of them: a
filter they were not tuned for is at a disadvantage.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydroda import catalogue
from hydroda import domain as domains
from hydroda.domain import store_of
from hydroda.forecast.choice import FILTER
from hydroda.pages import score_tables
from hydroda.progress import Progress, among
from hydroda.running import hindcasting
from hydroda.running.groups import grouped, tried
from hydroda.settings import Filter, Settings
from hydroda.storage import files
from hydroda.verifying import scoring, verification

LINKED = ("observations", "forecasts", "parameters")
LEADS = (1, 2, 3, 6, 9, 12, 18, 24)


@dataclass(frozen=True)
class Compared:
    """A filter's scores as `verify --json` has them and the seconds of its hindcast, or why there are none."""

    name: str
    scores: dict[str, Any] | None
    seconds: float
    problem: str = ""


def chosen(names: Sequence[str]) -> dict[str, Filter]:
    """The filters of these names with the options they have by default; all there are without names.

    "sigma.ukf+reduce.steady" is a filter with a modifier. Raises ValueError naming what there is not.
    """
    found = {}
    choices = {**catalogue.filters(), **catalogue.modifiers()}
    for name in names or sorted(catalogue.filters()):
        own, *modifiers = catalogue.taken_apart(name, catalogue.filters())
        for part in (own, *modifiers):
            if choices[part].required:
                raise ValueError(f"{part} needs {', '.join(sorted(choices[part].required))}, which only settings give")
        found[name] = Filter.model_validate({"name": own, "modifier": [{"name": modifier} for modifier in modifiers]})
    return found


def compare(
    settings: Settings,
    names: Sequence[str],
    start: np.datetime64,
    end: np.datetime64,
    folder: Path,
    progress: Progress,
) -> list[Compared]:
    """Hindcasts from `start` to `end` with each filter, observed rain in the lead hours, scored.

    A filter whose scores for the period are in `folder` already is not run again, unless calibration or the code of
    filters and models changed since; one that cannot be run does not stop the others. Raises ValueError for unknown
    names.
    """
    filters, state = chosen(names), _state(settings)
    results = []
    for i, (name, own) in enumerate(filters.items()):
        place = folder / name / state
        kept = place / f"{start}_{end}.json".replace(":", "")
        if kept.exists():
            done = json.loads(kept.read_text(encoding="utf-8"))
            results.append(Compared(name, done["scores"], done["seconds"]))
            continue
        one = deployment(settings, own, place, LINKED)
        began = time.perf_counter()
        try:
            for group in grouped(domains.load(one))[0]:
                tried(group)
            told = among(progress, i, len(filters), name)
            hindcasting.hindcast(one, start, end, forcing="observed", products=False, progress=told)
            scores = score_tables.summary_json(scoring.read(scoring.verify(one, start, end, kind="hindcast")))
        except (ValueError, RuntimeError) as error:
            results.append(Compared(name, None, time.perf_counter() - began, str(error).splitlines()[0]))
            continue
        seconds = time.perf_counter() - began
        files.replace(kept, json.dumps({"seconds": seconds, "scores": scores}).encode())
        results.append(Compared(name, scores, seconds))
    progress(1.0, "done")
    return results


def _state(settings: Settings) -> str:
    """What scores depend on besides filter and period, as the name of a folder: calibration and code."""
    total = hashlib.sha256()
    for member in domains.load(settings).members:
        total.update(json.dumps(member.content(), sort_keys=True).encode())
    for room in ("filters", "models"):
        for path in sorted((catalogue.PACKAGE / room).glob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()[:12]


def deployment(settings: Settings, own: Filter, folder: Path, linked: Sequence[str]) -> Settings:
    """The settings with another filter and a store in `folder`, in which some folders of the store are links."""
    there = settings.deployment.model_copy(update={"store": str(folder.resolve())})
    one = settings.model_copy(update={"deployment": there, "filter": own})
    source, target = store_of(settings).folder, store_of(one).folder
    target.mkdir(parents=True, exist_ok=True)
    for name in linked:
        files.link(source / name, target / name)
    return one


def table(results: Sequence[Compared], station: str) -> str:
    """NSE by lead of every filter at a station in Markdown, what needs no filter first, the best of each lead bold."""
    rows: dict[str, tuple[list[float | None], str]] = {}
    for result in results:
        if result.scores is None or station not in result.scores["stations"]:
            continue
        of = result.scores["stations"][station]
        for method in of["methods"] if not rows else ():
            if method not in ("forecast", *verification.OWN):
                label = verification.LABELS[method]
                rows[label] = [of["methods"][method]["nse"][lead - 1] for lead in LEADS], "| |"
        inside = [of["coverage_90"][lead - 1] for lead in (1, 24)]
        told = " / ".join("–" if value is None else f"{value:.0f}" for value in inside)
        # what is issued may be another method's; it is left out of the scores where it is the filter's throughout
        nse = [of["methods"].get(FILTER, of["methods"]["forecast"])["nse"][lead - 1] for lead in LEADS]
        rows[result.name] = nse, f"| {told} | {result.seconds:.0f} |"
    values = [nse for nse, _ in rows.values()]
    best = [max((v for v in column if v is not None), default=None) for column in zip(*values, strict=True)]
    leads = " | ".join(f"{lead} h" for lead in LEADS)
    lines = [
        f"| {station}: NSE, observed rain | {leads} | % inside 90 %, 1 / 24 h | seconds |",
        "|---" * (len(LEADS) + 3) + "|",
    ]
    for label, (nse, rest) in rows.items():
        cells = (score_tables.cell(value, value == top) for value, top in zip(nse, best, strict=True))
        lines.append(f"| {label} | {' | '.join(cells)} {rest}")
    lines += [f"\n{result.name}: not compared, {result.problem}" for result in results if result.scores is None]
    return "\n".join(lines)
