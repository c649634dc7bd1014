"""HBV: the three-store version of Pauwels et al. (2013, HESS 17, 3499), and its hourly form.

Both split rain by the filling of a soil store, percolate from it, and empty a slow linear and a fast power-law store.
`pauwels2013` is the published scheme (explicit Euler, fluxes from start-of-step storages, unbounded fast share);
`stores` is the same idea made safe at any state a filter may propose: no store is drawn below zero, none overfills.
`hourly` and `lagged` are what forecasts run on: `stores` with routing, corrected inputs and, where there is
temperature, snow.
"""

import torch
from torch import Tensor

from hydroda.models.inputs import corrected, degree_day
from hydroda.models.model import Components, Fluxes, Model, Parameter, State
from hydroda.models.routing import lag, nash

AREA_ZWALM = 114.3  # km², the catchment of the paper

STORES = (
    State("soil", "mm", "water in the soil store"),
    State("slow", "mm", "water in the slow store"),
    State("fast", "mm", "water in the fast store"),
)

_PAUWELS = (
    Parameter("evaporation_threshold", "1", "λ, filling that evaporates at the potential rate", 0.1, 3.0, 1.228),
    Parameter("soil_capacity", "mm", "Smax", 20.0, 1500.0, 322.0, log=True),
    Parameter("infiltration_shape", "1", "b", 0.01, 10.0, 1.219, log=True),
    Parameter("percolation", "mm h-1", "Pe", 1e-4, 5.0, 1.077e-8 * 3.6e6, log=True),
    Parameter("percolation_shape", "1", "β", 0.01, 10.0, 1.326, log=True),
    Parameter("fast_share", "1", "α", 0.05, 3.0, 1.512),
    Parameter("slow_rate", "h-1", "κ1", 1e-5, 0.1, 6.916e-7 * 3600, log=True),
    Parameter("fast_rate", "mm h-1", "κ2", 1e-3, 10.0, 1.369e-7 * 3.6e6, log=True),
    Parameter("fast_capacity", "mm", "S2max", 1.0, 200.0, 17.26, log=True),
    Parameter("fast_shape", "1", "ψ", 1.0, 4.0, 1.049),
)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """A power of a positive base, the same bits however the tensors lie in memory, which `torch.pow` does not promise.

    With it a catchment computed alone is the catchment computed among others.
    """
    return torch.exp(exponent * torch.log(base))


def _power_from_zero(base: Tensor, exponent: Tensor) -> Tensor:
    """A power that is zero for a base of zero or less, and has no slope there."""
    empty = base <= 0.0
    return torch.where(empty, 0.0, _power(torch.where(empty, 1.0, base), exponent))


def pauwels2013(hours: float = 1.0, *, capped: bool = False) -> Model:
    """HBV as published (Pauwels et al. 2013, eqs 22–32), step `hours`; the defaults are their Table 2 in mm and hours.

    α s exceeds one above a filling of 1/α, where the slow store is then drawn on (eq. 29); `capped` limits the share
    to one, which is another model. Arguments of powers are kept non-negative, in the step and in the discharge alike,
    so that a filter may propose any state. The discharge of a state is the outflow that leaves from it.
    """

    def outflow(x: Components, p: Components) -> tuple[Tensor, Tensor]:
        rate1, rate2, capacity2, psi = p[6:]
        return rate1 * x[1], rate2 * _power_from_zero(x[2] / capacity2, psi)  # eqs 30, 27

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        lam, capacity, b, pe, beta, alpha = p[:6]
        rain, pet = u
        s = x[0] / capacity
        evaporation = s * pet / lam  # eq. 22
        infiltration = _power_from_zero(1.0 - s, b) * rain  # eq. 23
        excess = rain - infiltration  # eq. 24
        percolation = pe * (1.0 - torch.exp(-beta * s))  # eq. 25
        to_fast = ((alpha * s).clamp(max=1.0) if capped else alpha * s) * excess  # eq. 29
        slow, fast = outflow(x, p)
        change = (infiltration - evaporation - percolation, excess - to_fast - slow + percolation, to_fast - fast)
        fluxes = Fluxes(hours * rain, hours * evaporation, hours * (slow + fast))
        return tuple(content + hours * c for content, c in zip(x, change, strict=True)), fluxes

    def runoff(x: Components, p: Components) -> Tensor:
        slow, fast = outflow(x, p)
        return slow + fast  # eq. 31

    def initial(p: Components) -> tuple[Tensor, ...]:
        return 0.5 * p[1], torch.full_like(p[1], 10.0), 0.1 * p[8]

    return Model("hbv.pauwels2013", STORES, _PAUWELS, ("precipitation", "pet"), advance, runoff, initial)


