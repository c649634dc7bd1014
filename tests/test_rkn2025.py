"""The study of Recursive KalmanNet: exact values of classical filters, and the command at its smallest."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from hydroda.__main__ import main
from hydroda.forecast import network_files
from hydroda.reproduction import constant_speed, rkn2025, rkn2025_report
from hydroda.reproduction.constant_speed import drawn
from hydroda.reproduction.rkn2025 import followed, score

# MSE [dB] in expectation: of the filter that is told every error, and of the one that is told σ²
ORACLE = {20: -28.587, 30: -21.647, 40: -14.327, 50: -7.036, 60: 0.125}
TOLD = {20: -26.619, 30: -19.014, 40: -11.290, 50: -3.825, 60: 3.315}
# GPB1 and the bound (200 members) on 1000 series of another draw: MSE [dB], MSMD
GPB1 = {20: (-26.910, 2.015), 30: (-19.626, 2.018), 40: (-12.311, 2.003), 50: (-5.035, 2.029), 60: (2.002, 2.052)}
BOUND = {20: (-26.995, 2.018), 30: (-19.718, 2.021), 40: (-12.359, 2.015), 50: (-5.053, 2.046), 60: (2.026, 2.081)}


@pytest.mark.parametrize("level", constant_speed.LEVELS)
def test_the_filter_that_is_told_the_mean_variance_has_the_error_riccati_gives(level):
    """Its covariance does not depend on what is observed, and is right on average although errors have two sizes."""
    found = followed(rkn2025.linear.extended, drawn(level, 1, 5).series)
    variance = found.cov.diagonal(dim1=-2, dim2=-1).mean()
    assert abs(10.0 * np.log10(float(variance)) - TOLD[level]) < 1e-3


@pytest.mark.parametrize("level", [20, 60])
def test_classical_filters_have_their_exact_errors(level):
    of = drawn(level, 1000, rkn2025.TEST)
    told = score("so-KF", level, of.series, followed(rkn2025.linear.extended, of.series))
    oracle = score("o-KF", level, of.series, followed(rkn2025.linear.extended, of.series, of.factor))
    merged = score("GPB1", level, of.series, followed(*rkn2025._mixture(of.series)))
    both = 2.0**0.5  # the numbers for GPB1 are those of other series, as many
    for found, mse, msmd, draws in (
        (told, TOLD[level], 2.0, 1.0),
        (oracle, ORACLE[level], 2.0, 1.0),
        (merged, *GPB1[level], both),
    ):
        # twelve comparisons: one beyond two standard errors is likely, one beyond three is not
        assert abs(found.mse - mse) < 3 * draws * found.mse_error, found
        assert abs(found.msmd - msmd) < 3 * draws * found.msmd_error, found
    assert told.mse_error == pytest.approx({20: 0.029, 60: 0.089}[level], rel=0.1)


def test_the_particle_filter_is_better_than_the_mixture():
    of = drawn(20, 60, 6).series
    found = score("bound", 20, of, followed(rkn2025._particles(50), of))
    merged = score("GPB1", 20, of, followed(*rkn2025._mixture(of)))
    assert abs(found.mse - BOUND[20][0]) < 3 * found.mse_error
    assert abs(found.msmd - BOUND[20][1]) < 3 * found.msmd_error
    assert found.nll < merged.nll and found.mse < merged.mse


def test_observation_errors_are_of_two_sizes():
    of = drawn(30, 200, 7)
    error = (of.series.observation - of.series.truth[..., :1]) / constant_speed.variance(30) ** 0.5
    for factor, share in zip(constant_speed.FACTORS, constant_speed.SHARES, strict=True):
        some = error[of.factor == factor]
        assert some.numel() / error.numel() == pytest.approx(share, abs=0.01)
        assert float(some.var()) == pytest.approx(factor, rel=0.03)
    step = of.series.truth[1:] - of.series.truth[:-1] @ constant_speed.MOVE.T
    assert step[..., 0].abs().max() < 1e-9 and float(step[..., 1].std()) == pytest.approx(1e-2, rel=0.02)


def test_the_command_writes_tables_figures_and_weights_and_goes_on(tmp_path, monkeypatch, capsys):
    def tiny(network: rkn2025.Network) -> rkn2025.Network:
        plan = replace(network.plan, iterations=2, batch=4, window=10, lengths=((0, 10),), every=1)
        return replace(network, seeds=1, plan=plan)

    small = rkn2025.Study((20, 40), tuple(map(tiny, rkn2025.NETWORKS)), tuple(map(tiny, rkn2025.FULL.gaussian)), 6, 4)
    monkeypatch.setattr(rkn2025, "QUICK", small)
    monkeypatch.setattr(rkn2025, "drawn", partial(drawn, steps=20))
    for name in ("TRAINING", "VALIDATION"):
        monkeypatch.setattr(rkn2025, name, (8, getattr(rkn2025, name)[1]))
    assert main(["reproduce", "rkn2025", "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "rkn2025-quick"
    assert (
        printed.startswith("*Made with `--quick`")
        and "\n\nMSE [dB]" in printed
        and (folder / rkn2025_report.PAGE).read_text() in printed
    )
    assert "(-26)" in printed and all(f"| {name} |" in printed for name in rkn2025_report.ORDER)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.training")}
    assert len(kept) == 9 and len(list(folder.glob("*.safetensors"))) == 9
    assert all((folder / name).stat().st_size < 150_000 for name in (rkn2025_report.ONE, rkn2025_report.ALL))
    weights, about = network_files.load(folder / "RKN.safetensors")
    assert about["filter"] == "rkn.recursive_kalmannet" and about["levels"] == [20, 40] and len(about["data"]) == 64
    assert all(tensor.shape[0] == 2 for tensor in weights.values())
    before = json.loads((folder / "rkn2025.json").read_text())
    assert main(["reproduce", "rkn2025", "--quick", "--out", str(tmp_path)]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.training")} == kept
    assert json.loads((folder / "rkn2025.json").read_text()) == before
    assert torch.isfinite(torch.tensor([each["mse"] for each in before])).all()
