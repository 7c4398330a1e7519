"""``min_dcr``: what is poured is never nearer to a training row than asked; held against distances between all pairs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import dcr, migrations, registry
from app.api.samples import STREAM_ABOVE
from app.bundle import DCR, FORMAT, POOL, Bundle, digest, pack, unpack
from app.db import Database
from app.dcr import Index
from app.errors import BundleInvalid
from app.sampler import BLOCK, Condition, Range, Sampler
from app.settings import Settings
from app.split import split
from app.tables import read_csv
from app.wine import HIGH_TICKS, LOW_TICKS, MEASUREMENTS, Floats, Wines, concatenate
from tests.conftest import csv_of, serve
from worker.evaluate.between import standardised

ALCOHOL = MEASUREMENTS.index("alcohol")
LIMIT = 60_000


def distances(train: Wines, wines: Wines) -> Floats:
    """To the nearest of all training rows, (rows,), as the report measures them."""
    standard = standardised(train)
    return np.array([np.sqrt(((standard(train) - row) ** 2).sum(axis=1)).min() for row in standard(wines)])


def with_parts(bundle: Bundle, parts: Mapping[str, bytes], *, pool: int = 0) -> bytes:
    """The model with these parts."""
    return pack(bundle.manifest.model_copy(update={"pool": pool, "parts": {name: digest(part) for name, part in parts.items()}}), parts)


@pytest.fixture(scope="module")
def old(tiny: Bundle) -> bytes:
    """``tiny`` as a worker wrote it before there were indices, or where they are turned off."""
    return with_parts(tiny, {name: part for name, part in tiny.parts.items() if name != DCR})


@pytest.fixture(scope="module")
def copier(tiny: Bundle, few_wines: Wines, trained_on: Wines) -> bytes:
    """A pool of the training rows, and of white wines that were held out."""
    held_out = few_wines.take(distances(trained_on, few_wines) > 1)
    pool = concatenate([trained_on, held_out.take(~held_out.red)])
    return with_parts(tiny, {POOL: csv_of(pool), DCR: tiny.parts[DCR]}, pool=len(pool))


@pytest.fixture(scope="module")
def trained_on(tiny: Bundle, few_wines: Wines) -> Wines:
    """The rows that ``tiny`` was trained on."""
    params = tiny.manifest.lineage.params
    return split(few_wines, holdout=params["holdout"], seed=params["split_seed"]).train


@pytest.fixture(scope="module")
def sampler(tiny: Bundle) -> Sampler:
    return Sampler(tiny)


@st.composite
def tables(draw: st.DrawFn, wines: Wines) -> tuple[Wines, Wines]:
    """Rows to train on, and others near them, among them and far from them, which may have labels that those have not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    train = wines.take(random.integers(0, len(wines), draw(st.integers(1, 120))))
    others = train.take(random.integers(0, len(train), 60))
    moved = others.ticks + np.rint(random.normal(size=others.ticks.shape) * wines.ticks.std(axis=0) * draw(st.sampled_from([0, 0.05, 0.3, 3]))).astype(int)
    relabelled = random.random(60) < draw(st.sampled_from([0, 0.5]))
    return train, Wines(
        np.clip(moved, LOW_TICKS, HIGH_TICKS).astype(np.int32),
        np.where(relabelled, random.integers(0, 11, 60), others.quality),
        np.where(relabelled, random.random(60) < 0.5, others.red),
    )


@settings(deadline=None, max_examples=60)
@given(data=st.data(), step=st.sampled_from([0.001, 0.03, 0.125, 0.5, 1.0]), min_dcr=st.floats(0.001, dcr.MAX_DCR) | st.floats(0.001, 1.5))
def test_what_clears_is_never_nearer_than_asked_and_what_does_not_is_hardly_farther(
    starter_wines: Wines, data: st.DataObject, step: float, min_dcr: float
) -> None:
    train, others = data.draw(tables(starter_wines))
    index = Index(dcr.index(train, step), name=DCR)
    exact, clears = distances(train, others), index.clears(others, min_dcr)
    assert (exact[clears] >= min_dcr).all()
    assert (exact[~clears] < min_dcr + 2 * index.error).all()
    assert (index.clearance(others) <= np.minimum(exact, dcr.MAX_DCR + 1) + 1e-5).all()
    assert index.error <= np.sqrt(len(MEASUREMENTS)) * max(step, 1) / 2 + dcr.ROUNDING


