"""Routing as state: a model in, a model out whose river carries the water it has not yet delivered."""

import torch
from torch import Tensor

from hydroda.models.model import Fluxes, Model, Parameter, State


def nash(model: Model, reservoirs: int = 2) -> Model:
    """`model` drained through a cascade of equal linear reservoirs (Nash 1957), exact for inflow at the hour's start.

    Each reservoir keeps exp(−1/T) of what it holds and receives, T the residence time. What drained in the hour just
    ended is therefore `remaining · (exp(1/T) − 1)`, a function of the state alone: the discharge of a state is the mean
    over the hour that ends with it, which is what a gauge reports.
    """
    n, m = len(model.states), len(model.parameters)

    def advance(x: Tensor, u: Tensor, p: Tensor) -> tuple[Tensor, Fluxes]:
        inner, fluxes = model.advance(x[..., :n], u, p[..., :m])
        kept = torch.exp(-1.0 / p[..., m])
        water, parts = fluxes.outflow, [inner]
        for i in range(n, n + reservoirs):
            content = water + x[..., i].clamp(min=0.0)
            remaining = content * kept
            water = content - remaining
            parts.append(remaining.unsqueeze(-1))
        return torch.cat(parts, -1), fluxes._replace(outflow=water)

    def discharge(x: Tensor, p: Tensor) -> Tensor:
        return x[..., -1:].clamp(min=0.0) * torch.expm1(1.0 / p[..., m : m + 1])

    def initial(p: Tensor) -> Tensor:
        inner = model.initial(p[..., :m])
        return torch.cat((inner, torch.zeros_like(inner[..., :1]).expand(*inner.shape[:-1], reservoirs)), -1)

    return Model(
        f"{model.name}+nash{reservoirs}",
        model.states + tuple(State(f"routing_{i + 1}", "mm", f"routing reservoir {i + 1}") for i in range(reservoirs)),
        (*model.parameters, Parameter("routing_time", "h", "residence time of a reservoir", 0.3, 24.0, 2.0, log=True)),
        model.forcings,
        advance,
        discharge,
        initial,
    )
