"""KalmanNet (Revach et al. 2022, IEEE TSP 70): a gain from recurrent networks instead of covariances.

The filter uses the model and what it sees, neither Q nor R, and says nothing of its error. See `klein` for the
covariance that a gain implies, and `bayesian_kalmannet` for one by sampling.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hydroda.filters import learned, networks
from hydroda.filters.algebra import symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.learned import with_covariance, with_mean
from hydroda.filters.nested import Learned
from hydroda.filters.networks import Layer, dense, gru, stacked, unstacked
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble

WIDE, INNER = 5, 40  # factors of the layers before the recurrent units and within the gain


def initial(state: Tensor, observation: Tensor, seeds: Iterable[int]) -> dict[str, Tensor]:
    """Untrained weights of architecture 2 for the scales of states (net, n) and observations (net, q).

    The recurrent units Q and S begin with identity matrices; the gain begins a tenth as large as PyTorch would have it.
    """
    (nets, n), q = state.shape, observation.shape[-1]
    nn, qq = n * n, q * q
    layers = [
        Layer("q.first", n, WIDE * n),
        Layer("q.memory", WIDE * n, nn, recurrent=True),
        Layer("sigma.first", n, WIDE * n),
        Layer("sigma.memory", nn + WIDE * n, nn, recurrent=True),
        Layer("s.expected", nn, qq),
        Layer("s.first", 2 * q, 2 * WIDE * q),
        Layer("s.memory", qq + 2 * WIDE * q, qq, recurrent=True),
        Layer("gain.wide", nn + qq, INNER * (nn + qq)),
        Layer("gain.last", INNER * (nn + qq), n * q, size=0.1),
        Layer("back.gain", qq + n * q, nn),
        Layer("back.sigma", 2 * nn, nn),
    ]
    one = (torch.eye(n).flatten(), torch.zeros(nn), torch.eye(q).flatten())
    return networks.weights(layers, seeds, state=state, observation=observation, memory=torch.cat(one).repeat(nets, 1))


def initial_single(state: Tensor, observation: Tensor, seeds: Iterable[int]) -> dict[str, Tensor]:
    """Untrained weights of architecture 1: one recurrent unit of 10 (n² + q²).

    The paper leaves the other widths open; they are those of Split-KalmanNet, which came from it.
    """
    (nets, n), q = state.shape, observation.shape[-1]
    size = 10 * (n * n + q * q)
    layers = [
        Layer("first", 2 * n + 2 * q, 80 * (n + q)),
        Layer("memory", 80 * (n + q), size, recurrent=True),
        Layer("wide", size, 4 * n * q),
        Layer("last", 4 * n * q, n * q, size=0.1),
    ]
    memory = torch.zeros(nets, size)
    return networks.weights(layers, seeds, state=state, observation=observation, memory=memory)


def kalmannet(system: System, *, weights: Mapping[str, Tensor], normalised: bool = True) -> Filter:
    """KalmanNet, architecture 2: recurrent units in the places of Q, P and S of a Kalman filter.

    `normalised`: each feature is divided by its length, as published, which of a single number leaves the sign;
    otherwise features are in the scales stored with the weights.
    """
    like = weights["fixed.memory"]

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Belief:
        told = learned.features(weights, belief, predicted, innovation, seen)
        memory = _heard(weights, _memory(belief, like), _rows(told, like, normalised))
        return learned.remembering(belief, memory, predicted, innovation, seen)

    def read(belief: Belief) -> Tensor:
        return _said(weights, _memory(belief, like))

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        x, y = learned.scales(weights, belief)
        gain = stacked((update.gain * y.unsqueeze(-2) / x.unsqueeze(-1)).flatten(1), like)
        memory = unstacked(_settled(weights, _memory(belief, like), gain), belief.memory).unsqueeze(1)
        return replace(belief, state=belief.state.shifted(update.shift), memory=memory)

    return _assembled(system, weights, attend, read, correct)


def bayesian_kalmannet(
    system: System,
    *,
    weights: Mapping[str, Tensor],
    normalised: bool = True,
    draws: int = 20,
    dropout: float = 0.1,
) -> Filter:
    """KalmanNet with a covariance by Monte Carlo dropout (Gal & Ghahramani 2016; Dahan et al. 2023).

    Weights are trained with `draws` of one. Every draw has a memory of its own and loses each output of the layers
    before the recurrent units with probability `dropout`; mean and covariance of the analysis are those of K_j d over
    the draws j. It tells how sure the network is, not how large the errors of model and gauge are.
    """
    like = weights["fixed.memory"]

    def init(mean: Tensor, cov: Tensor, noise: Noise) -> Learned:
        belief = carried.init(mean, cov, noise)
        return replace(belief, memory=belief.memory.repeat(1, draws, 1))

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Belief:
        told = learned.features(weights, belief, predicted, innovation, seen)
        rows = tuple(row.repeat_interleave(draws, -1) for row in _rows(told, like, normalised))

        def thinned(name: str, x: Tensor) -> Tensor:
            drawn = hour.noise.uniform(f"dropout {name}", draws, x.shape[1]).flatten(0, 1)
            return x * (stacked(drawn, like) >= dropout) / (1.0 - dropout)

        memory = unstacked(_heard(weights, _memory(belief, like), rows, thinned), belief.memory)
        observation = torch.where(seen, innovation + predicted.mean, belief.observation)
        return replace(belief, memory=memory.unflatten(0, (-1, draws)), observation=observation)

    def gains(belief: Belief) -> Tensor:
        """(c, draw, n, q)."""
        x, y = learned.scales(weights, belief)
        every = unstacked(_said(weights, _memory(belief, like)), belief.mean)
        k = every.reshape(x.shape[0], draws, x.shape[1], y.shape[1])
        return k * x[:, None, :, None] / y[:, None, None, :]

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        return gains(belief).mean(1)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        every = gains(belief)
        spread = ((every - every.mean(1, keepdim=True)) @ update.innovation[:, None, :, None]).squeeze(-1)
        cov = transposed(spread) @ spread / max(draws - 1, 1)
        memory = _settled(weights, _memory(belief, like), _said(weights, _memory(belief, like)))
        own = unstacked(memory, belief.memory).unflatten(0, (-1, draws))
        return replace(belief, state=Gaussian(belief.mean + update.shift, cov), memory=own)

    carried = with_covariance(system, weights)
    return assemble(system, Recipe(init, carried.forecast, carried.observe, gain, correct, attend))


def kalmannet_single(system: System, *, weights: Mapping[str, Tensor], normalised: bool = True) -> Filter:
    """KalmanNet, architecture 1: one recurrent unit between two layers; `normalised` as in `kalmannet`."""
    like = weights["fixed.memory"]

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Belief:
        told = learned.features(weights, belief, predicted, innovation, seen)
        row = dense(weights, "first", torch.cat(_rows(told, like, normalised), 1)).relu()
        memory = gru(weights, "memory", row, _memory(belief, like))
        return learned.remembering(belief, memory, predicted, innovation, seen)

    def read(belief: Belief) -> Tensor:
        return dense(weights, "last", dense(weights, "wide", _memory(belief, like)).relu())

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        return belief.shifted(update.shift)

    return _assembled(system, weights, attend, read, correct)


def klein(gain: Tensor, h: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances (c, n, n) before and after an observation that a gain (c, n, q) implies (Klein et al. 2022).

    M = (I − H K)⁻¹ H K R = H P⁻ Hᵀ, P⁻ = H⁺ M H⁺ᵀ, P⁺ = (I − K H) P⁻, symmetric parts. Raises ValueError where H
    (c, q, n) has fewer rows than columns, for then the gain does not tell.
    """
    q, n = h.shape[-2:]
    if q < n:
        raise ValueError(f"a gain tells the covariance of {n} states from {n} observations or more, there are {q}")
    hk = h @ gain
    m = torch.linalg.solve(torch.eye(q).to(hk) - hk, hk @ r)
    inverse = torch.linalg.pinv(h)
    before = symmetric(inverse @ m @ transposed(inverse))
    return before, symmetric(before - gain @ h @ before)


