"""Every filter by its name in hourly runs and hindcasts of a small deployment, and the table that compares them."""

import numpy as np
import pytest
from conftest import FIRST

from hydroda import catalogue, steps, studies
from hydroda.settings import Settings
from hydroda.settings_file import load
from hydroda.storage import netcdf
from hydroda.trials import comparison
from hydroda.units import HOUR

TABLES = {
    "coloured.remembered": "gauge_hours = 6.0",
    "joint.parameters": "names = 'rain_factor'",
    "reduce.steady": "warm_up = 24",
}


def with_filter(of: Settings, text: str) -> Settings:
    file = of.store.parent / "hydroda.toml"
    file.write_text(file.read_text() + text)
    return load(file)


@pytest.mark.parametrize("name", sorted(set(catalogue.filters()) - {"linear.kalman"}))
def test_every_filter_runs_by_its_name_and_restarts_from_its_files(settings, name):
    """Two hourly runs, of which the second starts from the belief the first has left."""
    chosen = with_filter(settings, f'[filter]\nname = "{name}"\n')
    states = [steps.run(chosen, FIRST + hour * HOUR).state for hour in (0, 1)]
    assert "failed" not in states  # degraded: there is no weather forecast
    published = netcdf.read(steps.store_of(chosen).product_path("fc", FIRST + HOUR))
    median = published["discharge"].values
    assert np.isfinite(median).all() and (median > 0).all()
    assert (published["discharge_q05"].values <= median).all()
    assert published.attrs["hydroda_start_kind"] == "warm"


@pytest.mark.parametrize("name", sorted(catalogue.modifiers()))
def test_every_modifier_runs_by_its_name(settings, name):
    table = f'[filter]\nname = "sigma.ukf"\n[[filter.modifier]]\nname = "{name}"\n{TABLES.get(name, "")}\n'
    chosen = with_filter(settings, table)
    paths = steps.hindcast(chosen, FIRST, FIRST + 30 * HOUR)
    archive = netcdf.read(paths[0])
    assert np.isfinite(archive["discharge"].values).any()


def test_filters_are_compared_and_those_that_do_not_apply_say_why(settings, tmp_path):
    names = ["sigma.ukf", "ensemble.etkf", "sigma.ukf+reduce.inflated", "linear.kalman"]
    heard = []
    period = FIRST, FIRST + 60 * HOUR
    text = studies.compare(settings, names, *period, tmp_path / "c", progress=lambda *told: heard.append(told))
    assert text == (tmp_path / "c" / "comparison.md").read_text()
    assert "linear.kalman: not compared, linear.kalman needs a linear system" in text
    rows = {line.split("|")[1].strip(): line.split("|")[2:10] for line in text.splitlines() if line.startswith("| ")}
    assert {"open loop", "sigma.ukf", "ensemble.etkf", "sigma.ukf+reduce.inflated"} <= set(rows)
    assert rows["sigma.ukf"] == rows["sigma.ukf+reduce.inflated"]  # neutral as it begins
    assert rows["sigma.ukf"] != rows["ensemble.etkf"]
    assert heard[-1][0] == 1.0
    own = steps.hindcast(settings, *period)
    methods = steps.score_json(steps.verify(settings, *period))["stations"]["bregenz"]["methods"]
    score = methods.get("filter", methods["forecast"])["nse"]
    assert f"{score[0]:.3f}" in rows["sigma.ukf"][0] and own
    heard.clear()
    assert studies.compare(settings, names[:1], *period, tmp_path / "c").splitlines()[0] in text  # nothing is run again


def test_a_comparison_refuses_what_there_is_not():
    with pytest.raises(ValueError, match=r"no filter 'sigma.uk' to try; did you mean 'sigma.ukf'"):
        comparison.chosen(["sigma.uk"])
    with pytest.raises(ValueError, match=r"no modifier 'reduce.stead'"):
        comparison.chosen(["sigma.ukf+reduce.stead"])
    with pytest.raises(ValueError, match=r"joint.parameters needs names"):
        comparison.chosen(["sigma.ukf+joint.parameters"])
    assert "sigma.ukf" in comparison.chosen([])
