"""States and parameters estimated together: a builder in, a builder out."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from hydroda.filters.beliefs import Belief, Ensemble
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, Recipe, System, Unknowns, Update, assemble

CHANCE = 3.0  # correlations of so many sampling errors are taken for real
EDGE = 1e-6  # share of the interval that a parameter at its bound begins away from it


def parameters(build: Build, *, names: str, spread: float = 0.3, walk: float = 0.01) -> Build:
    """A filter that estimates some parameters of its model beside the state (filters of z = [x; θ]).

    `names` are parameters of the model, parted by commas. Each is estimated as θ = log (p − l) / (u − p) between its
    bounds l and u, so that no value of θ is impossible, around the calibrated value with standard deviation `spread`,
    and walks by `walk` an hour. The belief's mean is that of (x, θ); `values` gives parameters back.

    Members leave a parameter alone in an hour whose discharge does not correlate with it beyond chance, 3/√(N − 1) (as
    Luo et al. 2018, SPE J. 23, 396, localise by correlations): a parameter has no model error that would make up
    for the variance that chance takes from it every hour. Raises ValueError for a parameter that the model has not, or
    errors that are not positive.
    """
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    if not wanted or spread <= 0 or walk < 0:
        raise ValueError(
            f"joint.parameters: names {names!r} must name a parameter, spread {spread} be positive and walk {walk} not "
            "negative"
        )

    def made(system: System) -> Filter:
        wide, theta = augmented(system, wanted, walk)
        inner = build(wide)
        if inner.recipe is not None:
            inner = assemble(inner.system, _significant(inner.recipe, len(wanted)))

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Belief:
            k = len(wanted)
            own = torch.diag_embed(torch.full((k,), spread**2, dtype=cov.dtype))
            p = pad(cov, (0, k, 0, k)) + pad(own, (mean.shape[-1], 0, mean.shape[-1], 0))
            return inner.init(torch.cat((mean, theta.expand(mean.shape[0], -1, -1)), -1), p, noise)

        return inner.begun(init)

    return made


def _significant(recipe: Recipe, count: int) -> Recipe:
    """The recipe whose members keep those of their last `count` components whose correlation with what is observed may
    be chance."""

    def real(belief: Ensemble, predicted: Predicted) -> Tensor:
        """Which of all components (c, n) are to be corrected."""
        members = belief.members
        variance = members[..., -count:].var(1).unsqueeze(-1) * predicted.cov.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        beyond = predicted.cross[:, -count:].square() > variance * CHANCE**2 / (members.shape[1] - 1)
        return pad(beyond.any(-1), (members.shape[-1] - count, 0), value=True)

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        k = recipe.gain(belief, predicted, innovation, r)
        return torch.where(real(belief, predicted).unsqueeze(-1), k, 0.0) if isinstance(belief, Ensemble) else k

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        found = recipe.correct(belief, predicted, update, r, hour)
        if not isinstance(belief, Ensemble):
            return found
        return Ensemble(torch.where(real(belief, predicted).unsqueeze(1), found.members, belief.members))

    return replace(recipe, gain=gain, correct=correct)


def augmented(system: System, names: tuple[str, ...], walk: float) -> tuple[System, Tensor]:
    """The system on (x, θ) for parameters of these names, and θ (c, 1, k) of their calibrated values.

    Raises ValueError when the system says nothing of its parameters, or has none of a name.
    """
    known = system.unknowns
    if known is None:
        raise ValueError("joint.parameters: nothing is known of the parameters of this system")
    for name in names:
        if name not in known.names:
            raise ValueError(f"joint.parameters: no parameter {name!r}; there are {', '.join(known.names)}")
    at = [known.names.index(name) for name in names]

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        """States (c, k, n) and all parameters (c, k, p)."""
        n = z.shape[-1] - len(at)
        p = known.values.expand(z.shape[0], z.shape[1], -1).unbind(-1)
        free = iter(values(known, names, z[..., n:]).unbind(-1))
        chosen = {index: next(free) for index in at}
        return z[..., :n], torch.stack([chosen.get(i, own) for i, own in enumerate(p)], -1)

    def move(z: Tensor, forcing: Tensor) -> Tensor:
        x, p = parts(z)
        return torch.cat((known.move(x, forcing, p), z[..., z.shape[-1] - len(at) :]), -1)

    def model_error(mean: Tensor) -> Tensor:
        driving = system.model_error(mean[..., : mean.shape[-1] - len(at)])
        steps = walk * torch.eye(len(at)).to(driving).expand(driving.shape[0], -1, -1)
        return torch.cat((pad(driving, (0, len(at))), pad(steps, (driving.shape[-1], 0))), -2)

    lower, upper = known.lower[at], known.upper[at]
    share = ((known.values[..., at] - lower) / (upper - lower)).clamp(EDGE, 1.0 - EDGE)
    stores = None if system.stores is None else pad(system.stores, (0, len(at)))
    wide = System(move, lambda z: known.see(*parts(z)), model_error, system.observation_error, stores)
    return wide, torch.logit(share)


def values(known: Unknowns, names: tuple[str, ...], theta: Tensor) -> Tensor:
    """Parameters (…, k) of these names from θ (…, k)."""
    at = [known.names.index(name) for name in names]
    return known.lower[at] + (known.upper[at] - known.lower[at]) * torch.sigmoid(theta)
