"""Twin experiments: the truth has the errors it is said to have, and a filter that is told them knows its own error."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from hydroda import catalogue, filters
from hydroda.filters import sigma
from hydroda.forecast.cycle import Batch, Levels
from hydroda.models.linear import reservoirs
from hydroda.pages import drawing
from hydroda.trials import trial, twin, twin_figures
from hydroda.trials.trial import Score
from hydroda.trials.twin import Twin

PAGE = Path(filters.__file__).parent / "README.md"
SHORT = ("sigma.srukf", "ensemble.etkf", "reduced.seik")
STATES = 6
ERROR = 0.3  # of the tanks


@cache
def short() -> Twin:
    return twin.rivers(4, 6, settle=4)


@cache
def small() -> Twin:
    return twin.rivers(1, 2, settle=0, gaps=0.0)


@cache
def scores() -> dict[str, Score]:
    return {score.name: score for score in trial.compare(SHORT, short())}


@cache
def tanks() -> Twin:
    """Two catchments of two linear reservoirs over 2000 hours, with constant errors."""
    model = reservoirs(2)
    whole = torch.ones(2, 1, 2, dtype=torch.float64)
    levels = Levels(0.0 * whole, ERROR * whole, 0.0 * whole[..., 0], ERROR * whole[..., 0])
    batch = Batch(model, model.defaults.expand(2, -1, -1), levels, sigma.ukf, np.array([3, 4]), 1)
    forcing = torch.ones(2000, 2, 1, dtype=torch.float64)
    return twin.drawn(batch, model.start(batch.parameters), forcing, hour=1000, settle=48, gaps=0.1)


def test_the_errors_of_the_truth_have_the_stated_size():
    found = tanks()
    world = found.batch.system
    before, after = found.truth[:-1], found.truth[1:]
    steps = torch.stack([world.move(x.unsqueeze(1), found.forcing[0].unsqueeze(1))[:, 0] for x in before])
    gauge = found.observation - found.discharge
    seen = gauge.isfinite()
    for errors in (after - steps, gauge[seen]):
        assert abs(float(errors.std()) / ERROR - 1.0) < 5.0 / (2 * errors.numel()) ** 0.5
        assert abs(float(errors.mean())) < 5.0 * ERROR / errors.numel() ** 0.5
    independent = (after - steps).reshape(len(after), -1).T
    assert np.abs(np.corrcoef(independent) - np.eye(4)).max() < 0.1
    assert abs(float((~seen).double().mean()) - 0.1) < 0.03


def test_errors_that_grow_with_the_water_do_so_in_the_truth():
    found = short()
    gauge = (found.observation - found.discharge) / (twin.GAUGE[0] * found.discharge + twin.GAUGE[1])
    assert abs(float(gauge[gauge.isfinite()].std()) - 1.0) < 0.1


def test_gaps_last_as_long_as_stated():
    for missing in tanks().observation.isnan().T.numpy():
        inside = "".join(".x"[int(hour)] for hour in missing).strip("x")
        assert min(len(gap) for gap in re.findall("x+", inside)) == twin.GAP
    assert not small().observation.isnan().any()


def test_with_hardly_any_error_the_open_loop_is_nearly_right_and_a_filter_more_so():
    found = twin.rivers(2, 4, settle=2, size=1e-6)
    torch.testing.assert_close(found.truth[..., :-1], found.open_loop[..., :-1], rtol=1e-3, atol=1e-6)
    assert trial.run("sigma.ukf", sigma.ukf, found).discharge < 0.8


def test_a_filter_that_is_told_the_errors_knows_its_own():
    score = scores()["sigma.ukf"]
    assert 0.7 < score.spread < 1.4
    assert 0.8 < score.nis < 1.25
    assert score.discharge < 0.6
    assert sorted(score.states.values())[STATES // 2] < 1.0  # of so few days, one store may be worse off
    exact = trial.run("sigma.ukf", sigma.ukf, tanks())
    assert exact.spread == pytest.approx(1.0, abs=0.06)
    assert exact.nis == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("sigma.ukf", 2 * STATES + 1),
        ("sigma.srukf", 2 * STATES + 1),
        ("ensemble.etkf", 40),
        ("reduced.seik", 4 + 1),
    ],
)
def test_model_runs_are_counted(name, runs):
    assert scores()[name].runs == runs


@pytest.mark.parametrize(
    ("name", "runs"), [("linear.extended", STATES + 1), ("mixed.coffee", 1 + 3 + 20), ("variational.three_d_var", 1)]
)
def test_model_runs_of_others_are_counted(name, runs):
    assert trial.run(name, trial.builder(name), small()).runs == runs


def without_clock(found):
    return {score.name: repr(replace(score, seconds=0.0)) for score in found}


def test_scores_do_not_depend_on_the_company():
    other = without_clock(trial.compare(("reduced.seik", "sigma.srukf"), short()))
    mine = without_clock(scores().values())
    assert other == {name: mine[name] for name in other}
    assert [*scores()] == ["sigma.ukf", *SHORT]
    assert scores()["sigma.ukf"].seconds == 1.0


def test_a_filter_that_fails_is_reported_and_stops_no_other():
    def broken(system):
        raise ValueError("no such luck")

    def lost(system):
        made = sigma.ukf(system)

        def step(belief, hour):
            after, update = made.step(belief, hour)
            return replace(after, mean=after.mean * torch.nan), update

        return replace(made, step=step)

    def builds(name):
        return {"broken": broken, "lost": lost}.get(name) or trial.builder(name)

    told = []
    found = trial.compare(
        ("broken", "lost", "sigma.srukf"), short(), builds=builds, progress=lambda f, text: told.append((f, text))
    )
    problems = {score.name: score.problem for score in found}
    assert problems["broken"] == "ValueError: no such luck"
    assert "no finite state after 1 hours" in problems["lost"]
    assert not problems["sigma.srukf"]
    assert "broken failed: ValueError: no such luck" in twin_figures.table(found)
    assert [f for f, _ in told] == sorted(f for f, _ in told)
    assert told[-1][0] == 1.0


def test_names_that_there_are_not_are_refused_at_once():
    for name in ("sigma.ufk", "linear.kalman", "sigma.ukf+reduce.stedy"):
        with pytest.raises(ValueError, match=r"there is no .* to try"):
            trial.compare((name,), short())
    with pytest.raises(ValueError, match="1 days"):
        twin.rivers(days=1)


def test_modifiers_act_and_large_states_are_cut():
    found = trial.compare(("sigma.ukf+joint.parameters", "sigma.ukf+coloured.remembered"), short())
    assert [len(score.states) for score in found] == [STATES] * 3
    assert [score.runs for score in found] == [13, 15, 15]


def test_looking_for_a_bias_costs_a_model_without_one_little():
    plain, aware = trial.compare(("sigma.ukf+bias.aware",), short())
    assert aware.discharge < 1.05 * plain.discharge and aware.lead < 1.05 * plain.lead


def test_pictures_show_every_filter_and_labels_do_not_overlap(tmp_path):
    found = [*scores().values()]
    files = twin_figures.write(found, tmp_path / "new")
    assert [file.name for file in files] == ["twin.md", "twin_cost.png", "twin_states.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[1:])
    assert files[0].read_text().count("\n") == 2 + len(found)
    figure = twin_figures.cost(found)
    drawing.png(figure)
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        written = " ".join(text.get_text() for text in axes.texts)
        assert all(score.name.partition(".")[2] in written for score in found)
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_where_all_failed_there_are_no_pictures(tmp_path):
    lost = [Score("sigma.ukf", {}, *(float("nan"),) * 8, "ValueError: gone")]
    assert [file.name for file in twin_figures.write(lost, tmp_path)] == ["twin.md"]


def test_the_page_has_a_row_for_every_filter_and_modifier_and_no_other():
    rows = re.findall(r"^\| `([a-z_0-9]+\.[a-z_0-9]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    filters = {name for name, choice in catalogue.filters().items() if "Recipe" not in choice.options.values()}
    assert set(rows) == filters | set(catalogue.modifiers())