def _memory(belief: Belief, like: Tensor) -> Tensor:
    return stacked(belief.memory.flatten(0, 1), like)


def _heard(
    w: Mapping[str, Tensor],
    memory: Tensor,
    told: tuple[Tensor, ...],
    thinned: Callable[[str, Tensor], Tensor] = lambda name, x: x,
) -> Tensor:
    """The memory of the three recurrent units after an innovation."""
    (q, sigma, s), (step, surprise, change, correction) = _units(w, memory), told

    def layer(name: str, x: Tensor) -> Tensor:
        return thinned(name, dense(w, name, x).relu())

    q = gru(w, "q.memory", layer("q.first", correction), q)
    sigma = gru(w, "sigma.memory", torch.cat((q, layer("sigma.first", change)), 1), sigma)
    seen = torch.cat((layer("s.expected", sigma), layer("s.first", torch.cat((step, surprise), 1))), 1)
    return torch.cat((q, sigma, gru(w, "s.memory", seen, s)), 1)


def _said(w: Mapping[str, Tensor], memory: Tensor) -> Tensor:
    """The gain (net, n q, row), without units."""
    _, sigma, s = _units(w, memory)
    return dense(w, "gain.last", dense(w, "gain.wide", torch.cat((sigma, s), 1)).relu())


def _settled(w: Mapping[str, Tensor], memory: Tensor, gain: Tensor) -> Tensor:
    """The memory when the gain is known, from which the unit in the place of P begins the next hour."""
    q, sigma, s = _units(w, memory)
    back = dense(w, "back.gain", torch.cat((s, gain), 1)).relu()
    return torch.cat((q, dense(w, "back.sigma", torch.cat((sigma, back), 1)).relu(), s), 1)


def _units(w: Mapping[str, Tensor], memory: Tensor) -> tuple[Tensor, ...]:
    return memory.split([w[f"{name}.memory.hidden_weight"].shape[-1] for name in ("q", "sigma", "s")], 1)


def _rows(told: learned.Features, like: Tensor, normalised: bool) -> tuple[Tensor, ...]:
    rows = (stacked(x, like) for x in (told.step, told.innovation, told.change, told.correction))
    return tuple(normalize(row, dim=1, eps=1e-12) if normalised else row for row in rows)


def _assembled(
    system: System,
    weights: Mapping[str, Tensor],
    attend: Callable[[Belief, Predicted, Tensor, Tensor, Hour], Belief],
    read: Callable[[Belief], Tensor],
    correct: Callable[[Belief, Predicted, Update, Tensor, Hour], Belief],
) -> Filter:
    """A filter that has a gain and no covariance."""

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        x, y = learned.scales(weights, belief)
        k = unstacked(read(belief), belief.mean).reshape(predicted.cross.shape)
        return k * x.unsqueeze(-1) / y.unsqueeze(-2)

    return assemble(system, Recipe(*with_mean(system, weights), gain, correct, attend))