def test_an_index_of_many_rows_is_searched_as_one_of_few(starter_wines: Wines) -> None:
    index = Index(dcr.index(starter_wines.take(slice(3000)), 0.125), name=DCR)
    others = starter_wines.take(slice(2900, 4100))  # more than are looked at in one go, and against more than that too
    exact, clears = distances(starter_wines.take(slice(3000)), others), index.clears(others, 0.7)
    assert 0 < clears.sum() < len(others)
    assert (exact[clears] >= 0.7).all()
    assert (exact[~clears] < 0.7 + 2 * index.error).all()


def test_an_index_tells_neither_the_order_of_the_rows_nor_how_often_each_occurs(few_wines: Wines) -> None:
    twice = few_wines.take(np.random.default_rng(0).permutation(np.repeat(np.arange(len(few_wines)), 2)))
    assert dcr.index(twice, 0.125).split(b"\n", 1)[1] == dcr.index(few_wines, 0.125).split(b"\n", 1)[1]


def test_an_index_is_a_few_bytes_for_each_row(starter_wines: Wines) -> None:
    assert len(dcr.index(starter_wines, 0.125)) < 12 * len(starter_wines)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Any that one row in a hundred of ``tiny`` meets at least."""
    ranges = draw(st.sampled_from([(), (Range(ALCOHOL, 900, 1100),)]))
    labels = draw(st.sampled_from([(), (6,), (5, 7)])), draw(st.sampled_from([(), ("white",)]))
    return Condition(*labels, ranges, draw(st.booleans()), draw(st.sampled_from([0.3, 0.8, 1.2, 1.6])))


@settings(deadline=None, max_examples=25)
@given(condition=conditions(), start=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 1200)), pages=st.lists(st.integers(1, 70), min_size=1, max_size=3))
def test_rows_are_those_of_the_table_that_clear_one_by_one_whatever_the_pages(
    sampler: Sampler, trained_on: Wines, condition: Condition, start: tuple[int, int], pages: list[int]
) -> None:
    (seed, offset), n = start, sum(pages)
    table = sampler.wines(condition.labels, seed=seed, offset=offset, n=100 * n + BLOCK)
    within = np.flatnonzero([all(r.low <= row[r.column] <= r.high for r in condition.ranges) for row in table.ticks])
    expected: list[int] = []
    near = 0
    for i in within:
        if sampler.index.clears(table.take(np.array([i])), condition.min_dcr)[0]:
            expected.append(int(i))
            if len(expected) == n:
                break
        else:
            near += 1
    rows, wines, redrawn, at = [], [], 0, offset
    for page in pages:
        blocks = list(sampler.blocks(condition, seed=seed, offset=at, n=page))
        rows += [int(row) - offset for block in blocks for row in block.rows]
        wines += [block.wines for block in blocks]
        redrawn += sum(block.redrawn for block in blocks)
        at = rows[-1] + offset + 1
    assert rows == expected
    assert np.array_equal(np.concatenate([w.ticks for w in wines]), table.take(np.array(expected)).ticks)
    assert redrawn == near
    assert (distances(trained_on, table.take(np.array(expected))) >= condition.min_dcr).all()


def test_wines_of_a_pool_that_are_training_rows_are_never_poured(copier: bytes, trained_on: Wines, few_wines: Wines) -> None:
    sampler = Sampler(unpack(copier))
    blocks = list(sampler.blocks(Condition((), ("white",), min_dcr=0.001), seed=1, offset=0, n=30))
    assert (distances(trained_on, concatenate([block.wines for block in blocks])) >= 0.001).all()
    assert sum(block.redrawn for block in blocks) > 30


# --- the part in the bundle ---


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda part: part[:-1],
    "longer": lambda part: part + b"0",
    "no header": lambda part: part.split(b"\n", 1)[1],
    "empty": lambda _: b"",
    "no scale": lambda part: part.replace(b'"scale":[', b'"scale":[0.0,', 1),
    "labels that fall": lambda part: part.replace(b'"groups":[', b'"groups":[[1,10,1],', 1) + bytes(11),
    "another type": lambda part: part.replace(b'"<u1"', b'"|O8"', 1),
    "another size": lambda part: part.replace(b'"<u1"', b'"<u2"', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_refused_by_its_name(tiny: Bundle, damage: str) -> None:
    sampler = Sampler(replace(tiny, parts={**tiny.parts, DCR: DAMAGES[damage](tiny.parts[DCR])}))
    with pytest.raises(BundleInvalid, match=r"dcr\.index is damaged: (expected|\d+ faults)"):
        sampler.check(Condition(min_dcr=0.5))


def test_an_index_is_no_new_format(tiny: Bundle) -> None:
    assert (DCR in tiny.parts, tiny.manifest.format) == (True, FORMAT) == (True, 3)


# --- over HTTP ---


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny: Bundle, tiny_bundle: bytes, old: bytes, copier: bytes) -> str:
    """A database whose champion is ``tiny``, and where the others are registered too."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('dcr')}/cuvee.db")
    migrations.upgrade(database)
    with database.write() as tx:
        for alias, data in {"champion": tiny_bundle, "old": old, "copier": copier}.items():
            registry.publish(tx, unpack(data), data, job_id=None)
            registry.point(tx, alias, unpack(data).id, reason="a test")
    database.close()
    return database.url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[httpx.Client]:
    with serve(Settings(database_url=url, download=False, max_rows=LIMIT)) as client:
        yield client


