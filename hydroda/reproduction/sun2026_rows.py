"""Rows of `sun2026` beside those of a river's deployment: another filter, other error levels, other networks.

Each is a variant of the deployment in a folder below its own: observations and weather are links, parameters its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from hydroda import steps
from hydroda.calibrating import retuning, tuning
from hydroda.domain import store_of
from hydroda.forecast import calibrated, designs
from hydroda.forecast.calibrated import Calibrated
from hydroda.forecast.choice import FILTER, NETWORKS
from hydroda.progress import Progress
from hydroda.reproduction.sun2026_plan import FIRST_HOURS, MEMBERS, RIVERS, THINNED, River, Study
from hydroda.reproduction.sun2026_scores import BY_SEED, ENKF, UKF_1H
from hydroda.schema import LEADS
from hydroda.settings import Filter, Settings
from hydroda.storage import files
from hydroda.teaching import learning
from hydroda.trials import comparison
from hydroda.verifying.verification import Sample
from hydroda.vocabulary import LEAD_FORCINGS, LeadForcing

LINKED = ("observations", "forecasts")
FIRST = f"gain_leads_{FIRST_HOURS[0]}_to_{FIRST_HOURS[-1]}"
LEVELS, OWN_PARAMETERS = "error_levels", "own_parameters"
TOGETHER, UNSEEN = "taught_together", "taught_elsewhere"
UNDEGRADED: tuple[LeadForcing, ...] = ("observed", "none")  # of other designs, since every draw of degraded rain costs


@dataclass(frozen=True)
class Row:
    """A variant: its name, which of its forecasts are rows, its filter, and what makes its parameters of those of the
    river and of what it has already, if that is of the same calibration; and with which rain it is tried."""

    name: str
    told: Callable[[Sample], dict[str, xr.DataArray]]
    filter: Filter
    made: Callable[[Settings, Calibrated, Calibrated | None, Progress], Calibrated]
    forcings: tuple[LeadForcing, ...] = LEAD_FORCINGS


def rows(
    settings: Settings, name: str, river: River, study: Study, shared: tuple[Settings, str] | None = None
) -> tuple[Row, ...]:
    """Those of a river whose deployment is trained; `shared` is that of several with the same networks, and the river
    they are not trained on."""
    own, path = settings.filter, store_of(settings).weights_path(name)
    enkf = own.model_copy(update={"name": "ensemble.enkf", "options": {"members": MEMBERS}})
    effort = study.training
    first, adjusted = replace(effort, leads=FIRST_HOURS), replace(effort, parameters=True)
    as_long = replace(effort, steps=effort.steps // 2)  # a step with error levels costs twice one with a gain
    joint: tuple[Row, ...] = ()
    if shared is not None and name in {each.id for each in shared[0].catchments}:
        called = UNSEEN if name == shared[1] else TOGETHER
        joint = (Row(called, _one(called, NETWORKS), own, partial(_of_several, shared[0]), UNDEGRADED),)
    # a residual that is best for an hour would be carried on for a day: here its stores must do it
    first_hour = partial(_retuned, river, study.search.filter, leads=(1,), memories=tuning.NONE)
    return (
        Row(UKF_1H, _one(UKF_1H, FILTER), own, first_hour),
        Row(ENKF, _one(ENKF, FILTER), enkf, partial(_retuned, river, study.ensemble, thinned=THINNED)),
        Row("networks", _each, own, partial(_issued, path)),
        Row(LEVELS, _one(LEVELS, NETWORKS), own, partial(_taught, river, as_long, designs.LEVELS), UNDEGRADED),
        Row(FIRST, _one(FIRST, NETWORKS), own, partial(_taught, river, first, designs.GAIN)),
        Row(
            OWN_PARAMETERS,
            _one(OWN_PARAMETERS, NETWORKS),
            own,
            partial(_taught, river, adjusted, designs.GAIN),
            UNDEGRADED,
        ),
        *joint,
    )


def _one(name: str, part: str) -> Callable[[Sample], dict[str, xr.DataArray]]:
    """A part of the forecast of a variant as a row of a name."""
    return lambda sample: {name: sample.forecasts.sel({"method": part}, drop=True)}


def _each(sample: Sample) -> dict[str, xr.DataArray]:
    """Each network as a row."""
    assert sample.networks is not None
    return {f"{BY_SEED}{i}": sample.networks.sel(network=i, drop=True) for i in sample.networks["network"].values}


def variant(settings: Settings, name: str, row: Row, folder: Path, progress: Progress) -> Settings:
    """The deployment of a row, made as far as it is not there."""
    one = comparison.deployment(settings, row.filter, folder / row.name, LINKED)
    base = restored(settings, name)
    kept = restored(one, name) if store_of(one).read_parameters(name) else None
    fits = kept is not None and kept.report == base.report
    found = row.made(one, base, kept if fits else None, progress)
    store_of(one).write_parameters(name, found.content())
    return one


def calibrate(settings: Settings, name: str, study: Study, progress: Progress) -> None:
    """Calibrates a river of a deployment on its years. Raises ValueError where it cannot be."""
    river = RIVERS[name]
    when, effort = river.validation, study.search
    require(steps.calibrate(settings, [name], *river.learned_on, validation=when, progress=progress, effort=effort))


def require(found: Sequence[steps.Outcome]) -> None:
    """Raises ValueError, saying why, where one was not calibrated or trained."""
    if failed := [each.summary for each in found if each.failed]:
        raise ValueError("; ".join(failed))


def restored(settings: Settings, name: str) -> Calibrated:
    """What was found of a river of a deployment, which is calibrated."""
    content = store_of(settings).read_parameters(name)
    assert content is not None
    return calibrated.restore(content)


def _retuned(
    river: River,
    effort: tuple[int, int],
    one: Settings,
    base: Calibrated,
    kept: Calibrated | None,
    progress: Progress,
    *,
    leads: tuple[int, ...] = tuning.EVERY_LEAD,
    memories: np.ndarray = tuning.MEMORIES,
    thinned: int = 1,
) -> Calibrated:
    """With error levels of its own, searched on the hours those of the river's filter were searched on."""
    if kept is not None:
        return kept
    place = one.catchment(base.station)
    how = {"leads": leads, "memories": memories, "thinned": thinned}
    return retuning.retuned(one, store_of(one), place, base, *river.learned_on, effort, progress, **how)  # type: ignore[arg-type]


