"""The published examples of the methods, and numbers other packages gave for them.

Every number below was computed by the package named with it, or is printed in the literature; inputs are in
`reference/`. Where a prior is meant at the first observation, the first hour is one in which nothing moves.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from hydroda.filters.beliefs import Belief, Ensemble, Gaussian
from hydroda.filters.ensemble import etkf
from hydroda.filters.linear import extended, kalman
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Filter, Hour, System
from hydroda.filters.sigma import ukf
from hydroda.models.hbv import AREA_ZWALM, pauwels2013

REFERENCE = Path(__file__).parent / "reference"
NOISE = Noise(0, np.zeros(1, np.int64), np.zeros(1, np.int64))
NOTHING = torch.zeros(1, 1, 1, dtype=torch.float64)
LOWER = np.tril_indices(3)


def table(name: str, header: int = 1) -> np.ndarray:
    """(row, column), NaN where blank."""
    return np.atleast_2d(np.genfromtxt(REFERENCE / f"{name}.csv", delimiter=",", skip_header=header).T).T


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def constant(values: object) -> Tensor:
    """The same in every catchment: a leading axis."""
    return tensor(values).unsqueeze(0)


def linear_system(f: object, h: object, q_root: object, r: object) -> System:
    f, h, q_root, r = (constant(matrix) for matrix in (f, h, q_root, r))
    return System(lambda x, u: x @ f.mT, lambda x: x @ h.mT, lambda mean: q_root, lambda y: r)


def still(system: System) -> System:
    """The same world in an hour in which nothing moves."""
    return replace(system, move=lambda x, u: x, model_error=lambda mean: torch.zeros_like(mean).mT)


class Run(NamedTuple):
    means: np.ndarray  # (T, n)
    covs: np.ndarray  # (T, n, n)
    log_likelihood: float
    nis: np.ndarray  # (T,)


def run(
    build: Callable[[System], Filter],
    system: System,
    mean: object,
    cov: object,
    observation: np.ndarray,
    forcing: np.ndarray | None = None,
    at_first: bool = False,
) -> Run:
    """The filter over all observations (T, q); `at_first`: the prior is that of the first observation."""
    first, later = build(still(system) if at_first else system), build(system)
    belief: Belief = later.init(constant([mean]), constant(cov), NOISE)
    beliefs, updates = [], []
    for k, y in enumerate(observation):
        u = NOTHING if forcing is None else constant([forcing[k].tolist()])
        belief, update = (later if k else first).step(belief, Hour(u, constant(y.tolist()), NOISE))
        beliefs.append(belief)
        updates.append(update)
    return Run(
        torch.cat([belief.mean[:, 0] for belief in beliefs]).numpy(),
        torch.cat([belief.cov for belief in beliefs]).numpy(),
        float(sum(update.log_likelihood for update in updates)),
        torch.cat([update.nis for update in updates]).numpy(),
    )


def test_the_nile_as_a_local_level():
    """Durbin & Koopman (2012), ch. 2, and statsmodels 0.15.0."""
    r, q = 15099.0, 1469.1
    system = linear_system([[1.0]], [[1.0]], [[q**0.5]], [[r]])
    found = run(kalman, system, [0.0], [[1e7]], table("nile"), at_first=True)
    at = [0, 19, 39, 99]
    levels = [1118.3114615242446, 1026.1394343959414, 930.3394669012681, 798.3702926083578]
    variances = [15076.236390674487, 4032.1961236867182, 4032.1579419615414, 4032.157941808782]
    np.testing.assert_allclose(found.means[at, 0], levels, rtol=1e-9)
    np.testing.assert_allclose(found.covs[at, 0, 0], variances, rtol=1e-9)
    np.testing.assert_allclose(found.log_likelihood, -641.5855784594156, rtol=1e-9)
    np.testing.assert_allclose(found.covs[-1, 0, 0] + q, 5501.257941808476, rtol=1e-9)  # steady, in closed form


@pytest.mark.parametrize("build", [kalman, extended, ukf])
def test_correlated_gauges_of_which_some_are_missing(build):
    """statsmodels 0.15.0 and filterpy 2.0.0."""
    system = linear_system(
        [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.7]],
        [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]],
        np.diag(np.sqrt([0.02, 0.01, 0.3])).tolist(),
        [[0.5, 0.1], [0.1, 0.8]],
    )
    observation = table("linear_missing_42", header=0)
    found = run(build, system, [0.0, 0.0, 0.0], np.diag([4.0, 1.0, 1.0]).tolist(), observation, at_first=True)
    covariance = [
        *(0.193355834232519, 0.047874625481135, 0.039340109657056),
        *(-0.079695564088246, -0.016266431946849, 0.314664258109708),
    ]
    np.testing.assert_allclose(found.log_likelihood, -143.05736361230532, rtol=1e-9)
    np.testing.assert_allclose(found.means[-1], [23.052236690502916, 0.603117507995923, 0.217128052630799], rtol=1e-9)
    np.testing.assert_allclose(found.means[25], [4.892282329330834, 0.37300676102088, 0.222007844170721], rtol=1e-9)
    np.testing.assert_allclose(found.covs[-1][LOWER], covariance, rtol=1e-9)
    assert np.isnan(found.nis).tolist() == [k in range(10, 14) for k in range(60)]


@pytest.mark.parametrize(
    ("build", "mean", "variances", "tolerance"),
    [
        (partial(ukf, kappa=1.0), 0.9663137283612503, (0.06396824858674038, 0.002669529793839255), 1e-9),
        (partial(ukf, alpha=1e-3, beta=2.0), 0.965730540593875, (0.06853891632, 0.002748792874), 1e-8),
        (extended, 1.0, (0.0685389, 0.0004), 1e-6),
    ],
)
def test_the_unscented_transform_from_polar_to_cartesian(build, mean, variances, tolerance):
    """Julier & Uhlmann's problem, filterpy 2.0.0: what is expected to be observed of an uncertain range and bearing."""

    def see(x: Tensor) -> Tensor:
        return torch.stack((x[..., 0] * torch.cos(x[..., 1]), x[..., 0] * torch.sin(x[..., 1])), -1)

    system = replace(linear_system(np.eye(2).tolist(), np.eye(2).tolist(), [[0.0], [0.0]], np.eye(2).tolist()), see=see)
    prior = Gaussian(constant([[1.0, np.pi / 2]]), torch.diag_embed(constant([0.02**2, np.radians(15.0) ** 2])))
    found = build(system).observe(prior)
    np.testing.assert_allclose(found.mean[0], [0.0, mean], rtol=tolerance, atol=1e-9)
    np.testing.assert_allclose(found.cov[0].diagonal(), variances, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "mean", "covariance", "log_likelihood", "rmse", "tolerance"),
    [
        (
            *(extended, (2.625322795221, 1.735415486884), (0.042923226340618, 0.129682159569276, 0.603994999520956)),
            *(-344.4053495, (0.23995, 0.60456), 1e-9),
        ),
        (
            partial(ukf, alpha=1.0, beta=2.0, kappa=1.0),
            (2.314886750878987, 1.008652494821757),
            (0.081681802899628, 0.201604887237789, 0.733447997592927),
            *(-344.8536617592373, (0.226044221, 0.642408963), 1e-9),
        ),
        (
            partial(ukf, alpha=1.0, beta=0.0, kappa=1.0),
            (2.332814412292756, 1.051480486295299),
            (0.078547734385639, 0.195766056264395, 0.722502451309782),
            *(-344.8758758700313, (0.226021287, 0.639215605), 1e-9),
        ),
        (
            partial(ukf, alpha=1e-3, beta=2.0, kappa=0.0),
            *((2.363265925, 1.121892705), (0.070614007, 0.180772749, 0.693394385)),
            *(-344.89895007, (0.22749104, 0.64015497), 1e-6),
        ),
    ],
    ids=["extended", "ukf 1 2 1", "ukf 1 0 1", "ukf 0.001 2 0"],
)
def test_the_noisy_pendulum(build, mean, covariance, log_likelihood, rmse, tolerance):
    """The model of Särkkä (2013), ex. 3.7; filterpy 2.0.0, dynamax 1.0.3. The variance of the observation is 0.3.

    The cubature filter of filterpy is not among them: it observes the moved points, which lack the model error.
    """
    dt = 0.0125
    root = np.linalg.cholesky([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]).tolist()
    system = replace(
        linear_system(np.eye(2).tolist(), [[1.0, 0.0]], root, [[0.3]]),
        move=lambda x, u: torch.stack((x[..., 0] + dt * x[..., 1], x[..., 1] - 9.8 * dt * torch.sin(x[..., 0])), -1),
        see=lambda x: torch.sin(x[..., :1]),
    )
    data = table("pendulum_7")
    found = run(build, system, [np.pi / 2, 0.0], [[0.1, 0.0], [0.0, 0.1]], data[:, :1])
    np.testing.assert_allclose(found.means[-1], mean, rtol=tolerance)
    np.testing.assert_allclose(found.covs[-1][np.tril_indices(2)], covariance, rtol=tolerance)
    np.testing.assert_allclose(found.log_likelihood, log_likelihood, rtol=tolerance)
    error = np.sqrt(((found.means - data[:, 1:]) ** 2).mean(0))
    np.testing.assert_allclose(error, rmse, atol=5e-6 if build is extended else 5e-9 + tolerance)