_STORES = (
    Parameter("soil_capacity", "mm", "Smax", 20.0, 1500.0, 250.0, log=True),
    Parameter("infiltration_shape", "1", "b", 0.05, 10.0, 1.0, log=True),
    Parameter("evaporation_threshold", "1", "λ, filling from which evaporation is potential", 0.1, 1.0, 0.7),
    Parameter("percolation", "mm h-1", "Pe", 1e-3, 5.0, 0.1, log=True),
    Parameter("percolation_shape", "1", "β", 0.05, 10.0, 1.3, log=True),
    # α ≥ 1: a full soil sends all excess to the fast store, or floods beyond those calibrated on would be cut
    Parameter("fast_share", "1", "α", 1.0, 5.0, 1.2, log=True),
    Parameter("slow_rate", "h-1", "κ1", 1e-4, 0.05, 2e-3, log=True),
    Parameter("fast_rate", "h-1", "κ2, outflow rate at 10 mm", 2e-3, 2.0, 0.05, log=True),
    Parameter("fast_shape", "1", "ψ", 1.0, 4.0, 1.3),
)
FAST_REFERENCE = 10.0  # mm
TINY = 1e-9  # keeps the gradient of a power finite at an empty or a full store


def stores() -> Model:
    """Three-store HBV at an hourly step, positive and bounded by construction; eq. numbers as in Pauwels et al. (2013).

    Operator splitting: rain enters the soil, then evaporation and percolation leave what is there, then the slow and
    the fast store receive and drain. A store of content w drains w (1 − exp(−k)), k = κ1, or κ2 (w/10 mm)^(ψ−1) for
    the fast one (the power law of eq. 27 solved with its rate frozen over the hour). Evaporation is potential above a
    filling λ ≤ 1, the share of the fast store is min(α s, 1), infiltration ends at the capacity. The discharge of a
    state is what drains from it in an hour without rain.
    """

    def kept(slow: Tensor, fast: Tensor, k1: Tensor, k2: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        rate = k2 * _power((fast / FAST_REFERENCE).clamp(min=TINY), psi - 1.0)  # eq. 27
        return slow * torch.exp(-k1), fast * torch.exp(-rate)

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        capacity, b, lam, pe, beta, alpha, k1, k2, psi = p
        rain, pet = u
        soil, slow, fast = (content.clamp(min=0.0) for content in x)
        soil = torch.minimum(soil, capacity)
        space = capacity - soil
        infiltration = torch.minimum(_power((space / capacity).clamp(min=TINY), b) * rain, space)  # eq. 23
        excess = rain - infiltration
        soil = soil + infiltration
        filling = soil / capacity
        evaporation = torch.minimum(pet * (filling / lam).clamp(max=1.0), soil)  # eq. 22
        soil = soil - evaporation
        percolation = torch.minimum(pe * -torch.expm1(-beta * filling), soil)  # eq. 25
        to_fast = (alpha * filling).clamp(max=1.0) * excess  # eq. 29
        slow = slow + (excess - to_fast) + percolation
        fast = fast + to_fast
        slow_kept, fast_kept = kept(slow, fast, k1, k2, psi)
        fluxes = Fluxes(rain, evaporation, (slow - slow_kept) + (fast - fast_kept))
        return (soil - percolation, slow_kept, fast_kept), fluxes

    def runoff(x: Components, p: Components) -> Tensor:
        slow, fast = x[1].clamp(min=0.0), x[2].clamp(min=0.0)
        slow_kept, fast_kept = kept(slow, fast, *p[6:])
        return (slow - slow_kept) + (fast - fast_kept)

    def initial(p: Components) -> tuple[Tensor, ...]:
        return 0.5 * p[0], 0.05 * p[0], torch.ones_like(p[0])

    return Model("hbv.stores", STORES, _STORES, ("precipitation", "pet"), advance, runoff, initial)


def hourly(*, temperature: bool = False) -> Model:
    """The forecast model: three stores, two routing reservoirs, corrected inputs; snow where there is temperature."""
    return _weathered(nash(stores(), reservoirs=2), temperature)


def lagged(*, temperature: bool = False) -> Model:
    """The forecast model of a river that rises steeply and an hour after the rain: as `hourly`, but with a lag and one
    reservoir for two."""
    return _weathered(nash(lag(stores()), reservoirs=1), temperature)


def _weathered(model: Model, temperature: bool) -> Model:
    return corrected(degree_day(model) if temperature else model)
