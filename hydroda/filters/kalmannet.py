"""KalmanNet (Revach et al. 2022, IEEE TSP 70): a gain from recurrent networks instead of covariances.

The filter uses the model and what it sees, neither Q nor R, and says nothing of its error. See `klein` for the
covariance that a gain implies, and `dropout` for one by sampling.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hydroda.filters import learned, networks
from hydroda.filters.algebra import symmetric, transposed
from hydroda.filters.beliefs import Belief
from hydroda.filters.learned import with_mean
from hydroda.filters.networks import Layer, dense, gru, stacked, unstacked
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
    nn, qq = (weights[f"{name}.memory.hidden_weight"].shape[-1] for name in ("q", "s"))

    def parts(belief: Belief) -> tuple[Tensor, ...]:
        return stacked(belief.memory.squeeze(1), like).split((nn, nn, qq), 1)

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Belief:
        told = learned.features(weights, belief, predicted, innovation, seen)
        step, surprise, change, correction = _rows(told, like, normalised)
        q, sigma, s = parts(belief)
        q = gru(weights, "q.memory", dense(weights, "q.first", correction).relu(), q)
        moved = torch.cat((q, dense(weights, "sigma.first", change).relu()), 1)
        sigma = gru(weights, "sigma.memory", moved, sigma)
        expected = dense(weights, "s.expected", sigma).relu()
        seen_row = dense(weights, "s.first", torch.cat((step, surprise), 1)).relu()
        s = gru(weights, "s.memory", torch.cat((expected, seen_row), 1), s)
        return learned.remembering(belief, torch.cat((q, sigma, s), 1), predicted, innovation, seen)

    def read(belief: Belief) -> Tensor:
        _, sigma, s = parts(belief)
        return dense(weights, "gain.last", dense(weights, "gain.wide", torch.cat((sigma, s), 1)).relu())

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        x, y = learned.scales(weights, belief)
        q, sigma, s = parts(belief)
        gain = stacked((update.gain * y.unsqueeze(-2) / x.unsqueeze(-1)).flatten(1), like)
        back = dense(weights, "back.gain", torch.cat((s, gain), 1)).relu()
        sigma = dense(weights, "back.sigma", torch.cat((sigma, back), 1)).relu()
        memory = unstacked(torch.cat((q, sigma, s), 1), belief.memory).unsqueeze(1)
        return replace(belief, state=belief.state.shifted(update.shift), memory=memory)

    return _assembled(system, weights, attend, read, correct)


def kalmannet_single(system: System, *, weights: Mapping[str, Tensor], normalised: bool = True) -> Filter:
    """KalmanNet, architecture 1: one recurrent unit between two layers; `normalised` as in `kalmannet`."""
    like = weights["fixed.memory"]

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Belief:
        told = learned.features(weights, belief, predicted, innovation, seen)
        row = dense(weights, "first", torch.cat(_rows(told, like, normalised), 1)).relu()
        memory = gru(weights, "memory", row, stacked(belief.memory.squeeze(1), like))
        return learned.remembering(belief, memory, predicted, innovation, seen)

    def read(belief: Belief) -> Tensor:
        return dense(weights, "last", dense(weights, "wide", stacked(belief.memory.squeeze(1), like)).relu())

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
