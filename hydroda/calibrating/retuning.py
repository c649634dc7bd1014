"""Another filter for a catchment that is calibrated: its error levels are searched, the model stays as it is."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hydroda.calibrating import fitting, stretches, tuning
from hydroda.calibrating.calibration import open_loop
from hydroda.calibrating.history import record_of
from hydroda.forecast import choice
from hydroda.forecast.calibrated import Calibrated
from hydroda.progress import Progress
from hydroda.schema import LEADS
from hydroda.settings import Catchment, Settings
from hydroda.storage.store import Store


def retuned(
    settings: Settings,
    store: Store,
    catchment: Catchment,
    found: Calibrated,
    start: np.datetime64,
    end: np.datetime64,
    effort: tuple[int, int],
    progress: Progress,
    *,
    leads: Sequence[int] = tuning.EVERY_LEAD,
    memories: np.ndarray = tuning.MEMORIES,
    thinned: int = 1,
) -> Calibrated:
    """What was `found` of a catchment, with the filter of the settings instead of its own, which alone is issued.

    Its error levels are those that forecast best for `leads` [h] from `start` to `end` among `effort` generations ×
    population, with one of these `memories` of the residual, judged on every `thinned`-th stretch of the record.
    Widths of intervals are left those of the filter before. Raises ValueError, naming the catchment, when the period
    holds too little.
    """
    record = record_of(settings, store, catchment, found.model, start, end)
    model = record.model
    parameters = np.array([found.parameters[p.name] for p in model.parameters])
    states = open_loop(model, parameters, record.forcing)
    try:
        past = stretches.past(record.forcing, record.observed, states, record.scored)
    except ValueError as error:
        raise ValueError(f"{catchment.id}: {error}") from error
    some = replace(past, starts=past.starts[::thinned])
    own = fitting.tuned(settings, model, parameters, some, effort, progress, leads, memories)
    alone = {forcing: (choice.FILTER,) * LEADS.size for forcing in found.choice}
    return replace(found, **vars(own), choice=alone, taught=None, apart=())
