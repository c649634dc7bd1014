"""Routing as state: a model in, a model out whose river carries the water it has not yet delivered.

A cascade spreads what drains in an hour from that hour on; where a rise reaches the gauge only an hour after the rain,
and steeply, water is translated first: lag and route (Meyer 1941; the translation of Clark 1945).
"""

import torch
from torch import Tensor

from hydroda.models.model import Components, Fluxes, Model, Parameter, State


def nash(model: Model, reservoirs: int = 2) -> Model:
    """`model` drained through a cascade of equal linear reservoirs (Nash 1957), exact for inflow at the hour's start.

    Each reservoir keeps exp(−1/T) of what it holds and receives, T the residence time. What drained in the hour just
    ended is therefore `remaining · (exp(1/T) − 1)`, a function of the state alone: the discharge of a state is the mean
    over the hour that ends with it, which is what a gauge reports.
    """
    n, m = len(model.states), len(model.parameters)

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        inner, fluxes = model.advance(x[:n], u, p[:m])
        kept = torch.exp(-1.0 / p[m])
        water, cascade = fluxes.outflow, []
        for content in x[n:]:
            content = water + content.clamp(min=0.0)
            cascade.append(content * kept)
            water = content - cascade[-1]
        return (*inner, *cascade), fluxes._replace(outflow=water)

    def runoff(x: Components, p: Components) -> Tensor:
        return x[-1].clamp(min=0.0) * torch.expm1(1.0 / p[m])

    def initial(p: Components) -> tuple[Tensor, ...]:
        inner = model.initial(p[:m])
        return (*inner, *(torch.zeros_like(inner[0]) for _ in range(reservoirs)))

    return Model(
        f"{model.name}+nash{reservoirs}",
        model.states + tuple(State(f"routing_{i + 1}", "mm", f"routing reservoir {i + 1}") for i in range(reservoirs)),
        (*model.parameters, Parameter("routing_time", "h", "residence time of a reservoir", 0.3, 24.0, 2.0, log=True)),
        model.forcings,
        advance,
        runoff,
        initial,
    )


def lag(model: Model) -> Model:
    """`model` of which a share of what drains in an hour enters the river an hour later: a mean delay of 0 to 1 h.

    The discharge of a state is what enters in the hour that follows, if it is one without rain.
    """
    n, m = len(model.states), len(model.parameters)

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        inner, fluxes = model.advance(x[:n], u, p[:m])
        underway = p[m] * fluxes.outflow
        return (*inner, underway), fluxes._replace(outflow=x[n].clamp(min=0.0) + fluxes.outflow - underway)

    def runoff(x: Components, p: Components) -> Tensor:
        return x[n].clamp(min=0.0) + (1.0 - p[m]) * model.runoff(x[:n], p[:m])

    def initial(p: Components) -> tuple[Tensor, ...]:
        inner = model.initial(p[:m])
        return (*inner, torch.zeros_like(inner[0]))

    return Model(
        f"{model.name}+lag",
        (*model.states, State("underway", "mm", "water on its way to the river")),
        (*model.parameters, Parameter("delay", "h", "mean delay of what drains", 0.0, 1.0, 0.5)),
        model.forcings,
        advance,
        runoff,
        initial,
    )
