"""Settings: what a wrong file is told, what a right one becomes, and that adding a catchment keeps the user's text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hydroda import catalogue
from hydroda.settings import NOT_SET, Catchment
from hydroda.settings_file import TEMPLATE, SettingsError, append_catchment, load, parse
from hydroda.toml_text import line_numbers

SMALL = '[deployment]\ndomain = "alps"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        parse(text, Path("h.toml"))
    return str(error.value).splitlines()


def test_defaults_are_honest():
    settings = parse(SMALL)
    assert settings.deployment.creator_name == settings.deployment.license == NOT_SET
    assert (settings.cycle.window_hours, settings.cycle.cut_off_minutes, settings.cycle.catch_up_hours) == (48, 10, 48)
    assert (settings.model.name, settings.filter.name, settings.forcing.forecast) == (
        "hbv.hourly",
        "sigma.ukf",
        "archived",
    )
    assert settings.catchments == settings.sources == ()


def test_template_shows_the_defaults():
    """Every `# key = value` above the sources and catchments, uncommented, changes nothing."""
    settings = parse(TEMPLATE)
    sections = TEMPLATE[: TEMPLATE.index("# A source")]
    uncommented, number = re.subn(r"(?m)^# (?=\w+ = )", "", sections)
    assert number > 15
    assert parse(uncommented) == settings


def test_template_has_a_line_for_every_setting():
    for name in ("deployment", "cycle", "forcing", "model", "filter"):
        part = TEMPLATE[TEMPLATE.index(f"[{name}]") :].split("\n\n[")[0]
        for key, field in type(getattr(parse(TEMPLATE), name)).model_fields.items():
            assert re.search(rf"(?m)^(# )?{field.alias or key} = |^# \[\[?{name}\.{field.alias or key}\]", part), (
                name,
                key,
            )


def test_template_examples_are_valid():
    blocks = TEMPLATE[TEMPLATE.index("# [[source]]") :].split("\n\n# A catchment")
    blocks[1] = blocks[1][blocks[1].index("# [[catchment]]") :]
    settings = parse(SMALL + re.sub("(?m)^# ", "", "\n".join(blocks)))
    assert settings.source_options("gauges") == {"folder": Path("inbox")}
    assert settings.catchment("dornbirn").thresholds == (60.0, 100.0)


MANY = """top = 1
[deployment]
domain = "My Domain"
stor = "x"
[cycle]
window_hours = "48"
[[catchment]]
id = "a"
area_km2 = -4
lat = 95
thresholds = [
  1.0,
  0.5,
]
[[catchment]]
id = "a"
area = 3.0
[forcing]
forecast = "perfect"
"""


def test_all_problems_at_once_with_their_lines():
    found = problems(MANY)
    expected = {
        1: "top: unknown key",
        3: "deployment.domain: must be 1 to 32 of a-z",
        4: "deployment.stor: unknown key; did you mean 'store'?",
        6: "cycle.window_hours: must be a valid integer, found '48'",
        9: "catchment[0].area_km2: must be greater than 0, found -4",
        10: "catchment[0].lat: must be less than or equal to 90, found 95",
        11: "catchment[0].thresholds: must rise",
        17: "catchment[1].area: unknown key; did you mean 'area_km2'?",
        19: "forcing.forecast: must be 'archived' or 'none', found 'perfect'",
    }
    for line, text in expected.items():
        assert any(p.startswith(f"h.toml, line {line}: {text}") for p in found), (line, found)
    assert "h.toml, line 15: catchment[1].area_km2: is required and missing" in found
    assert "h.toml, line 16: catchment[1].id: 'a' is already the id of catchment[0]" in found
    assert len(found) == len(expected) + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[deployment\n", "line 1: is not TOML"),
        ("", "h.toml: deployment: is required and missing"),
        (SMALL + '[model]\nname = "hbv.hurly"\n', "line 4: model.name: there is no model 'hbv.hurly'; did you mean"),
        (
            SMALL + '[model]\nname = "nothing"\n',
            "allowed: hbv.hourly, hbv.lagged, hbv.pauwels2013, hbv.stores, linear.reservoirs",
        ),
        (
            SMALL + '[model]\nalternatives = ["hbv.lagged", "hbv.lag"]\n',
            "line 4: model.alternatives[1]: there is no model 'hbv.lag'; did you mean 'hbv.lagged'?",
        ),
        (SMALL + '[filter]\nname = "sigma.ufk"\n', "there is no filter 'sigma.ufk'; did you mean 'sigma.ukf'?"),
        (SMALL + '[[source]]\nname = "x"\nkind = "gauge"\n', "line 5: source[0].kind: there is no source 'gauge'"),
        (SMALL + "[filter]\nseed = true\n", "line 4: filter.seed: must be a valid integer, found True"),
        (SMALL + "[cycle]\nwindow_hours = 241\n", "less than or equal to 240, found 241"),
        (SMALL + "[cycle]\nwindow_hours = 0\n", "greater than or equal to 24, found 0"),
        (SMALL + "[[catchment]]\nid = '../x'\narea_km2 = 1\n", "line 4: catchment[0].id: must be 1 to 32 of"),
        (SMALL + "[[catchment]]\nid = 5114000\narea_km2 = 1\n", "line 4: catchment[0].id: must be a valid string"),
        (SMALL + "[[catchment]]\nid = 'x'\narea_km2 = inf\n", "line 5: catchment[0].area_km2: must be a finite number"),
        (SMALL + "[catchment]\nid = 'x'\n", "line 3: catchment: must be a valid"),
        ("deployment = 3\n", "line 1: deployment: must be a valid dictionary"),
        (SMALL + "filter = []\n", "deployment.filter: unknown key"),
        ("filter = []\n" + SMALL, "line 1: filter: must be a valid dictionary"),
    ],
)
def test_each_mistake_is_named(text, said):
    assert any(said in p for p in problems(text)), problems(text)


@pytest.fixture
def kinds(monkeypatch):
    """One source with a required path, a number with a default, and one that takes anything."""
    choices = {
        "drop": catalogue.Choice("drop", {"folder": "Path", "wait": "float"}, frozenset({"folder"}), False),
        "any": catalogue.Choice("any", {}, frozenset(), True),
    }
    monkeypatch.setattr(catalogue, "sources", lambda: choices)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "line 3: source[0].folder: is required by 'drop' and missing"),
        ("folder = 'in'\nwiat = 3\n", "line 7: source[0].wiat: 'drop' has no such option; did you mean 'wait'?"),
        ("folder = 3\n", "line 6: source[0].folder: must be Path, found 3"),
        ("folder = 'in'\nwait = true\n", "line 7: source[0].wait: must be float, found True"),
    ],
)
def test_source_options_are_checked_against_the_function(kinds, options, said):
    assert f"h.toml, {said}" in problems(SMALL + "[[source]]\nname = 'x'\nkind = 'drop'\n" + options)[0]


def test_paths_in_source_options_count_from_the_file(kinds, tmp_path):
    file = tmp_path / "h.toml"
    file.write_text(
        SMALL + "[[source]]\nname='x'\nkind='drop'\nfolder='in'\nwait=3\n[[source]]\nname='y'\nkind='any'\nz=1"
    )
    settings = load(file)
    assert settings.source_options("x") == {"folder": tmp_path / "in", "wait": 3}
    assert settings.source_options("y") == {"z": 1}
    assert settings.store == tmp_path / "store"


def test_hash_ignores_secrets_place_and_layout_but_nothing_else(kinds):
    def sha(text: str) -> str:
        return parse(SMALL + text).sha256

    source = "[[source]]\nname='x'\nkind='any'\n"
    assert sha("store = 'elsewhere'\n") == sha("# a comment\n") == sha("[cycle]\nwindow_hours = 48\n") == sha("")
    assert sha(source + "api_token = 'a'\n") == sha(source + "api_token = 'b'\n") == sha(source)
    changes = ["", "[cycle]\nwindow_hours = 47\n", source, source + "z=1\n", "[filter]\nseed = 1\n", "title='x'\n"]
    assert len({sha(c) for c in changes}) == len(changes)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "h.toml").write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load(tmp_path / "h.toml").deployment.domain == "alps"
    assert problems("\ufeff" + SMALL + "x = 1\n")[0].startswith("h.toml, line 3: deployment.x")


def test_secrets_are_not_shown(kinds):
    assert "hush" not in repr(parse(SMALL + "[[source]]\nname='x'\nkind='any'\npassword='hush'\n"))


def test_adding_a_catchment_keeps_every_character():
    text = SMALL.replace("\n", "   # mine\n") + "[[catchment]]\nid = 'a'  # first\narea_km2 = 2"
    new = append_catchment(text, Catchment(id="b-2", area_km2=3, name='Wä"\\\n\x7f', lat=-4.5, thresholds=(1.0, 2.0)))
    assert new.startswith(text)
    b = parse(new).catchment("b-2")
    assert (b.area_km2, b.name, b.lat, b.lon, b.thresholds) == (3.0, 'Wä"\\\n\x7f', -4.5, None, (1.0, 2.0))
    assert append_catchment(text.replace("\n", "\r\n"), b).count("\n") == append_catchment(
        text.replace("\n", "\r\n"), b
    ).count("\r\n")


def test_a_catchment_is_not_added_twice():
    text = append_catchment(SMALL, Catchment(id="a", area_km2=1))
    with pytest.raises(SettingsError, match="'a' is already the id"):
        append_catchment(text, Catchment(id="a", area_km2=2))


def test_unknown_station_lists_the_ones_there_are():
    settings = parse(append_catchment(SMALL, Catchment(id="a", area_km2=1)))
    with pytest.raises(KeyError, match=r"'b' is not in .*; there are: a"):
        settings.catchment("b")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(SettingsError, match="hydroda init"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[deployment]\ndomain = 'a'\ntitle = '\xe4'")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(tmp_path / "latin.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path)


def test_lines_of_nested_tables_arrays_and_long_values():
    text = 'a.b = 1\n\n[t]\nx = [\n  1,\n]\ns = """\n[no]\nk = 2\n"""\n[[u.v]]\nn = 1\n[u.v.w]\nm = 2\n[[u.v]]\nn = 3\n'
    lines = line_numbers(text)
    expected = {("a", "b"): 1, ("t",): 3, ("t", "x"): 4, ("t", "s"): 7, ("u", "v", 0): 11, ("u", "v", 0, "n"): 12}
    expected |= {("u", "v", 0, "w"): 13, ("u", "v", 0, "w", "m"): 14, ("u", "v", 1): 15, ("u", "v", 1, "n"): 16}
    assert {key: lines.get(key) for key in expected} == expected
    assert ("no",) not in lines


def test_catalogue_agrees_with_what_can_be_imported():
    """Each name the settings accept is a function there, and the modules that offer a source are all listed."""
    for folder, choices in (("filters", catalogue.filters()), ("models", catalogue.models())):
        for name in choices:
            family, function = name.split(".")
            module = __import__(f"hydroda.{folder}.{family}", fromlist=[function])
            assert callable(getattr(module, function)), name
    assert {"sigma.ukf", "linear.kalman", "ensemble.etkf"} <= set(catalogue.filters())
    assert {"hbv.hourly", "linear.reservoirs"} <= set(catalogue.models())
    assert catalogue.sources()
    for kind, choice in catalogue.sources().items():
        assert callable(__import__(f"hydroda.sources.{kind}", fromlist=["read"]).read), choice


def test_settings_load_neither_torch_nor_prefect():
    code = "import sys, hydroda.settings; print(sorted({'torch', 'prefect'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
