"""What happens to the weather before it reaches a model: snow, correction factors, and an error that is a state.

Each function takes a model and returns one; the state and the parameters it adds stand last.
"""

import torch
from torch import Tensor

from hydroda.models.model import Components, Fluxes, Model, Parameter, State

MIXED_RANGE = 1.0  # °C either side of the threshold over which snow turns to rain
LARGEST_LOG_ERROR = 0.7  # the assimilated rain error at most about halves or doubles rain


def degree_day(model: Model) -> Model:
    """`model` behind a degree-day snow store; adds the forcing `temperature`.

    Precipitation falls as snow below a threshold (linearly mixed over ±1 °C) and melts at a rate proportional to the
    excess of temperature over it (Bergström 1992, the snow routine of HBV, without refreezing).
    """
    n, m, k = len(model.states), len(model.parameters), len(model.forcings)

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        threshold, factor = p[m:]
        precipitation, warmth = u[0], u[k] - threshold
        rain = precipitation * ((warmth + MIXED_RANGE) / (2 * MIXED_RANGE)).clamp(0.0, 1.0)
        pack = x[n].clamp(min=0.0) + (precipitation - rain)
        melt = torch.minimum(factor * warmth.clamp(min=0.0), pack)
        inner, fluxes = model.advance(x[:n], (rain + melt, *u[1:k]), p[:m])
        return (*inner, pack - melt), fluxes._replace(inflow=precipitation)

    def initial(p: Components) -> tuple[Tensor, ...]:
        inner = model.initial(p[:m])
        return (*inner, torch.zeros_like(inner[0]))

    return Model(
        f"{model.name}+snow",
        (*model.states, State("snow", "mm", "water in the snow store")),
        (
            *model.parameters,
            Parameter("snow_threshold", "degC", "temperature of half snow, half rain", -3.0, 4.0, 0.5),
            Parameter("melt_factor", "mm h-1 degC-1", "melt per degree", 0.01, 1.0, 0.12, log=True),
        ),
        (*model.forcings, "temperature"),
        advance,
        lambda x, p: model.runoff(x[:n], p[:m]),
        initial,
    )


def corrected(model: Model) -> Model:
    """`model` with factors on precipitation and potential evapotranspiration, and an error of the rain as a state.

    The catchment receives factor · exp(e) times the measured rain. The error e is an AR(1) process with e-folding time
    `rain_memory`; it is zero in the open loop and lets a filter explain a wrong flood by wrong rain instead of by
    wrong stores.
    """
    n, m = len(model.states), len(model.parameters)

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        factor, pet_factor, memory = p[m:]
        error = x[n]
        rain = u[0] * (factor * torch.exp(error.clamp(-LARGEST_LOG_ERROR, LARGEST_LOG_ERROR)))
        inner, fluxes = model.advance(x[:n], (rain, u[1] * pet_factor, *u[2:]), p[:m])
        return (*inner, error * torch.exp(-1.0 / memory)), fluxes

    def initial(p: Components) -> tuple[Tensor, ...]:
        inner = model.initial(p[:m])
        return (*inner, torch.zeros_like(inner[0]))

    return Model(
        f"{model.name}+corrected",
        (*model.states, State("rain_error", "1", "log of the rain error", water=False, relative=False)),
        (
            *model.parameters,
            Parameter("rain_factor", "1", "catchment rain over measured rain", 0.4, 2.5, 1.0, log=True),
            Parameter("pet_factor", "1", "potential evapotranspiration over the given one", 0.3, 2.5, 1.0, log=True),
            Parameter("rain_memory", "h", "e-folding time of the rain error", 1.0, 1000.0, 24.0, True, "filter"),
        ),
        model.forcings,
        advance,
        lambda x, p: model.runoff(x[:n], p[:m]),
        initial,
    )
