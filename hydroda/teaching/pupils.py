"""Networks for catchments of a deployment: who is taught, on which hours, and what was learned put into the store."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hydroda.domain import store_of
from hydroda.forecast import calibrated, network_files
from hydroda.progress import Progress
from hydroda.settings import Settings
from hydroda.storage.store import Store
from hydroda.teaching import learning
from hydroda.teaching.learning import Effort, Lesson, Pupil
from hydroda.units import iso, parse_utc

Times = tuple[np.datetime64 | None, np.datetime64 | None]


def teach(
    settings: Settings,
    taught: Sequence[str],
    unseen: Sequence[str],
    times: Times,
    effort: Effort,
    design: str,
    progress: Progress,
    *,
    together: bool = False,
) -> list[str]:
    """What came, in words, of the networks of catchments, the same for all that are `taught` and for those `unseen`.

    The first and last hour are those of the calibration of each where none is given. Networks that are taught
    `together` have a checkpoint of their own. Raises ValueError, naming the catchment, where one cannot be taught.
    """
    store = store_of(settings)
    stations = (*taught, *unseen)
    path = store.weights_path(taught[0])
    checkpoint = path.with_name(f".{path.name}{'.together' if together else ''}.training")
    pupils = [_pupil(settings, store, station, times) for station in stations]
    own, rest = pupils[: len(taught)], pupils[len(taught) :]
    lessons = learning.learned(settings, store, own, rest, effort, design, checkpoint, progress)
    for pupil, lesson in zip(pupils, lessons, strict=True):
        _keep(settings, store, pupil, lesson, taught)
    for done in checkpoint.parent.glob(f"{checkpoint.name}.*"):
        done.unlink()
    return [lesson.summary(station) for station, lesson in zip(stations, lessons, strict=True)]


def _pupil(settings: Settings, store: Store, station: str, times: Times) -> Pupil:
    content = store.read_parameters(station)
    if content is None:
        raise ValueError(f"{station}: is not calibrated; hydroda calibrate first")
    found = replace(calibrated.restore(content), taught=None)
    first, last = (
        parse_utc(found.report[name]) if given is None else given
        for name, given in zip(("start", "end"), times, strict=True)
    )
    if first < (tuned := parse_utc(found.report["start"])):
        raise ValueError(
            f"{station}: training would start {iso(first)}, before calibration ({iso(tuned)}): nobody could say how "
            "well networks do beside a filter that does not know these hours; calibrate from then on first"
        )
    if not first < last:
        raise ValueError(f"{station}: training would start {iso(first)} and end {iso(last)}, which is not later")
    return Pupil(settings.catchment(station), found, first, last)


def _keep(settings: Settings, store: Store, pupil: Pupil, lesson: Lesson, taught_on: Sequence[str]) -> None:
    """Puts what was learned for a catchment into the store: weights first, the parameters that name them last.

    Raises ValueError where the calibration it was learned beside is there no more."""
    found, station = pupil.found, pupil.found.station
    standing = store.read_parameters(station)
    if standing is None or replace(calibrated.restore(standing), taught=None).content() != found.content():
        raise ValueError(f"{station}: was calibrated again while its networks were trained; train them again")
    report = {"start": iso(pupil.start), "end": iso(pupil.end)} | lesson.report()
    report |= {"taught_on": list(taught_on), "filter": settings.filter.model_dump(mode="json")}
    path = store.weights_path(station)
    network_files.save(path, lesson.weights, {"station": station, "model": found.model} | report)
    taught, judged = calibrated.Taught(hashlib.sha256(path.read_bytes()).hexdigest(), report), lesson.judged
    store.write_parameters(station, judged.applied(replace(found, taught=taught)).content())
