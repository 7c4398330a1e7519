"""Tables sent to be scored: every format in, every format out, the same scores as row by row; and reasons that point at what was tampered with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from app import copula, migrations, registry
from app.api.scores import LIGHT, SHORT
from app.bundle import Bundle, pack, unpack
from app.db import Database
from app.formats import ARROW, CHUNKS, CSV, NDJSON, PARQUET, Sheet, to_csv
from app.settings import Settings
from app.split import split
from app.wine import COLUMNS, FREE_SO2, HIGH_TICKS, LOW_TICKS, MEASUREMENTS, NAMES, TOTAL_SO2, Wines, concatenate
from tests.conftest import serve

TABLES = {"csv": CSV, "ndjson": NDJSON, "parquet": PARQUET, "arrow": ARROW}
SCORES = ["p_real", "discriminator", "critic", "percentile", "predicted_quality"]
LIMIT = 3000


@pytest.fixture(scope="module")
def explaining(starter: Bundle, starter_wines: Wines) -> bytes:
    """The starter model as a training of today would have left it: with what each measurement is expected to be."""
    state = copula.to_state(copula.fit(split(starter_wines, holdout=0.2, seed=0).train))
    return pack(starter.manifest.model_copy(update={"copulas": state, "format": 3}), starter.parts)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, explaining: bytes) -> Iterator[httpx.Client]:
    """One server for all tests here, whose champion can give reasons."""
    url = f"sqlite:///{tmp_path_factory.mktemp('tables')}/cuvee.db"
    database = Database(url)
    migrations.upgrade(database)
    bundle = unpack(explaining)
    with database.write() as tx:
        registry.install_starter(tx)
        if bundle.id != registry.resolve(tx, "champion"):
            registry.publish(tx, bundle, explaining, job_id=None)
            registry.point(tx, "champion", bundle.id, reason="it can give reasons")
    database.close()
    with serve(Settings(database_url=url, download=False, max_rows=LIMIT)) as client:
        yield client


def body_of(wines: Wines, format_: str) -> bytes:
    """The wines as a table."""
    return b"".join(CHUNKS[TABLES[format_]]([Sheet(wines)], ()))


def score(api: httpx.Client, wines: Wines, came: str, goes: str | None = None, **query: Any) -> httpx.Response:
    """A good answer for these wines."""
    asked = query | ({"format": goes} if goes else {})
    answer = api.post("/score", content=body_of(wines, came), headers={"Content-Type": TABLES[came]}, params=asked)
    assert answer.status_code == 200, answer.text
    return answer


def frame(answer: httpx.Response) -> pd.DataFrame:
    """What a data scientist makes of an answer."""
    match answer.headers["content-type"].split(";")[0]:
        case "text/csv":
            return pd.read_csv(io.BytesIO(answer.content))
        case "application/x-ndjson":
            return pd.read_json(io.BytesIO(answer.content), lines=True, precise_float=True)
        case "application/vnd.apache.parquet":
            return pd.DataFrame(pq.read_table(io.BytesIO(answer.content)).to_pandas())
        case "application/vnd.apache.arrow.stream":
            return pd.DataFrame(pa.ipc.open_stream(answer.content).read_pandas())
        case _:
            return pd.DataFrame(answer.json())


@pytest.mark.parametrize("came", TABLES)
def test_a_table_is_scored_as_its_rows_are_one_by_one(api: httpx.Client, few_wines: Wines, came: str) -> None:
    wines = few_wines.take(slice(0, 60))
    scored = frame(score(api, wines, came))
    rows = pd.read_csv(io.BytesIO(to_csv(wines))).to_dict("records")
    singles = [api.post("/score", json={"rows": [row]}).json()["rows"][0] for row in rows]
    assert list(scored.columns) == [*NAMES, *SCORES]
    for name in SCORES:
        assert scored[name].tolist() == [round(single[name], 6) for single in singles]
    assert np.array_equal(scored[list(MEASUREMENTS)].to_numpy(dtype=float), wines.measurements())


@pytest.mark.parametrize("came", TABLES)
def test_the_answer_comes_in_the_format_of_the_body(api: httpx.Client, few_wines: Wines, came: str) -> None:
    assert score(api, few_wines, came).headers["content-type"].split(";")[0] == TABLES[came]


@pytest.mark.parametrize("goes", ["json", "csv", "ndjson", "parquet", "arrow"])
def test_or_in_the_format_that_is_asked_for(api: httpx.Client, few_wines: Wines, goes: str) -> None:
    asked, as_csv = frame(score(api, few_wines, "arrow", goes)), frame(score(api, few_wines, "csv"))
    pd.testing.assert_frame_equal(asked, as_csv, check_dtype=False, check_exact=True)


def test_json_rows_can_be_answered_as_a_table(api: httpx.Client, few_wines: Wines) -> None:
    rows = pd.read_csv(io.BytesIO(to_csv(few_wines.take(slice(0, 20))))).to_dict("records")
    answer = api.post("/score", json={"rows": rows}, headers={"Accept": "text/csv"})
    pd.testing.assert_frame_equal(frame(answer), frame(score(api, few_wines.take(slice(0, 20)), "csv")))


@pytest.mark.parametrize("came", TABLES)
def test_scores_do_not_depend_on_how_many_rows_come_with_a_row(api: httpx.Client, starter_wines: Wines, came: str) -> None:
    many = score(api, starter_wines.take(slice(0, LIMIT)), came, "csv").text.splitlines()
    few = score(api, starter_wines.take(slice(1500, 1511)), came, "csv").text.splitlines()
    assert few[1:] == many[1501:1512]


@pytest.mark.parametrize("came", ["csv", "ndjson"])
def test_a_bad_cell_at_the_end_of_a_long_table_is_an_error_and_not_half_an_answer(api: httpx.Client, starter_wines: Wines, came: str) -> None:
    body = body_of(starter_wines.take(slice(0, LIMIT)), came)
    last = body.splitlines()[-1].replace(b"red", b"pink").replace(b"white", b"pink")
    spoiled = body.removesuffix(body.splitlines()[-1] + b"\n") + last
    answer = api.post("/score", content=spoiled, headers={"Content-Type": TABLES[came]})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert (fault["pointer"], fault["expected"], fault["found"]) == (f"/body/line/{LIMIT + (came == 'csv')}/type", "white or red", "pink")


@pytest.mark.parametrize("came", TABLES)
def test_bytes_that_are_no_such_table_are_refused(api: httpx.Client, came: str) -> None:
    for garbage in (b"", b"\x00\x01wine\n", b"PAR1" + bytes(100) + b"PAR1", b'{"alcohol": 9}\n'):
        answer = api.post("/score", content=garbage, headers={"Content-Type": TABLES[came]})
        assert answer.status_code == 422, (garbage, answer.text)


@pytest.mark.parametrize("came", ["parquet", "arrow"])
def test_missing_and_mistyped_values_of_a_binary_table_are_named_by_row(api: httpx.Client, few_wines: Wines, came: str) -> None:
    read = frame_of(few_wines)
    read["pH"] = read["pH"].astype(object)
    read.loc[3, "pH"] = None
    read["type"] = read["type"].where(read.index != 5, "rosé")
    sink = io.BytesIO()
    table = pa.Table.from_pandas(read.convert_dtypes(), preserve_index=False)
    if came == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    answer = api.post("/score", content=sink.getvalue(), headers={"Content-Type": TABLES[came]})
    assert [(e["pointer"], e["found"]) for e in answer.json()["errors"]] == [("/body/row/3/pH", "null"), ("/body/row/5/type", "rosé")]


def frame_of(wines: Wines) -> pd.DataFrame:
    """The wines as pandas has them."""
    return pd.read_csv(io.BytesIO(to_csv(wines)))


def test_a_table_with_more_rows_than_allowed_is_refused(api: httpx.Client, starter_wines: Wines) -> None:
    answer = api.post("/score", content=to_csv(starter_wines.take(slice(0, LIMIT + 1))), headers={"Content-Type": CSV})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:cuvee:too-large")


def test_without_explain_there_are_no_reasons(api: httpx.Client, few_wines: Wines) -> None:
    rows = frame_of(few_wines.take(slice(0, 3))).to_dict("records")
    assert [row["reasons"] for row in api.post("/score", json={"rows": rows}).json()["rows"]] == [None, None, None]


def test_a_reason_names_the_measurement_and_what_would_go_with_the_others(api: httpx.Client, few_wines: Wines) -> None:
    wine = frame_of(few_wines.take(slice(0, 1))).to_dict("records")[0]
    odd = wine | {"pH": 4.4}
    (row,) = api.post("/score", json={"rows": [odd], "explain": True}).json()["rows"]
    reason = row["reasons"][0]
    assert (reason["measurement"], reason["found"]) == ("pH", 4.4)
    assert abs(reason["expected"] - wine["pH"]) < 0.35
    assert reason["surprise"] > 4
    table = frame(api.post("/score?explain=true", content=to_csv(wines_of(odd, few_wines)), headers={"Content-Type": CSV}))
    assert (table["reason"][0], table["reason_expected"][0]) == ("pH", reason["expected"])


def wines_of(row: Mapping[Any, Any], like: Wines) -> Wines:
    """One row as wines."""
    ticks = np.array([[round(row[c.name] * c.scale) for c in COLUMNS]], dtype=np.int32)
    return Wines(ticks, like.quality[:1], like.red[:1])


def test_a_model_from_before_reasons_says_so(api: httpx.Client, tmp_path: Path, starter: Bundle, few_wines: Wines) -> None:
    old = pack(starter.manifest.model_copy(update={"copulas": {}, "format": 2}), starter.parts)
    url = f"sqlite:///{tmp_path}/old.db"
    database = Database(url)
    migrations.upgrade(database)
    with database.write() as tx:
        registry.publish(tx, unpack(old), old, job_id=None)
        registry.point(tx, "champion", unpack(old).id, reason="there is no other")
    database.close()
    with serve(Settings(database_url=url, download=False)) as client:
        for sent in (
            {"json": {"rows": frame_of(few_wines).head(2).to_dict("records"), "explain": True}},
            {"content": to_csv(few_wines), "params": {"explain": "true"}},
        ):
            answer = client.post("/score", headers={"Content-Type": "application/json" if "json" in sent else CSV}, **sent)
            assert answer.status_code == 409
            assert "was made before models could give reasons; train it again, or leave out explain" in answer.json()["detail"]


WINE = {"fixed_acidity": 7.4, "volatile_acidity": 0.7, "citric_acid": 0.0, "residual_sugar": 1.9, "chlorides": 0.076, "free_sulfur_dioxide": 11.0}
WINE |= {"total_sulfur_dioxide": 34.0, "density": 0.9978, "pH": 3.51, "sulphates": 0.56, "alcohol": 9.4, "quality": 5}


def arrow(columns: dict[str, pa.Array], options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    """A stream of one batch."""
    batch, sink = pa.record_batch(columns), io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def wines_like(rows: int, type_: pa.Array | None = None) -> dict[str, pa.Array]:
    """Columns of equal wines."""
    return {name: pa.array(np.full(rows, value)) for name, value in WINE.items()} | {"type": pa.array(["red"] * rows) if type_ is None else type_}


def lying() -> bytes:
    """A stream whose only text claims to end far behind the stream."""
    stream = arrow(wines_like(1, pa.array(["r" * 123_457])))
    text = stream.index(b"r" * 1000)
    at = stream.rindex((123_457).to_bytes(4, "little"), 0, text)
    return stream[:at] + (2_000_000_000).to_bytes(4, "little") + stream[at + 4 :]


def long_text(came: str) -> bytes:
    """Many rows of one very long type."""
    repeated = pa.DictionaryArray.from_arrays(np.zeros(2000, dtype=np.int32), pa.array(["r" * 200_000]))
    if came == "arrow":
        return arrow(wines_like(2000, repeated))
    sink = io.BytesIO()
    pq.write_table(pa.table(wines_like(2000, repeated)), sink)
    return sink.getvalue()


def bomb(size: int) -> bytes:
    """A stream that is small as long as its dictionary of one long type is compressed."""
    one = pa.DictionaryArray.from_arrays(np.zeros(3, dtype=np.int32), pa.array(["r" * size]))
    packed = list(pa.ipc.MessageReader.open_stream(arrow(wines_like(3, one), pa.ipc.IpcWriteOptions(compression="zstd"))))
    plain = list(pa.ipc.MessageReader.open_stream(arrow(wines_like(3, tiny_types()))))
    sink = pa.BufferOutputStream()
    for message in (packed[0], packed[1], plain[2]):
        message.serialize_to(sink)
    return bytes(sink.getvalue())


def tiny_types() -> pa.Array:
    """Three short types, as a dictionary."""
    return pa.DictionaryArray.from_arrays(np.zeros(3, dtype=np.int32), pa.array(["red"]))


def packed(size: int) -> bytes:
    """Parquet that is small as long as its one long type is compressed."""
    sink, types = io.BytesIO(), pa.DictionaryArray.from_arrays(np.zeros(3, dtype=np.int32), pa.array(["r" * size]))
    pq.write_table(pa.table(wines_like(3, types)), sink, compression="zstd", write_statistics=False)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("came", "body", "said"),
    [
        ("arrow", lying, "is damaged"),
        ("arrow", lambda: arrow({name: pa.nulls(20_000_000) for name in NAMES}), "expected a column of numbers, found null"),
        ("arrow", lambda: arrow(wines_like(1000), pa.ipc.IpcWriteOptions(compression="zstd")), "expected an Arrow stream without compression"),
        ("arrow", lambda: bomb(20_000_000), "expected an Arrow stream without compression"),
        ("parquet", lambda: packed(20_000_000), "expected row groups with at most 16 MiB of a column, unpacked, found one with 19"),
        ("arrow", lambda: arrow(wines_like(3) | {"pH": pa.array([2**62] * 3, pa.timestamp("us"))}), "pH: expected a column of numbers, found timestamp"),
        ("arrow", lambda: arrow(wines_like(3) | {"pH": pa.array([[1.0]] * 3)}), "pH: expected a column of numbers, found list"),
        ("arrow", lambda: long_text("arrow"), "the table has cells that are not a wine's"),
        ("parquet", lambda: long_text("parquet"), "the table has cells that are not a wine's"),
        ("ndjson", lambda: json.dumps(WINE | {"type": "red"}).replace("9.4", "1" * 400).encode(), "the table has cells that are not a wine's"),
        ("ndjson", lambda: b"[" * 100_000, "expected a JSON object"),
    ],
)
def test_a_table_that_means_harm_is_refused_in_words_and_the_service_goes_on(api: httpx.Client, came: str, body: Callable[[], bytes], said: str) -> None:
    answer = api.post("/score", content=body(), headers={"Content-Type": TABLES[came]})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert len(answer.content) < 20_000  # no long text is echoed
    assert api.get("/healthz").status_code == 200


def test_a_long_stream_of_small_batches_is_refused_where_it_becomes_too_long(api: httpx.Client) -> None:
    batch, sink = pa.record_batch(wines_like(100)), io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(LIMIT // 100 + 1):
            writer.write_batch(batch)
    assert api.post("/score", content=sink.getvalue(), headers={"Content-Type": ARROW}).status_code == 413


def tampered(wines: Wines, spread: NDArray[np.float64], how: float, random: np.random.Generator) -> tuple[Wines, NDArray[np.int64]]:
    """Each wine with one measurement moved by so many standard deviations of its type, up or down, and which one; what stayed as it was is left out."""
    ticks, rows = wines.ticks.copy(), np.arange(len(wines))
    column = random.integers(0, len(COLUMNS), len(wines))
    moved = ticks[rows, column] + how * random.choice([-1, 1], len(wines)) * spread[wines.red.astype(int), column]
    ticks[rows, column] = np.rint(np.clip(moved, LOW_TICKS[column], HIGH_TICKS[column]))
    ticks[:, TOTAL_SO2] = np.maximum(ticks[:, TOTAL_SO2], ticks[:, FREE_SO2])
    far = np.abs(ticks[rows, column] - wines.ticks[rows, column]) >= how / 2 * spread[wines.red.astype(int), column]
    return Wines(ticks, wines.quality, wines.red).take(far), column[far]


@pytest.mark.parametrize("how", [4.0, 8.0])
def test_the_strongest_reason_is_the_measurement_that_was_tampered_with_in_nine_of_ten_cases(starter_wines: Wines, how: float) -> None:
    halves = split(starter_wines, holdout=0.2, seed=0)
    spread = np.stack([halves.train.ticks[halves.train.red == red].std(0) for red in (False, True)])
    wines, column = tampered(halves.holdout, spread, how, np.random.default_rng(1))
    named = [found[0].column if found else -1 for found in copula.reasons(copula.fit(halves.train), wines)]
    assert (np.array(named) == column).mean() >= 0.9


def test_few_wines_that_nobody_touched_have_a_strong_reason(starter_wines: Wines) -> None:
    halves = split(starter_wines, holdout=0.2, seed=0)
    found = copula.reasons(copula.fit(halves.train), halves.holdout)
    assert np.mean([bool(reasons) and reasons[0].surprise > 3 for reasons in found]) < 0.1


def test_reasons_of_a_wine_do_not_depend_on_the_wines_beside_it(starter_wines: Wines) -> None:
    copulas = copula.fit(starter_wines)
    together = copula.reasons(copulas, starter_wines.take(slice(0, 50)))
    assert [copula.reasons(copulas, starter_wines.take(slice(i, i + 1)))[0] for i in range(50)] == together


def test_copulas_survive_the_manifest(starter_wines: Wines) -> None:
    copulas = copula.fit(starter_wines)
    again = copula.from_state(copula.to_state(copulas))
    assert copula.reasons(again, starter_wines) == copula.reasons(copulas, starter_wines)


def test_a_reason_stands_only_behind_a_stronger_one(starter_wines: Wines) -> None:
    copulas = copula.fit(starter_wines)
    found = copula.reasons(copulas, starter_wines)
    assert 0.1 < np.mean([bool(reasons) for reasons in found]) < 0.4
    assert all(reason.surprise >= copula.SURPRISING for reasons in found for reason in reasons)
    for name, red in (("white", False), ("red", True)):
        wines = starter_wines.take(starter_wines.red == red)
        scores = copulas[name].scores(wines.ticks.astype(np.int64))
        p = copulas[name].precision
        first = (np.abs((scores - copulas[name].mean) @ p) / np.sqrt(np.diag(p))).max(1)  # before anything is mended
        assert [bool(reasons) for reasons in copula.reasons(copulas, wines)] == (first >= copula.SURPRISING).tolist()


def test_csv_by_its_other_name_is_csv(api: httpx.Client, few_wines: Wines) -> None:
    answer = api.post("/score", content=to_csv(few_wines), headers={"Content-Type": "application/csv"})
    assert (answer.status_code, answer.text) == (200, score(api, few_wines, "csv").text)


@pytest.mark.parametrize("times", [5, 10])
def test_a_longer_table_gets_the_scores_that_its_rows_get_in_a_short_one(api: httpx.Client, few_wines: Wines, times: int) -> None:
    longer = concatenate([few_wines] * times)  # read on a thread of its own and answered whole, or sent part by part
    assert len(to_csv(few_wines)) < LIGHT < len(to_csv(longer))
    assert (len(longer) > SHORT) == (times == 10)
    whole, once = frame(score(api, longer, "csv")), frame(score(api, few_wines, "csv"))
    pd.testing.assert_frame_equal(whole, pd.concat([once] * times, ignore_index=True))


def test_many_rows_in_few_bytes_are_answered_as_a_long_table_is(api: httpx.Client) -> None:
    content = ",".join(NAMES) + "\n" + "5,1,0,1,1,1,6,1,3,1,8,5,red\n" * (SHORT + 1)
    assert len(content) < LIGHT
    answer = api.post("/score", content=content, headers={"Content-Type": CSV})
    assert (answer.status_code, "content-length" in answer.headers) == (200, False)
    assert len(set(answer.text.splitlines()[1:])) == 1
    assert answer.text.count("\n") == SHORT + 2