@pytest.mark.parametrize(
    ("alpha", "means", "covariance", "log_likelihood", "nis", "tolerance"),
    [
        (
            1.0,
            [
                (151.87896439109326, 12.85960566590256, 2.647006965353675),
                (153.22364646246433, 12.705599628685523, 1.071069653701811),
                (155.07857838019285, 13.318770712440477, 1.940479228080478),
            ],
            [
                *(11.51058838798463, -0.682023977954697, 0.525589704001209),
                *(0.06123411465498226, -0.04589941925676819, 0.008563011152386326),
            ],
            *(179.35874794049712, 0.8565799235875581, 1e-9),
        ),
        (
            0.01,
            [
                (151.879188015, 12.859586530, 2.647008761),
                (153.224100429, 12.705555481, 1.071073936),
                (155.078824982, 13.318712375, 1.940484597),
            ],
            [11.509180879, -0.682149674, 0.525614212, 0.061244959, -0.045900772, 0.008562841],
            *(179.358249635, 0.856559173, 1e-6),
        ),
    ],
    ids=["alpha 1", "alpha 0.01"],
)
def test_hbv_of_the_paper_with_an_unscented_filter(alpha, means, covariance, log_likelihood, nis, tolerance):
    """Pauwels et al. (2013), Table 2, at an hourly step; filterpy 2.0.0, and plain runs from the last analysis."""
    model = pauwels2013(1.0)
    p, area = model.defaults, AREA_ZWALM / 3.6  # m³/s of 1 mm/h
    data = table("hbv_ukf_11")
    system = System(
        lambda x, u: model.step(x, u, p),
        lambda x: area * model.discharge(x, p),
        lambda mean: torch.diag_embed(constant([0.2, 0.05, 0.05])),
        lambda y: constant([[0.01]]),
    )
    prior = [150.0, 12.0, 3.0], np.diag([25.0, 1.0, 0.04]).tolist()
    found = run(partial(ukf, alpha=alpha, beta=2.0), system, *prior, data[:, 2:], data[:, :2])
    np.testing.assert_allclose(found.means[[23, 119, 239]], means, rtol=tolerance)
    np.testing.assert_allclose(found.covs[-1][LOWER], covariance, rtol=tolerance)
    np.testing.assert_allclose(found.log_likelihood, log_likelihood, rtol=tolerance)
    np.testing.assert_allclose(found.nis.mean(), nis, rtol=tolerance)
    if alpha == 0.01:
        x, u, discharge = constant([found.means[-1].tolist()]), constant([[0.5, 0.1]]), []
        for _ in range(24):
            x = model.step(x, u, p)
            discharge.append(float(system.see(x)))
        expected = [2.767295979, 3.396536157, 5.170090249]
        np.testing.assert_allclose([discharge[lead - 1] for lead in (1, 6, 24)], expected, rtol=1e-6)
        np.testing.assert_allclose(x[0, 0], [158.995757676, 14.683974995, 4.712878219], rtol=1e-6)