@pytest.fixture(scope="module")
def half(sampler: Sampler) -> float:
    """A distance that about half of the rows keep."""
    return float(np.round(np.median(sampler.index.clearance(sampler.wines(Condition(), seed=1, offset=0, n=2000))), 2))


def pour(api: httpx.Client, query: str) -> httpx.Response:
    """A good answer."""
    answer = api.get(f"/samples?{query}")
    assert answer.status_code == 200, answer.text
    return answer


def test_an_answer_says_how_many_rows_it_passed_over_and_goes_on_behind_them(api: httpx.Client, trained_on: Wines, half: float) -> None:
    query = f"seed=3&quality=5&quality=6&alcohol_min=9.5&mix=balanced&include=row&include=p_real&min_dcr={half}"
    answer = pour(api, f"n=300&{query}")
    within = pour(api, f"n=2000&{query.replace(f'&min_dcr={half}', '')}").json()
    rows = [row["row"] for row in answer.json()]
    others = [row for row in within if row["row"] < rows[-1] and row["row"] not in rows]
    assert int(answer.headers["cuvee-redrawn"]) == len(others) > 50
    assert [row for row in within if row["row"] in rows] == answer.json()
    first = pour(api, f"n=100&{query}")
    assert f"min_dcr={half:g}" in first.headers["content-location"]
    assert pour(api, first.headers["content-location"].split("?")[1]).content == first.content
    assert first.json() + api.get(first.links["next"]["url"]).json() == answer.json()[:200]
    wines = read_csv(pour(api, f"n=300&{query.replace('include=row&include=p_real&', '')}&format=csv").content).wines
    assert (distances(trained_on, wines) >= half).all()


def test_a_distance_of_0_is_no_distance(api: httpx.Client) -> None:
    plain, zero = pour(api, "n=700&seed=3"), pour(api, "n=700&seed=3&min_dcr=0")
    assert plain.content == zero.content
    assert {name: plain.headers[name] for name in ("etag", "content-location", "link")} == {
        name: zero.headers[name] for name in ("etag", "content-location", "link")
    }
    assert "cuvee-redrawn" not in zero.headers


def test_a_distance_finer_than_thousandths_is_rounded_up_and_never_to_nothing(api: httpx.Client) -> None:
    for asked, kept in (("1e-12", "0.001"), ("0.3000001", "0.301"), ("0.3", "0.3")):
        assert f"&min_dcr={kept}&" in api.head(f"/samples?n=1&seed=3&min_dcr={asked}").headers["content-location"]


