"""The page: everything a forecaster must know is in it, worst first, as text that nobody's names can break."""

import re
import warnings
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from test_figures import CYCLE, FORECASTS, case, scores

from hydroda.pages import report, score_tables
from hydroda.publishing import fields
from hydroda.units import HOUR
from hydroda.verifying import verification

MADE = CYCLE + np.timedelta64(12, "m")
VOID = {"meta", "br"}
NAMES = ("Alder", "<b>A&B</b>", "Große Ach", 'Long\'Name "quoted"', "Fell", "愛知川", "Ebnit")


class Page(HTMLParser):
    """The page as a browser sees it: tags that fit together, the rows of the summary, the texts, the attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    @property
    def stations(self):
        """Cells of the summary by station, worst first."""
        head, *rows = (row for row in self.rows if len(row) == len(self.rows[0]) and row[0] != "lead [h]")
        assert head[0] == "Station"
        return {row[0].split(" warning level")[0]: row[1:] for row in rows}


@pytest.fixture
def sketched(monkeypatch):
    """Pictures without their lines, which take most of the time; with their names."""
    monkeypatch.setattr(report.figures, "hydrograph", lambda *_: None)
    monkeypatch.setattr(report.drawing, "svg", lambda _, label: f'<svg role="img" aria-label="{escape(label)}"></svg>')


def made(names=("Alder",), change=None, found=None, generated=MADE, lacking=None, **options):
    forecast, analysis, rain = (part.copy(deep=True) for part in case(names, **options))
    if change:
        change(forecast, analysis, rain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return report.page(forecast, analysis, rain, found, generated, lacking)


def cells(text):
    return Page(text).stations


def lose(station):
    def change(forecast, analysis, rain):
        for name in (*FORECASTS, "exceedance_probability_t1", "exceedance_probability_t2"):
            forecast[name][:, station] = np.nan
        forecast.discharge_status[:, station] = 9

    return change


@pytest.fixture(scope="module")
def seven():
    return made(NAMES, found=scores([f"s{k}" for k in range(7)]), degraded=("no_rain_forecast", "late_gauges"))


def test_the_page_is_well_formed_and_needs_nothing_else(seven):
    page = Page(seven)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    told = [(key, value) for _, attrs in page.tags for key, value in attrs.items()]
    links = [value for key, value in told if key in ("href", "xlink:href", "src")]
    assert links and all(link.startswith("#") for link in links)
    assert not [key for key, _ in told if key.startswith("on")]
    assert not re.findall(r"url\((?!#)|@import", seven)
    assert not [url for url in re.findall(r"https?://[^\s\"'<]+", seven) if not url.startswith("http://www.w3.org/")]


def test_every_id_is_there_once_and_every_link_finds_one(seven):
    told = [attrs for _, attrs in Page(seven).tags]
    ids = [attrs["id"] for attrs in told if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs.get("href", attrs.get("xlink:href")) for attrs in told} - {None}
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert {f"station-s{k}" for k in range(7)} <= set(ids)


def test_pictures_have_names_for_those_who_cannot_see_them(seven):
    pictures = [attrs for tag, attrs in Page(seven).tags if tag == "svg"]
    assert len(pictures) == 7 + 2
    assert all(attrs["role"] == "img" for attrs in pictures)
    spoken = [attrs["aria-label"] for attrs in pictures]
    assert len(set(spoken)) == 9
    assert all(
        f"Hydrograph of {name} (s{k}): highest forecast in 24 h" in " ".join(spoken) for k, name in enumerate(NAMES)
    )
    assert any(one.startswith("Hydrograph of <b>A&B</b> (s1): highest forecast in 24 h 85.0 m³/s") for one in spoken)


def test_names_are_text(seven):
    assert "<b>" not in seven and "A&B" not in seven.replace("A&amp;B", "")
    assert set(Page(seven).stations) >= set(NAMES)


def test_the_head_says_which_forecast_how_old_and_what_is_wrong_with_it(seven):
    text = " ".join(Page(seven).text.split())
    assert "Streamflow forecast: demo Issued Sat 22 Nov 2025 03:00 UTC. Page made Sat 22 Nov 2025 03:12 UTC" in text
    assert "the forecast was 12 min old then" in text
    assert "Less than it could be: no rain forecast; late gauges." in text


def test_a_healthy_page_warns_of_nothing():
    assert 'class="warning"' not in made()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"generated": CYCLE + 5 * HOUR},
            "This forecast was 5 h old when the page was made: later cycles are missing.",
        ),
        ({"generated": CYCLE - HOUR}, "check the clocks"),
        ({"degraded": ("no_rain_forecast",)}, "Less than it could be: no rain forecast."),
        ({"degraded": ("obs_missing:1",)}, "Less than it could be: no observation in the last 6 h (1 station)."),
        ({"lacking": {"x": "is not calibrated"}}, "x is not calibrated."),
        ({"start_kind": "older_state", "state_age_hours": 7.0}, "(older state, state 7 h old)"),
        ({"run_kind": "catch_up"}, "no operational forecast but a catch up"),
        ({"degraded": ("<script>alert(1)</script>",)}, "Less than it could be: <script>alert(1)</script>."),
    ],
)
@pytest.mark.usefixtures("sketched")
def test_what_is_unusual_is_a_warning(options, words):
    text = made(**options)
    (warning,) = re.findall(r'<p class="warning">(.*?)</p>', text)
    assert words in unescape(warning) and "<" not in warning


@pytest.mark.usefixtures("sketched")
def test_a_flood_beyond_the_record_is_a_warning():
    def change(forecast, analysis, rain):
        forecast["discharge_method"] = fields.method(np.ones(forecast.discharge.shape), told)

    told = "beyond the record: s0 up to 9 %"
    (warning,) = re.findall(r'<p class="warning">(.*?)</p>', made(change=change))
    assert warning == f"Not forecast as usual; {told}."


@pytest.mark.usefixtures("sketched")
def test_a_row_says_status_observation_flow_peak_and_chances():
    status, observed, now, highest, first, second = cells(made(thresholds=(60.0, 100.0)))["Alder"]
    forecast, analysis, _ = case()
    low, high = (float(forecast[name].isel(time=9, station=0)) for name in ("discharge_q05", "discharge_q95"))
    level = float(forecast.exceedance_probability_t2.max())
    assert (status, observed) == ("good", f"{float(analysis.discharge_observed[-1, 0]):.1f} (of the last hour)")
    assert now == f"{float(analysis.discharge[-1, 0]):.1f}"
    assert highest == f"85.0 ({low:.1f} to {high:.0f}) Sat 22 Nov 13:00 UTC"
    assert first == "> 99 % above 60" and second == f"{100 * level:.0f} % above 100"


@pytest.mark.usefixtures("sketched")
def test_an_old_an_absent_and_a_doubtful_observation():
    def change(forecast, analysis, rain):
        analysis.discharge_observed[-5:, 0] = np.nan
        analysis.discharge_observed[:, 1] = np.nan
        analysis.discharge_observed_qc[-1, 2] = 4
        analysis.discharge_observed_qc[-1, 3] = 3
        forecast.discharge_status[:, 0] = 2

    rows = cells(made(("A", "B", "C", "D"), change))
    assert rows["A"][0] == "no recent observation" and rows["A"][1].endswith("(5 h old)")
    assert rows["B"][1] == "none in the last 3 days"
    assert rows["C"][1].endswith("(of the last hour, failed)")
    assert rows["D"][1].endswith("(of the last hour, suspect)")


@pytest.mark.usefixtures("sketched")
def test_an_observation_after_the_cycle_is_not_used():
    forecast, analysis, rain = case()
    later = report.page(forecast, analysis, rain, None, MADE)
    earlier = forecast.copy()
    earlier["forecast_reference_time"] = forecast.forecast_reference_time - HOUR
    row = cells(report.page(earlier, analysis, rain, None, MADE))["Alder"]
    assert row[1] == f"{float(analysis.discharge_observed[-2, 0]):.1f} (of the last hour)" != cells(later)["Alder"][1]
    assert row[2] == f"{float(analysis.discharge[-2, 0]):.1f}"


@pytest.mark.usefixtures("sketched")
def test_a_station_without_forecast_says_so():
    text = made(("A", "B"), lose(1))
    status, _, now, highest, *chances = cells(text)["B"]
    assert (status, highest, chances) == ("missing", "–", ["– above 60", "– above 100"])
    assert now != "–"  # what is observed tells

    def unseen(forecast, analysis, rain):
        lose(1)(forecast, analysis, rain)
        analysis.discharge_observed[:, 1] = np.nan

    assert cells(made(("A", "B"), unseen))["B"][2] == "–"
    assert "Status: missing; no forecast;" in text


def test_without_analysis_and_rain_the_page_stands():
    forecast, _, _ = case(("A", "B"))
    text = report.page(forecast, None, None, None, MADE)
    assert cells(text)["A"][1:3] == ["not known", "–"]
    assert text.count("no rain forecast") == 2


def test_stations_are_found_by_their_id_and_not_by_their_place():
    forecast, analysis, rain = case(("A", "B"))
    turned = report.page(forecast, analysis.isel(station=[1, 0]), rain.isel(station_id=[1, 0]), None, MADE)
    assert turned == report.page(forecast, analysis, rain, None, MADE)
    some = cells(report.page(forecast, analysis.isel(station=[1]), None, None, MADE))
    assert some["A"][1:3] == ["not known", "–"] and some["B"][2] != "–"


@pytest.mark.usefixtures("sketched")
def test_the_worst_comes_first_in_table_and_pictures():
    def change(forecast, analysis, rain):
        for k, (one, two) in enumerate([(0.1, 0.0), (0.9, 0.2), (0.4, 0.1), (0.9, 0.6), (0.0, 0.0)]):
            forecast.exceedance_probability_t1[:, k] = one
            forecast.exceedance_probability_t2[:, k] = two
        lose(4)(forecast, analysis, rain)

    text = made(("little", "level one", "some", "level two", "blind"), change)
    order = ["level two", "level one", "blind", "some", "little"]
    assert list(cells(text)) == order
    assert re.findall(r"<h3>([^<]*?) <small>", text) == order
    likely = re.findall(r"<h3>.*\n?.*likely", text)
    assert len(likely) == 2


@pytest.mark.usefixtures("sketched")
def test_stations_with_fewer_or_no_warning_levels():
    def change(forecast, analysis, rain):
        for k in (1, 2):
            forecast[f"threshold_t{k}"][0] = np.nan
            forecast[f"exceedance_probability_t{k}"][:, 0] = np.nan

    assert cells(made(("A", "B"), change))["A"][-2:] == ["–", "–"]
    bare = made(thresholds=())
    assert len(cells(bare)["Alder"]) == 4 and "P(level&nbsp;1)" not in bare


def test_the_same_data_give_the_same_page():
    assert made() == made()


@pytest.mark.usefixtures("sketched")
def test_without_scores_there_is_no_word_of_skill():
    text = made()
    assert "NSE" not in text and "perfect foresight" not in text


def test_scores_come_with_what_they_rest_on(seven):
    page = Page(seven)
    text = " ".join(page.text.split())
    found = scores([f"s{k}" for k in range(7)])
    assert f"Weather in the lead hours: {verification.FORCINGS['observed']}." in text
    assert f"60 forecasts issued {found.attrs['hydroda_first_issue']} to {found.attrs['hydroda_last_issue']}" in text
    assert text.count(score_tables.sample(found, "s0")) == 7
    rows = [row for row in page.rows if row[0] == "forecast"]
    assert len(rows) == 7
    for station, row in zip(found.station.values, rows, strict=True):
        nse = found.nse.sel(station=station, forecast_period=list(verification.SHOWN))
        best = score_tables.best(nse).sel({"method": "forecast"}).values
        expected = [
            f"{v:.3f}{'*' if mark else ''}"
            for v, mark in zip(nse.sel({"method": "forecast"}).values, best, strict=True)
        ]
        assert row[1:] == expected
    assert "<h3>&lt;b&gt;A&amp;B&lt;/b&gt; (s1)</h3>" in seven


@pytest.mark.usefixtures("sketched")
def test_scores_of_other_stations_and_missing_ones():
    found = scores(["s0", "elsewhere"])
    found["nse"] = found.nse.where(found.station != "elsewhere")
    found["n"] = found.n.where(found.station != "elsewhere", 0)
    page = Page(made(found=found.assign_attrs(hydroda_forcing="<i>own</i>")))
    assert "Weather in the lead hours: <i>own</i>." in " ".join(page.text.split())
    assert [row[1:] for row in page.rows if row[0] == "forecast"][1] == ["–"] * len(verification.SHOWN)


def test_many_scored_stations_are_many_small_figures(monkeypatch):
    monkeypatch.setattr(report, "PANELS", 2)
    pictures = [attrs["aria-label"] for tag, attrs in Page(made(found=scores(["a", "b", "c"]))).tags if tag == "svg"]
    assert len(pictures) == 1 + 2 * 2
    assert pictures[1].endswith("a, b") and pictures[3].endswith(": c")


@pytest.mark.usefixtures("sketched")
def test_the_foot_tells_where_the_page_comes_from():
    text = " ".join(Page(made(config_sha256="ab" * 32, forcing_source="weather")).text.split())
    assert f"Configuration (SHA-256) {'ab' * 32}" in text
    assert "model hbv.hourly, filter sigma.ukf" in text
    assert "Weather forecast weather" in text
    assert "not set" not in text and "not recorded" not in text


def test_a_hundred_stations_would_fit(seven):
    """Less than 60 kB a station, scores and all."""
    assert len(seven.encode()) < 7 * 60_000