def test_a_constant_bias_as_a_state():
    """Friedland's problem, solved by filterpy 2.0.0 on the system with the bias in its state."""
    system = linear_system(
        [[0.95, 0.1, 0.5], [0.0, 0.9, 1.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.3]],
        np.diag(np.sqrt([0.02, 0.03, 0.0])).tolist(),
        [[0.2]],
    )
    found = run(kalman, system, [0.0, 0.0, 0.0], np.diag([1.0, 1.0, 0.5]).tolist(), table("bias_8"))
    covariance = [
        *(0.057034136553697, 0.029811068933629, 0.152979807873747),
        *(0.001045801023798, 0.00267244264, 0.000460707381689),
    ]
    np.testing.assert_allclose(found.means[-1], [11.92930618303831, 4.319677775979819, 0.41480605324665], rtol=1e-9)
    np.testing.assert_allclose(found.covs[-1][LOWER], covariance, rtol=1e-8)
    np.testing.assert_allclose(found.log_likelihood, -52.48764177627714, rtol=1e-9)


def test_one_analysis_of_a_field_by_the_ensemble_transform():
    """The verification output stored with PDAF 3, its offline case in two dimensions; forgetting factor 0.8."""
    i, j = np.meshgrid(np.arange(1, 19), np.arange(1, 37), indexing="ij")
    truth = np.sin(np.pi * (i / 18 + j / 36))
    prior = np.array([np.sin(np.pi * (i / 18 + j / 36) + 0.5 * np.pi * (k + 5) / 9) for k in range(1, 9)])
    mean = prior.mean(0)
    error = 0.5 * np.random.RandomState(0).randn(18, 36)
    gauged = np.ravel((i % 3 == 0) & (j % 4 == 0) & ~((j >= 13) & (j <= 25)))
    y = (truth + error).ravel()[gauged]
    assert y.size == 36 and np.isclose(y[0], 0.4236394) and np.isclose(y.sum(), -8.873108053393825, rtol=1e-13)

    at = torch.from_numpy(np.flatnonzero(gauged))
    r = 0.25 * torch.eye(36, dtype=torch.float64).unsqueeze(0)
    system = still(System(lambda x, u: x, lambda x: x[..., at], lambda mean: r, lambda y: r))
    members = torch.from_numpy((mean + (prior - mean) * 0.8**-0.5).reshape(1, 8, -1))
    belief, _ = etkf(system, members=8).step(Ensemble(members), Hour(NOTHING, constant(y.tolist()), NOISE))

    analysis = belief.members[0].numpy().reshape(8, 18, 36)
    found = analysis.mean(0)
    points = ([0, 8, 17, 4], [0, 17, 35, 29])
    expected = [0.874138235643437, -0.6513507441015303, 0.6513507441015299, -0.9358041123050562]
    first = [0.8399767832871083, -0.5709375139337595, 0.5709375139337592, -0.9177396378485408]
    last = [0.730209977278254, -0.5429660400500401, 0.5429660400500393, -0.7821059400750191]
    np.testing.assert_allclose(np.sqrt(((mean - truth) ** 2).mean()), 1.0026433706479698, rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(((found - truth) ** 2).mean()), 0.46212342192520967, rtol=1e-9)
    np.testing.assert_allclose(found[points], expected, rtol=1e-9)
    np.testing.assert_allclose(analysis.var(0, ddof=1).mean(), 0.008728327407512, rtol=1e-9)
    np.testing.assert_allclose(analysis[0][points], first, rtol=1e-9)
    np.testing.assert_allclose(analysis[7][points], last, rtol=1e-9)
