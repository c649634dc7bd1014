"""What is right and wrong with a deployment, in words, with what to do about it. Looks, and changes nothing."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from hydroda import domain as domains
from hydroda.domain import Domain
from hydroda.publishing import gauge_bias
from hydroda.publishing.attributes import in_words
from hydroda.publishing.fields import UNUSABLE
from hydroda.schema import hours
from hydroda.settings import Catchment, Settings
from hydroda.sources import drop_folder
from hydroda.storage import netcdf
from hydroda.storage.store import Store
from hydroda.units import HOUR, iso
from hydroda.verifying.consistency import ENOUGH, Consistency, consistency

LEVELS = ("error", "warning", "ok")
ROOM = 1 << 30  # bytes below which the disk is nearly full
OLD = 6  # hours after which a gauge is silent
LATE = 2  # hours after which a cycle is missing
TRIED = 3  # newest beliefs that are opened
RECENT = 14  # days whose analyses are judged
SURE = 0.999  # of a judgement, or chance alone would warn of a station every week


class Finding(NamedTuple):
    """One thing found: error (something will not work), warning (it works worse than it could) or ok."""

    level: str
    what: str
    remedy: str = ""


def inspect(settings: Settings, now: np.datetime64) -> list[Finding]:
    """All there is to say at a time, errors first."""
    found = [*_place(settings), *_sources(settings)]
    store = domains.store_of(settings)
    if not settings.catchments:
        found.append(Finding("error", "there is no catchment", "hydroda add-catchment --help"))
    domain = domains.load(settings)
    lacking = domain.lacking
    for catchment in settings.catchments:
        try:
            found += _catchment(store, catchment, lacking.get(catchment.id), now)
        except OSError as error:
            found.append(Finding("error", f"{catchment.id}: {error}", "see to the permissions of the store"))
    found += _numerics(domain)
    found += _cycles(settings, store, now)
    found += _analyses(settings, store)
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _place(settings: Settings) -> Iterator[Finding]:
    """The folder of the store and the room it has."""
    folder = settings.store
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield Finding("error", f"{existing} cannot be written", "change its owner or permissions")
        return
    free = shutil.disk_usage(existing).free
    if free < ROOM:
        yield Finding("error", f"only {free >> 20} MiB are free in {existing}", "make room; nothing written is lost")
    else:
        yield Finding("ok", f"settings {settings.file}, store {folder} with {free >> 30} GiB free")


def _sources(settings: Settings) -> Iterator[Finding]:
    if not settings.sources:
        yield Finding("warning", "no source is configured: nothing new will come", "[[source]] in the settings")
    for source in settings.sources:
        options = settings.source_options(source.name)
        for key in ("folder", "path"):
            if key in options and not options[key].exists():
                yield Finding("error", f"source {source.name}: {options[key]} is not there", "create or correct it")
        for path in drop_folder.refused(options["folder"]) if "folder" in options else ():
            remedy = "hydroda run says why, or the .why beside it; correct it, and put it back where it was dropped"
            yield Finding("warning", f"source {source.name}: {path} could not be read", remedy)


def _catchment(store: Store, catchment: Catchment, lacking: str | None, now: np.datetime64) -> Iterator[Finding]:
    name = catchment.id
    for damage in store.damage(name):
        yield Finding("error", damage, "restore it from a copy, with its .sha256: deploy/README.md")
    if lacking is not None:
        yield Finding("error", f"{name} {lacking}", f"hydroda calibrate {name} --start … --end …")
    newest = {variable: store.newest(name, variable) for variable in ("discharge", "precipitation")}
    for variable, time in newest.items():
        if time is None:
            yield Finding("error", f"{name}: there is no {variable}", "add its data, or a source that brings them")
        elif now - time > OLD * HOUR:
            age = int((now - time) / HOUR)
            yield Finding("warning", f"{name}: the newest {variable} is of {iso(time)}, {age} h ago", "see its source")
    if lacking is None and all(time is not None and now - time <= OLD * HOUR for time in newest.values()):
        yield Finding("ok", f"{name}: calibrated, data until {iso(min(t for t in newest.values() if t is not None))}")
    if catchment.lat is None or catchment.lon is None:
        yield Finding("warning", f"{name}: no position, so it is on no map", "lat and lon in the settings")


def _numerics(domain: Domain) -> Iterator[Finding]:
    """Whether the parameters fit the models and the filter of the settings works with these."""
    from hydroda.running.groups import grouped, tried  # these load torch, which nothing else here needs

    groups, lacking = grouped(domain)
    for station, why in lacking.items():
        if station not in domain.lacking:
            yield Finding("error", f"{station} {why}", f"hydroda calibrate {station} --start … --end …")
    for group in groups:
        for member in group.members:
            if member.model not in (domain.settings.model.name, *domain.settings.model.alternatives):
                yield Finding(
                    "warning",
                    f"{member.station} is calibrated with {member.model}, which the settings do not name under [model]",
                    f"hydroda calibrate {member.station} --start … --end … takes one of theirs",
                )
        for station in group.blind:
            yield Finding("warning", f"{station}: its networks cannot be used", f"hydroda train {station}")
        try:
            tried(group)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            yield Finding("error", f"{', '.join(group.ids)}: {error}", "another name under [filter] in the settings")


def _cycles(settings: Settings, store: Store, now: np.datetime64) -> Iterator[Finding]:
    """The newest forecast and the states the next one starts from."""
    cycles = store.cycles("belief")
    if not cycles:
        yield Finding("warning", "no forecast was made yet", "hydroda run")
        return
    due = settings.cycle_at(now)
    if due - cycles[0] > LATE * HOUR:
        age = int((due - cycles[0]) / HOUR)
        yield Finding("warning", f"the newest cycle is {iso(cycles[0])}, {age} h before the one due", "hydroda run")
    else:
        yield Finding("ok", f"the newest cycle is {iso(cycles[0])}")
    for cycle in cycles[:TRIED]:
        for path in (store.belief_path(cycle), store.product_path("fc", cycle)):
            try:
                netcdf.read(path)
            except (netcdf.DamagedFile, OSError) as error:
                yield Finding("warning", f"{error}", f"hydroda run --cycle {iso(cycle)} --force makes it again")
    yield from _newest(store.product_path("fc", cycles[0]))
    yield from _gauges([store.product_path("an", cycles[0] - age * 24 * HOUR) for age in (1, 0)])


def _newest(path: Path) -> Iterator[Finding]:
    """What the newest forecast lacks."""
    try:
        product = netcdf.read(path)
    except (netcdf.DamagedFile, OSError):
        return
    status, ids = product["discharge_status"].values, product["station_id"].values
    remedy = "its findings here or above say why; once mended: hydroda run --force"
    for station in ids[(status >= UNUSABLE).any(0)]:
        yield Finding("error", f"{station}: the newest cycle has no forecast, or not for all hours", remedy)
    for reason in _reasons(product):
        yield Finding("warning", f"the newest forecast is less than it could be: {in_words(reason)}", "see the page")


def _reasons(product: xr.Dataset) -> list[str]:
    """Why a product is less than it could be, but for what the settings ask for."""
    told = product.attrs["hydroda_degraded"].split(",")
    return [reason for reason in told if reason.partition(":")[0] not in ("none", "forcing_none")]


def _analyses(settings: Settings, store: Store) -> Iterator[Finding]:
    """Whether forecasts of the next hour erred as much as they said, and by chance; nothing where there are too few."""
    parts = []
    for newest in store.cycles("belief")[:1]:
        for day in range(RECENT):
            with contextlib.suppress(FileNotFoundError, netcdf.DamagedFile, KeyError):
                path = store.product_path("an", newest - day * 24 * HOUR)
                part = netcdf.read(path)["normalised_innovation"].swap_dims(station="station_id")
                parts.append(part.reset_coords(drop=True))
    if not parts:
        return
    ratio = xr.concat(parts, "time", join="outer").sortby("time")
    ratio = ratio.reindex(time=hours(ratio.time.values[0], ratio.time.values[-1]))
    names = [str(name) for name in ratio.station_id.values]
    for judged in consistency(ratio.transpose("time", "station_id").values, names, level=SURE):
        said = "; ".join(_inconsistent(judged))
        if said and judged.station in [catchment.id for catchment in settings.catchments]:
            remedy = (
                f"a faulty gauge, or rain it does not know of? else: hydroda calibrate {judged.station} on new years"
            )
            yield Finding("warning", f"{judged.station}, last {RECENT} days: {said}", remedy)


def _inconsistent(found: Consistency) -> Iterator[str]:
    """What is wrong with the forecasts of the next hour, in the words of one who reads them."""
    nis = found.nis
    if nis.count < ENOUGH:
        return
    size = f"errors an hour ahead are {np.sqrt(nis.mean):.2g} times as large as stated"
    if nis.mean > nis.high:
        yield f"{size}, so the river leaves the published band more often than it should"
    elif nis.mean < nis.low:
        yield f"{size}, so the published band is too wide"
    if found.biased:
        yield f"the river is mostly {'higher' if found.mean > 0 else 'lower'} than forecast"
    if not found.white:
        yield "errors follow a pattern: that of one hour foretells the next"


def _gauges(paths: Sequence[Path]) -> Iterator[Finding]:
    """Gauges whose bias, where the filter estimates one, is beyond its band in the newest analyses."""
    days = []
    for path in paths:
        with contextlib.suppress(netcdf.DamagedFile, FileNotFoundError):
            days.append(netcdf.read(path))
    for told in gauge_bias.outside(*days):
        yield Finding("warning", told, "compare with a gauging; correct the rating, or calibrate the model again")
