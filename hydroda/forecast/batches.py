"""Models and filters by name, and batches of calibrated catchments: what is computed together, on tensors."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from hydroda import catalogue
from hydroda.filters.recipe import Build
from hydroda.forecast import cycle
from hydroda.forecast.calibrated import GAUGE, Calibrated
from hydroda.forecast.cycle import Batch, Levels
from hydroda.models.model import Model
from hydroda.settings import Settings


@cache
def build_model(name: str, temperature: bool) -> Model:
    """The model "family.name", with snow where it can have it and there is temperature."""
    build = catalogue.function("models", name)
    made: Model = build(temperature=temperature) if "temperature" in catalogue.models()[name].options else build()
    return made


def build_filter(settings: Settings) -> Build:
    """The filter of the settings with its modifiers, to be given a system."""
    own = settings.filter
    return built([(own.name, own.options), *((modifier.name, modifier.options) for modifier in own.modifiers)])


def built(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> Build:
    """A filter by name and options, changed by the modifiers that follow it, in their order."""
    (name, options), *modifiers = parts
    build: Build = partial(catalogue.function("filters", name), **options)
    for name, options in modifiers:
        build = catalogue.function("filters", name)(build, **options)
    return build


def batch(catchments: Sequence[Calibrated], settings: Settings) -> Batch:
    """The batch of catchments of one model, without networks."""
    model = build_model(catchments[0].model, catchments[0].temperature)

    def column(values: Sequence[Sequence[float]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).unsqueeze(1)

    def errors(side: int) -> torch.Tensor:
        return column([[c.errors[state.name][side] for state in model.states] for c in catchments])

    gauge = [column([[c.errors[GAUGE][side]] for c in catchments])[:, 0] for side in (0, 1)]
    parameters = column([[c.parameters[p.name] for p in model.parameters] for c in catchments])
    levels = Levels(errors(0), errors(1), *gauge)
    ids = [c.station for c in catchments]
    return cycle.batch(model, parameters, levels, build_filter(settings), ids, settings.filter.seed)