def test_the_distance_is_part_of_the_tag_and_of_what_head_says(api: httpx.Client, half: float) -> None:
    get, head, other = (partial(api.request, method)(f"/samples?n=20&seed=3&min_dcr={r}") for method, r in (("GET", half), ("HEAD", half), ("GET", half / 2)))
    assert head.headers["etag"] == get.headers["etag"] != other.headers["etag"]
    assert (head.content, "cuvee-redrawn" in head.headers, "link" in head.headers) == (b"", False, False)
    assert api.get(f"/samples?n=20&seed=3&min_dcr={half}", headers={"If-None-Match": get.headers["etag"]}).status_code == 304


def test_every_format_has_the_same_rows_and_a_stream_an_estimate_of_what_was_passed_over(api: httpx.Client, half: float) -> None:
    n = STREAM_ABOVE + 500
    stream = pour(api, f"n={n}&seed=3&min_dcr={half}&include=row&format=parquet")
    count, estimated = stream.headers["cuvee-redrawn"].split(";")
    rows = pl.read_parquet(io.BytesIO(stream.content))
    assert (estimated, "link" in stream.headers, len(rows)) == ("estimated", False, n)
    assert int(count) == pytest.approx(rows["row"][-1] + 1 - n, rel=0.1)
    whole = pour(api, f"n=1000&seed=3&min_dcr={half}&format=csv")
    assert whole.headers["cuvee-redrawn"].isdecimal()
    assert pl.read_csv(whole.content).equals(rows.drop("row")[:1000].cast(dict(pl.read_csv(whole.content).schema.items())))


def test_a_check_tells_what_the_distance_costs(api: httpx.Client, half: float) -> None:
    told = api.post("/samples/check", json={"n": 500, "quality": [6], "alcohol_max": 14, "min_dcr": half}).json()
    answer = pour(api, f"n=500&quality=6&alcohol_max=14&min_dcr={half}&seed=1")
    redrawn = int(answer.headers["cuvee-redrawn"])
    assert told["redrawn"] == pytest.approx(redrawn / (500 + redrawn), abs=0.05)
    assert told["binding"] == "min_dcr"
    assert told["without"].keys() == {"alcohol", "min_dcr"}
    assert told["acceptance"] == pytest.approx(told["without"]["min_dcr"] * (1 - told["redrawn"]))
    assert api.post("/samples/check", json={}).json()["redrawn"] == 0


def test_a_distance_that_no_row_keeps_is_refused_before_any_work_and_says_which_share_would_do(api: httpx.Client) -> None:
    answer = api.get("/samples?n=1&model=copier&type=red&min_dcr=0.001&alcohol_max=19")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/min_dcr")
    assert "without those of one measurement would pass: alcohol (0.00%), min_dcr (100.00%)" in answer.json()["detail"]
    assert not api.post("/samples/check", json={"model": "copier", "type": ["red"], "min_dcr": 0.001}).json()["feasible"]


@pytest.mark.parametrize("value", ["-0.1", "10.1", "nan", "inf", "far"])
def test_what_is_no_distance_is_refused(api: httpx.Client, value: str) -> None:
    answer = api.get(f"/samples?min_dcr={value}")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/min_dcr")


def problems(api: httpx.Client, model: str) -> Iterator[dict[str, Any]]:
    for answer in (api.get(f"/samples?n=1&min_dcr=0.5&model={model}"), api.post("/samples/check", json={"min_dcr": 0.5, "model": model})):
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:cuvee:conflict")
        yield answer.json()
    pour(api, f"n=1&model={model}&min_dcr=0")


def test_a_model_without_an_index_pours_but_keeps_no_distance_and_says_what_to_do(api: httpx.Client) -> None:
    for problem in problems(api, "old"):
        assert "holds no index of its training rows" in problem["detail"]
        assert "POST /train" in problem["detail"]


def test_where_it_is_turned_off_no_distance_is_kept_for_any_model(url: str) -> None:
    with serve(Settings(database_url=url, download=False, dcr_step=0)) as client:
        for problem in problems(client, "champion"):
            assert "min_dcr is turned off in this deployment" in problem["detail"]