def _issued(path: Path, one: Settings, base: Calibrated, kept: Calibrated | None, progress: Progress) -> Calibrated:
    """With the networks of the river, and with them alone."""
    files.replace(store_of(one).weights_path(base.station), path.read_bytes())
    return _by_networks(base)


def _of_several(
    several: Settings, one: Settings, base: Calibrated, kept: Calibrated | None, progress: Progress
) -> Calibrated:
    """With the networks of a deployment of several rivers, and the model they are for."""
    weights = store_of(several).weights_path(base.station).read_bytes()
    files.replace(store_of(one).weights_path(base.station), weights)
    return _by_networks(restored(several, base.station))


def _taught(
    river: River,
    effort: learning.Effort,
    design: str,
    one: Settings,
    base: Calibrated,
    kept: Calibrated | None,
    progress: Progress,
) -> Calibrated:
    """With networks of another lesson or design. Raises ValueError where they cannot be trained."""
    if kept is None or kept.taught is None:
        store_of(one).write_parameters(base.station, replace(base, taught=None).content())
        require(steps.train(one, [base.station], *river.learned_on, progress=progress, effort=effort, design=design))
        kept = restored(one, base.station)
    return _by_networks(kept)


def _by_networks(found: Calibrated) -> Calibrated:
    """With networks issued at all leads: they run, whatever validation chose."""
    return replace(found, choice={forcing: (NETWORKS,) * LEADS.size for forcing in found.choice})
