"""What happens to the weather before it reaches a model: snow, correction factors, and an error that is a state.

Each function takes a model and returns one; the state and the parameters it adds stand last.
"""

import torch
from torch import Tensor

from hydroda.models.model import Fluxes, Model, Parameter, State

MIXED_RANGE = 1.0  # °C either side of the threshold over which snow turns to rain
LARGEST_LOG_ERROR = 0.7  # the assimilated rain error never halves or doubles rain


def degree_day(model: Model) -> Model:
    """`model` behind a degree-day snow store; adds the forcing `temperature`.

    Precipitation falls as snow below a threshold (linearly mixed over ±1 °C) and melts at a rate proportional to the
    excess of temperature over it (Bergström 1992, the snow routine of HBV, without refreezing).
    """
    n, m, k = len(model.states), len(model.parameters), len(model.forcings)

    def advance(x: Tensor, u: Tensor, p: Tensor) -> tuple[Tensor, Fluxes]:
        threshold, factor = p[..., m], p[..., m + 1]
        precipitation, warmth = u[..., 0], u[..., k] - threshold
        rain = precipitation * ((warmth + MIXED_RANGE) / (2 * MIXED_RANGE)).clamp(0.0, 1.0)
        pack = x[..., n].clamp(min=0.0) + (precipitation - rain)
        melt = torch.minimum(factor * warmth.clamp(min=0.0), pack)
        liquid = (rain + melt).unsqueeze(-1)
        rest = u[..., 1:k].expand(*liquid.shape[:-1], k - 1)
        inner, fluxes = model.advance(x[..., :n], torch.cat((liquid, rest), -1), p[..., :m])
        return torch.cat((inner, (pack - melt).unsqueeze(-1)), -1), fluxes._replace(inflow=precipitation)

    def initial(p: Tensor) -> Tensor:
        inner = model.initial(p[..., :m])
        return torch.cat((inner, torch.zeros_like(inner[..., :1])), -1)

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
        lambda x, p: model.discharge(x[..., :n], p[..., :m]),
        initial,
    )


def corrected(model: Model) -> Model:
    """`model` with factors on precipitation and potential evapotranspiration, and an error of the rain as a state.

    The catchment receives factor · exp(e) times the measured rain. The error e is an AR(1) process with e-folding time
    `rain_memory`; it is zero in the open loop and lets a filter explain a wrong flood by wrong rain instead of by
    wrong stores.
    """
    n, m = len(model.states), len(model.parameters)

    def advance(x: Tensor, u: Tensor, p: Tensor) -> tuple[Tensor, Fluxes]:
        error = x[..., n : n + 1]
        factor = p[..., m : m + 1] * torch.exp(error.clamp(-LARGEST_LOG_ERROR, LARGEST_LOG_ERROR))
        rain, pet = u[..., :1] * factor, u[..., 1:2] * p[..., m + 1 : m + 2]
        rest = u[..., 2:]
        shape = rain.shape[:-1]
        inputs = torch.cat((rain, pet.expand(*shape, 1), rest.expand(*shape, rest.shape[-1])), -1)
        inner, fluxes = model.advance(x[..., :n], inputs, p[..., :m])
        return torch.cat((inner, error * torch.exp(-1.0 / p[..., m + 2 : m + 3])), -1), fluxes

    def initial(p: Tensor) -> Tensor:
        inner = model.initial(p[..., :m])
        return torch.cat((inner, torch.zeros_like(inner[..., :1])), -1)

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
        lambda x, p: model.discharge(x[..., :n], p[..., :m]),
        initial,
    )
