"""The registry over HTTP: models, their reports as JSON and as a page, their bundles, and the real rows behind them."""

from __future__ import annotations

import hashlib
from html.parser import HTMLParser

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from app import datasets, registry, uci
from app.api.answers import preferred
from app.api.models import BLOCK
from app.api.report_page import MEANINGS, render
from app.api.samples import STREAM_ABOVE
from app.api.schemas import ReportView
from app.bundle import Bin, Bundle, Confusion, Discernment, Measure, Rate, Report, digest, pack, unpack
from app.db import Database, models
from app.db import datasets as stored
from app.errors import NotAcceptable
from app.split import split
from app.tables import read_csv
from app.wine import Wines
from tests.conftest import csv_of

HEADINGS = {"How good it is", "What it gives away", "How well it knows quality", "By type", "By quality", "Asked and rated", "Plausibility"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FULL = Report(
    protocol=2,
    in_sample=False,
    rows=80,
    measures={"c2st": Measure(value=0.56, spread=0.01, floor=0.97, ceiling=0.53), "exact_copies": Measure(value=0.0, ceiling=0.2)},
    by_type={"red": {"c2st": Measure(value=0.57, ceiling=0.52)}},
    by_quality={5: {"c2st": Measure(value=0.58)}},
    confusion={"all": Confusion(qualities=[5, 6], generated=[[0.75, 0.25], [0.5, 0.5]], real=[[0.8, 0.2], [0.4, 0.6]], real_rows=[30, 50], gap=0.075)},
    plausibility={"free_within_total": Rate(generated=1.0, real=0.99)},
    judges={"discriminator": Discernment(auc=0.51, auc_shuffled=0.7, brier=0.249, reliability=[Bin(predicted=0.5, observed=0.48, rows=160)])},
    notes=["<script>alert('wine')</script>"],
)


def publish(db: Database, bundle: Bundle, *, dataset_id: str, dataset: bytes, report: Report = FULL, **params: object) -> Bundle:
    """The registered model that this bundle is with another report, trained on another dataset."""
    own = bundle.manifest.lineage
    lineage = own.model_copy(update={"dataset_id": dataset_id, "dataset_sha256": digest(dataset), "params": own.params | params})
    data = pack(bundle.manifest.model_copy(update={"lineage": lineage, "report": report}), bundle.parts)
    with db.write() as tx:
        registry.publish(tx, unpack(data), data, job_id=None)
    return unpack(data)


@pytest.fixture
def model(api: httpx.Client, sqlite_db: Database, tiny: Bundle, few_wines: Wines) -> Bundle:
    """A model with a full report, whose dataset is stored."""
    uploaded = api.post("/datasets", content=csv_of(few_wines), headers={"Content-Type": "text/csv"}).json()["id"]
    return publish(sqlite_db, tiny, dataset_id=uploaded, dataset=csv_of(few_wines))


def rows(api: httpx.Client, model: str, part: str) -> Wines:
    """The real rows of that part."""
    answer = api.get(f"/models/{model}/rows", params={"part": part, "format": "csv"})
    assert answer.status_code == 200, answer.text
    return read_csv(answer.content).wines


def test_the_starter_model_is_there_as_champion(api: httpx.Client) -> None:
    assert [(model["aliases"], model["method"], model["job_id"]) for model in api.get("/models").json()] == [(["champion"], "gan", None)]


def test_a_model_is_the_same_by_its_id_and_by_its_alias(api: httpx.Client) -> None:
    by_alias = api.get("/models/champion").json()
    assert api.get(f"/models/{by_alias['id']}").json() == by_alias


def test_a_list_of_models_has_the_values_of_their_measures(api: httpx.Client, model: Bundle) -> None:
    listed = {entry["id"]: entry for entry in api.get("/models").json()}
    assert listed[model.id]["measures"] == {"c2st": 0.56, "exact_copies": 0.0}
    assert "lineage" not in listed[model.id]


def test_a_metric_of_a_model_stands_between_floor_and_ceiling_with_its_spread(api: httpx.Client) -> None:
    measure = api.get("/models/champion").json()["measures"]["c2st"]
    assert set(measure) == {"value", "spread", "floor", "ceiling"}
    assert 0.5 <= measure["ceiling"] <= measure["value"] <= measure["floor"] <= 1.0  # 0.5: the detective can't tell


def test_the_lineage_of_a_model_says_how_to_train_it_again(api: httpx.Client) -> None:
    lineage = api.get("/models/champion").json()["lineage"]
    assert (lineage["dataset_id"], lineage["params"]["preset"], lineage["train_rows"] + lineage["holdout_rows"]) == ("uci", "default", 6497)
    assert {"dataset_sha256", "seed", "code_version", "torch_version", "device", "train_wall_s", "train_cpu_s"} <= set(lineage)


def test_the_id_of_a_model_is_the_hash_of_its_bytes(api: httpx.Client) -> None:
    model = api.get("/models/champion").json()
    assert model["id"] == model["sha256"][:16]


def test_a_model_names_its_report_and_its_bundle_and_both_are_there(api: httpx.Client) -> None:
    model = api.get("/models/champion").json()
    assert (model["report"], model["bundle"]) == (f"/models/{model['id']}/report", f"/models/{model['id']}/bundle")
    assert [api.get(model[link]).status_code for link in ("report", "bundle")] == [200, 200]


def test_a_model_that_came_with_the_package_has_no_verdict(api: httpx.Client) -> None:
    assert api.get("/models/champion").json()["verdict"] is None


@pytest.mark.parametrize("what", ["", "/report", "/bundle", "/rows"])
def test_an_unknown_model_is_not_found(api: httpx.Client, what: str) -> None:
    answer = api.get(f"/models/nope{what}")
    assert (answer.status_code, answer.json()["detail"]) == (404, "no model or alias is called 'nope'; GET /models lists them")


def test_a_report_is_whole_and_says_what_it_rests_on(api: httpx.Client, model: Bundle) -> None:
    report = api.get(f"/models/{model.id}/report").json()
    assert Report.model_validate({name: report[name] for name in Report.model_fields}) == FULL
    assert (report["model"], report["method"]) == (model.id, "gan")
    lineage = model.manifest.lineage
    assert report["lineage"] == {
        "dataset_id": lineage.dataset_id,
        "dataset_sha256": lineage.dataset_sha256,
        "dataset_synthetic": True,
        "holdout": 0.2,
        "split_seed": 0,
        "seed": 0,
        "train_rows": lineage.train_rows,
        "holdout_rows": lineage.holdout_rows,
        "train_wall_s": lineage.train_wall_s,
        "train_cpu_s": lineage.train_cpu_s,
        "device": lineage.device,
        "code_version": lineage.code_version,
        "warnings": [],
    }


def test_the_champion_s_report_names_the_model_that_it_is_of(api: httpx.Client) -> None:
    answer = api.get("/models/champion/report")
    assert answer.json()["model"] == answer.headers["cuvee-model"] == api.get("/models/champion").json()["id"]


@pytest.mark.parametrize("path", ["report", "report?format=html", "bundle", "rows?part=train&format=csv", "rows?part=holdout"])
def test_what_the_client_has_already_is_not_sent_again(api: httpx.Client, model: Bundle, path: str) -> None:
    first = api.get(f"/models/{model.id}/{path}")
    again = api.get(f"/models/{model.id}/{path}", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("query", ["report", "rows"])
def test_two_formats_have_two_tags_and_say_that_they_differ_by_accept(api: httpx.Client, model: Bundle, query: str) -> None:
    other = {"report": "html", "rows": "csv"}[query]
    answers = [api.get(f"/models/{model.id}/{query}?format={name}") for name in ("json", other)]
    assert len({answer.headers["etag"] for answer in answers}) == 2
    assert [answer.headers["vary"] for answer in answers] == ["Accept, Accept-Encoding", "Accept, Accept-Encoding"]


@pytest.mark.parametrize(
    ("accept", "media_type"), [("*/*", "application/json"), ("text/html", "text/html; charset=utf-8"), (BROWSER["Accept"], "text/html; charset=utf-8")]
)
def test_a_browser_gets_a_page_and_a_program_json(api: httpx.Client, accept: str, media_type: str) -> None:
    assert api.get("/models/champion/report", headers={"Accept": accept}).headers["content-type"] == media_type


def test_an_empty_accept_header_likes_everything(api: httpx.Client) -> None:
    assert preferred(" ", ["application/json", "text/html"]) == "application/json"
    assert api.get("/models/champion/report", headers={"Accept": ""}).headers["content-type"] == "application/json"


@pytest.mark.parametrize("weight", ["²", "-1", "nan", "1e3", "2", "0.1234", ".5", ""])
def test_a_weight_that_is_none_is_no_liking(api: httpx.Client, weight: str) -> None:
    assert preferred(f"text/csv;q={weight}, application/json;q=0.001", ["text/csv", "application/json"]) == "application/json"
    with pytest.raises(NotAcceptable):
        preferred(f"text/csv;q={weight}", ["text/csv", "application/json"])
    assert api.get("/models/champion/report", headers={b"Accept": f"text/html;q={weight}".encode("latin-1")}).status_code == 406


@pytest.mark.parametrize(("accept", "best"), [("a/b;q=0.2, c/d;Q=0.3", "c/d"), ("a/b;q=1.000, c/d;q=0.999", "a/b"), ("a/b;q=0., c/d;q=0.001", "c/d")])
def test_the_greater_weight_is_liked_better(accept: str, best: str) -> None:
    assert preferred(accept, ["a/b", "c/d"]) == best


def test_a_report_in_a_format_that_there_is_not_is_refused_with_those_there_are(api: httpx.Client) -> None:
    answer = api.get("/models/champion/report", headers={"Accept": "image/png"})
    assert (answer.status_code, answer.json()["errors"][0]["expected"]) == (406, "application/json or text/html")


class Page(HTMLParser):
    """The tags and the words of a page; fails on a tag that is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_shows_every_part_of_the_report(api: httpx.Client, model: Bundle) -> None:
    words = " ".join(Page(api.get(f"/models/{model.id}/report?format=html").text).words)
    for shown in (
        model.id,
        "0.560",
        "± 0.010",
        "0.970",
        "0.530",
        "exact_copies",
        "red",
        "0.570",
        "(0.520)",
        "0.580",
        "0.75",
        "0.075",
        "free_within_total",
        "0.249",
    ):
        assert shown in words


def test_the_page_says_of_each_judge_what_its_word_was_held_against(api: httpx.Client, model: Bundle) -> None:
    view = ReportView.model_validate(api.get(f"/models/{model.id}/report").json())
    both = view.model_copy(update={"judges": dict.fromkeys(("discriminator", "critic"), view.judges["discriminator"])})
    words = Page(render(both)).words
    assert "Brier score and reliability: on real wines that training never saw and on this model's own." in words
    (of_the_critic,) = (word for word in words if "real wines that training never saw and on its mixture" in word)
    assert "tampered with" in of_the_critic


def test_a_page_about_training_rows_claims_no_unseen_wine(api: httpx.Client, model: Bundle) -> None:
    view = ReportView.model_validate(api.get(f"/models/{model.id}/report").json())
    names = ("c2st", "coverage", "tstr_r2", "tstr_qwk", "tstr_ratio", "exact_copies")
    measured = {"in_sample": True, "measures": dict.fromkeys(names, Measure(value=0.5)), "plausibility": {"near_real_wines": Rate(generated=1, real=1)}}
    text = " ".join(Page(render(view.model_copy(update=measured))).words)
    assert "its own training wines" in text
    assert "unseen" not in text
    assert "never saw" not in text


def test_the_page_shows_words_as_words(api: httpx.Client, model: Bundle) -> None:
    page = Page(api.get(f"/models/{model.id}/report?format=html").text)
    assert "script" not in page.tags
    assert "<script>alert('wine')</script>" in page.words


def test_the_page_loads_nothing(api: httpx.Client, model: Bundle) -> None:
    answer = api.get(f"/models/{model.id}/report?format=html")
    page = Page(answer.text)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert {name for name, value in page.attributes if value and "//" in value} == set()
    assert "url(" not in answer.text
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_links_of_the_page_lead_somewhere(api: httpx.Client, model: Bundle) -> None:
    links = [value for name, value in Page(api.get(f"/models/{model.id}/report?format=html").text).attributes if name == "href"]
    assert len(links) == 4
    assert {api.get(link or "").status_code for link in links} == {200}


def test_a_report_that_measured_nothing_is_a_page_with_its_note(api: httpx.Client, model: Bundle) -> None:
    view = ReportView.model_validate(
        api.get(f"/models/{model.id}/report").json() | {name: {} for name in ("measures", "by_type", "by_quality", "confusion", "plausibility", "judges")}
    )
    page = Page(render(view.model_copy(update={"notes": ["nothing was measured"]})))
    assert "nothing was measured" in page.words
    assert page.tags.isdisjoint({"table", "h2", "svg"})


def page_of(api: httpx.Client, model: Bundle, **changed: object) -> Page:
    """The page of the model's report with other values in it."""
    view = ReportView.model_validate(api.get(f"/models/{model.id}/report").json())
    return Page(render(view.model_copy(update=changed)))


def test_findings_about_the_same_things_are_columns_of_one_table(api: httpx.Client, model: Bundle) -> None:
    findings = {"acceptance": {"white 5": 0.25, "white 9": 3.1e-7}, "rows": {"white 5": 12345.0, "red 5": 0.0}, "<b>": {"all": 1.5}}
    words = page_of(api, model, findings=findings).words
    start = words.index("What its method found")
    assert words[start + 2 :][:16] == [
        *("acceptance", MEANINGS["acceptance"], "rows"),
        *("white 5", "0.25", "12,345"),
        *("white 9", "3.10e-07", "–"),
        *("red 5", "–", "0"),
        *("<b>", "all", "1.5"),
        "What its judges know",
    ]


def test_the_page_says_how_fast_a_model_pours_and_whether_it_repeats_itself(api: httpx.Client, model: Bundle) -> None:
    words = " ".join(page_of(api, model, pool=10_000, rows_per_cpu_s=123_456.7).words)
    assert "It pours from a pool of 10,000 rows made in advance" in words
    assert "A CPU-second of the machine that trained it pours 123,457 rows." in words
    others = " ".join(page_of(api, model).words)
    assert "pool" not in others
    assert "CPU-second" not in others


def test_the_page_of_a_classifier_is_about_quality_and_not_about_wines_it_never_made(api: httpx.Client, model: Bundle) -> None:
    certain = {"accuracy": Measure(value=0.6, spread=0.01, floor=0.45), "r2": Measure(value=0.4, floor=-0.01)}
    nothing: dict[str, object] = {"confusion": {}, "plausibility": {}, "judges": {}}
    words = page_of(api, model, measures=certain, by_type={"red": certain}, by_quality={}, **nothing).words
    assert [word for word in words if word in HEADINGS] == ["How well it knows quality", "By type"]
    assert words[words.index("In brackets: the floor.") :][1:6] == ["red", "accuracy", "0.600 ", "± 0.010", "(0.450)"]


def test_a_model_says_how_many_rows_it_was_made_with_in_advance(api: httpx.Client, sqlite_db: Database, tiny: Bundle) -> None:
    pooled = tiny.manifest.model_copy(update={"pool": 25})
    data = pack(pooled, tiny.parts)
    with sqlite_db.write() as tx:
        registry.publish(tx, unpack(data), data, job_id=None)
    assert [api.get(f"/models/{unpack(data).id}{path}").json()["pool"] for path in ("", "/report")] == [25, 25]
    assert api.get("/models/champion").json()["pool"] == 0


@pytest.mark.parametrize("value", [-5.0, 0.53, 0.97, 5.0])
def test_a_bar_stays_on_its_picture_whatever_the_value(api: httpx.Client, model: Bundle, value: float) -> None:
    view = ReportView.model_validate(api.get(f"/models/{model.id}/report").json())
    page = Page(render(view.model_copy(update={"measures": {"c2st": FULL.measures["c2st"].model_copy(update={"value": value})}, "judges": {}})))
    places = [float(x or 0) for name, x in page.attributes if name == "cx"]
    assert len(places) == 1
    assert 0 <= places[0] <= 228  # the picture's width


def test_a_bundle_is_downloaded_as_it_was_registered(api: httpx.Client, model: Bundle) -> None:
    answer = api.get(f"/models/{model.id}/bundle")
    assert unpack(answer.content) == model
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{model.id}.cuvee"'


def test_the_tag_of_a_bundle_is_its_hash(api: httpx.Client) -> None:
    answer = api.get("/models/champion/bundle")
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"' == f'"{api.get("/models/champion").json()["sha256"]}"'


def test_a_bundle_that_was_damaged_in_its_place_is_not_handed_out(api: httpx.Client, sqlite_db: Database) -> None:
    with sqlite_db.write() as tx:
        tx.execute(sa.update(models).values(bundle=b"damaged"))
    answer = api.get("/models/champion/bundle")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:cuvee:bundle-invalid")
    assert "was damaged where it is stored" in answer.json()["detail"]


def test_who_has_the_bundle_already_makes_nobody_read_it(api: httpx.Client, sqlite_db: Database) -> None:
    tag = api.get("/models/champion/bundle").headers["etag"]
    with sqlite_db.write() as tx:
        tx.execute(sa.update(models).values(bundle=b"damaged"))  # whoever reads it would say so
    assert api.get("/models/champion/bundle", headers={"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize("path", ["bundle", "rows?part=train"])
def test_what_an_id_stands_for_may_be_kept_for_ever_what_an_alias_does_not(api: httpx.Client, sqlite_db: Database, model: Bundle, path: str) -> None:
    with sqlite_db.write() as tx:
        registry.point(tx, "favourite", model.id, reason="test")
    caching = [api.get(f"/models/{name}/{path}").headers["cache-control"] for name in (model.id, "favourite")]
    assert caching == ["public, max-age=31536000, immutable", "no-cache"]


def test_the_rows_behind_a_model_are_those_that_it_was_trained_and_measured_on(api: httpx.Client, model: Bundle, few_wines: Wines) -> None:
    truth = split(few_wines, holdout=0.2, seed=0)
    assert csv_of(rows(api, model.id, "train")) == csv_of(truth.train)
    assert csv_of(rows(api, model.id, "holdout")) == csv_of(truth.holdout)
    assert (len(truth.train), len(truth.holdout)) == (model.manifest.lineage.train_rows, model.manifest.lineage.holdout_rows)


def test_another_split_seed_holds_out_other_rows(api: httpx.Client, sqlite_db: Database, model: Bundle, few_wines: Wines) -> None:
    other = publish(sqlite_db, model, dataset_id=model.manifest.lineage.dataset_id, dataset=csv_of(few_wines), split_seed=1)
    assert csv_of(rows(api, other.id, "holdout")) == csv_of(split(few_wines, holdout=0.2, seed=1).holdout)


def test_the_rows_that_nobody_names_are_the_holdout_as_json(api: httpx.Client, model: Bundle) -> None:
    answer = api.get(f"/models/{model.id}/rows")
    assert (answer.headers["content-type"], len(answer.json())) == ("application/json", model.manifest.lineage.holdout_rows)
    assert answer.headers["content-location"] == f"/models/{model.id}/rows?part=holdout&format=json"
    assert api.get(answer.headers["content-location"]).content == answer.content


def test_the_accept_header_chooses_the_format_of_the_rows(api: httpx.Client, model: Bundle) -> None:
    assert api.get(f"/models/{model.id}/rows", headers={"Accept": "text/csv"}).headers["content-type"] == "text/csv; charset=utf-8"


def test_who_has_the_rows_already_makes_nobody_parse_them(api: httpx.Client, sqlite_db: Database, model: Bundle) -> None:
    tag = api.get(f"/models/{model.id}/rows").headers["etag"]
    with sqlite_db.write() as tx:
        tx.execute(sa.update(stored).values(content=b"no table"))  # whoever parses it fails
    assert api.get(f"/models/{model.id}/rows", headers={"If-None-Match": tag}).status_code == 304


def test_rows_of_another_part_format_or_split_have_another_tag(api: httpx.Client, sqlite_db: Database, model: Bundle, few_wines: Wines) -> None:
    dataset = model.manifest.lineage.dataset_id
    others = [publish(sqlite_db, model, dataset_id=dataset, dataset=csv_of(few_wines), **params) for params in ({"split_seed": 1}, {"holdout": 0.3})]
    asked = [(model, "json", "train"), (model, "csv", "train"), (model, "json", "holdout"), *((other, "json", "train") for other in others)]
    tags = {api.get(f"/models/{of.id}/rows", params={"format": name, "part": part}).headers["etag"] for of, name, part in asked}
    assert len(tags) == len(asked)


@pytest.mark.parametrize("count", [BLOCK + 1, STREAM_ABOVE + 1])
def test_many_rows_come_whole_and_in_order(api: httpx.Client, sqlite_db: Database, model: Bundle, starter_wines: Wines, count: int) -> None:
    many = csv_of(starter_wines.take(np.arange(count) % len(starter_wines)))
    with sqlite_db.write() as tx:
        tx.execute(sa.update(stored).where(stored.c.id == model.manifest.lineage.dataset_id).values(content=many, sha256=digest(many)))
    own = publish(sqlite_db, model, dataset_id=model.manifest.lineage.dataset_id, dataset=many, holdout=0)
    assert api.get(f"/models/{own.id}/rows?part=train&format=csv").content == many
    assert len(api.get(f"/models/{own.id}/rows?part=train").json()) == count


def test_rows_that_were_damaged_where_they_are_stored_are_our_fault_and_nobodys_input(api: httpx.Client, sqlite_db: Database, model: Bundle) -> None:
    with sqlite_db.write() as tx:
        tx.execute(sa.update(stored).where(stored.c.id == model.manifest.lineage.dataset_id).values(content=b"no table"))
    answer, check = api.get(f"/models/{model.id}/rows"), api.post("/samples/check", json={"model": model.id})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:cuvee:dataset-damaged")
    assert answer.json()["detail"].endswith("POST /datasets with the same rows mends it")
    assert (check.status_code, check.json()["training_rows"], check.json()["warnings"]) == (200, None, [answer.json()["detail"]])


def test_rows_of_a_dataset_that_was_deleted_by_force_are_missed_and_the_report_is_there(api: httpx.Client, model: Bundle) -> None:
    assert api.delete(f"/datasets/{model.manifest.lineage.dataset_id}").status_code == 409
    assert api.delete(f"/datasets/{model.manifest.lineage.dataset_id}?force=true").status_code == 204
    answer, report, check = api.get(f"/models/{model.id}/rows"), api.get(f"/models/{model.id}/report"), api.post("/samples/check", json={"model": model.id})
    assert (answer.status_code, report.status_code, check.json()["training_rows"]) == (404, 200, None)
    assert answer.json()["detail"].endswith("is not stored; POST /datasets with the same rows brings them back")


def test_rows_that_are_not_here_are_missed_with_what_brings_them(api: httpx.Client, sqlite_db: Database, tiny: Bundle) -> None:
    answer = api.get("/models/champion/rows")  # the starter was trained on the original data, which nobody has trained on here
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:cuvee:not-found")
    assert answer.json()["detail"].endswith("is not stored; POST /train with dataset 'uci' brings it")
    uploaded = publish(sqlite_db, tiny, dataset_id="0123456789abcdef", dataset=b"rows of elsewhere")
    assert api.get(f"/models/{uploaded.id}/rows").json()["detail"].endswith("is not stored; POST /datasets with the same rows brings them back")


def test_asking_for_rows_fetches_nothing_and_stores_nothing(api: httpx.Client, sqlite_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[object] = []
    monkeypatch.setattr(uci, "fetch", fetched.append)
    api.get("/models/champion/rows")
    with sqlite_db.read() as tx:
        assert [dataset.id for dataset in datasets.page(tx, limit=10, offset=0)] == ["starter"]
    assert fetched == []


def test_rows_of_a_dataset_that_is_another_by_now_are_refused_with_both_hashes(api: httpx.Client, sqlite_db: Database, tiny: Bundle) -> None:
    stale = publish(sqlite_db, tiny, dataset_id="starter", dataset=b"the starter of an older package")
    answer = api.get(f"/models/{stale.id}/rows")
    with sqlite_db.read() as tx:
        now = datasets.get(tx, "starter").sha256
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cuvee:conflict")
    assert digest(b"the starter of an older package") in answer.json()["detail"]
    assert now in answer.json()["detail"]


def test_a_model_that_held_nothing_out_says_so(api: httpx.Client, sqlite_db: Database, model: Bundle, few_wines: Wines) -> None:
    own = publish(sqlite_db, model, dataset_id=model.manifest.lineage.dataset_id, dataset=csv_of(few_wines), holdout=0)
    answer = api.get(f"/models/{own.id}/rows?part=holdout")
    assert (answer.status_code, answer.json()["detail"]) == (409, f"model {own.id} held no rows out: its report was measured on its training rows, part=train")
    assert len(rows(api, own.id, "train")) == len(few_wines)


def test_a_part_that_there_is_not_is_refused(api: httpx.Client) -> None:
    answer = api.get("/models/champion/rows?part=test")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/part")
