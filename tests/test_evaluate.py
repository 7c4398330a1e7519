"""The report catches what it should, praises what it should, and says where it knows nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bundle import Calibration, Measure, Report
from app.dcr import columns, scales
from app.split import Split, split
from app.wine import COLUMNS, DENSITY, FREE_SO2, TOTAL_SO2, Floats, Wines, concatenate
from worker import evaluate
from worker.evaluate.between import between, bootstrap, drawn, once, shuffled
from worker.evaluate.judges import Judge, discernment
from worker.evaluate.likeness import ks, likeness, prdc, spearman_gap
from worker.evaluate.plausibility import plausibility
from worker.evaluate.privacy import privacy
from worker.evaluate.utility import confusion, teaching

PRIVACY = {"near_copies", "exact_copies", "nndr", "dcr_p1", "dcr_p5", "dcr_p50", "dcr_closer_to_train"}


@pytest.fixture(scope="module")
def rows(starter_wines: Wines) -> Split:
    """1,200 wines to train on and 300 held out."""
    return split(starter_wines.take(slice(1500)), holdout=0.2, seed=0)


@pytest.fixture(scope="module")
def fresh(starter_wines: Wines) -> list[Wines]:
    """What a perfect generator would pour: three stretches of wines of the very same kind."""
    return [starter_wines.take(slice(first, first + 1200)) for first in (2000, 3200, 4400)]


@pytest.fixture(scope="module")
def copies(rows: Split) -> list[Wines]:
    """What a generator pours that only copies."""
    return [bootstrap(rows.train, 1200, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def mixed_up(fresh: list[Wines]) -> list[Wines]:
    """What a generator pours that knows each column and nothing of how they belong together."""
    return [shuffled(wines) for wines in fresh]


@pytest.fixture(scope="module")
def perfect(rows: Split, fresh: list[Wines]) -> dict[str, Measure]:
    return likeness(rows.holdout, rows.train, fresh)


@pytest.fixture(scope="module")
def heard(rows: Split, fresh: list[Wines]) -> tuple[Report, list[float]]:
    """A report, and what its reader heard of its progress."""
    shares: list[float] = []
    return evaluate.report(
        concatenate(fresh), rows, {"strength": Judge(lambda wines: wines.measurements()[:, -1] + _strength(rows.holdout, wines))}, shares.append
    ), shares


@pytest.fixture(scope="module")
def whole(heard: tuple[Report, list[float]]) -> Report:
    return heard[0]


def only(wines: Wines, *, quality: int | None = None, red: bool | None = None) -> Wines:
    """The wines of one quality or type."""
    return wines.take(((quality is None) | (wines.quality == quality)) & ((red is None) | (wines.red == red)))


# --- what is caught, and what is praised ---


def test_a_copier_is_caught_by_every_measure_of_privacy(rows: Split, copies: list[Wines]) -> None:
    measures = privacy(rows.holdout, rows.train, copies)
    assert measures["exact_copies"].value == measures["near_copies"].value == 1
    assert {measures[name].value for name in ("nndr", "dcr_p1", "dcr_p5", "dcr_p50")} == {0}
    closer = measures["dcr_closer_to_train"]
    assert closer.ceiling is not None
    assert closer.value > closer.ceiling + 0.05


def test_unseen_wines_are_no_copies(rows: Split, fresh: list[Wines]) -> None:
    measures = privacy(rows.holdout, rows.train, fresh)
    assert measures["exact_copies"].value == 0
    assert measures["near_copies"].value < 0.1
    assert measures["near_copies"].ceiling == pytest.approx(0.05, abs=0.005)
    for name in ("nndr", "dcr_p50", "dcr_closer_to_train"):
        assert measures[name].value == pytest.approx(measures[name].ceiling, abs=0.05)


def test_a_training_wine_that_repeats_is_one_neighbour_not_two(rows: Split, fresh: list[Wines]) -> None:
    repeated = privacy(rows.holdout, concatenate([rows.train, rows.train]), fresh)
    assert repeated["nndr"].value == pytest.approx(privacy(rows.holdout, rows.train, fresh)["nndr"].value)


def test_a_few_copies_among_many_wines_are_counted(rows: Split, fresh: list[Wines]) -> None:
    tainted = [concatenate([wines.take(slice(1080)), rows.train.take(slice(120))]) for wines in fresh]
    assert privacy(rows.holdout, rows.train, tainted)["exact_copies"].value == pytest.approx(0.1)


def test_a_wine_with_another_score_is_near_but_not_an_exact_copy(rows: Split) -> None:
    rescored = replace(rows.train, quality=rows.train.quality + 1)
    known = {tuple(row) for row in np.column_stack([rows.train.ticks, rows.train.quality, rows.train.red]).tolist()}
    again = sum(tuple(row) in known for row in np.column_stack([rescored.ticks, rescored.quality, rescored.red]).tolist())
    assert privacy(rows.holdout, rows.train, [rescored])["exact_copies"].value == pytest.approx(again / len(rescored))


def test_shuffled_columns_are_caught_by_detectives_dependence_and_cover(rows: Split, mixed_up: list[Wines], perfect: dict[str, Measure]) -> None:
    measures = likeness(rows.holdout, rows.train, mixed_up)
    assert measures["c2st"].value > 0.8
    assert measures["c2st_excess"].value > 0.3
    assert measures["spearman_gap"].value > 5 * perfect["spearman_gap"].value
    assert measures["coverage"].value < perfect["coverage"].value - 0.3
    assert measures["precision"].value < perfect["precision"].value - 0.3


def test_shuffled_columns_have_the_right_marginals_so_ks_has_no_floor(rows: Split, mixed_up: list[Wines], perfect: dict[str, Measure]) -> None:
    assert likeness(rows.holdout, rows.train, mixed_up)["ks"].value == pytest.approx(perfect["ks"].value)
    assert perfect["ks"].floor is None


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("c2st", 0.07),
        ("c2st_logistic", 0.07),
        ("c2st_excess", 0.07),
        ("ks", 0.03),
        ("spearman_gap", 0.01),
        ("precision", 0.05),
        ("recall", 0.05),
        ("coverage", 0.05),
    ],
)
def test_wines_of_the_same_kind_are_as_good_as_real_ones(perfect: dict[str, Measure], name: str, tolerance: float) -> None:
    assert perfect[name].value == pytest.approx(perfect[name].ceiling, abs=tolerance)


def test_the_ceiling_of_the_excess_is_zero_and_it_is_the_c2st_above_its_own(perfect: dict[str, Measure]) -> None:
    whole, excess = perfect["c2st"], perfect["c2st_excess"]
    assert whole.ceiling is not None
    assert whole.floor is not None
    assert (excess.value, excess.floor, excess.ceiling) == (whole.value - whole.ceiling, whole.floor - whole.ceiling, 0)
    assert excess.spread == whole.spread


def test_wines_of_the_same_kind_teach_as_much_as_real_ones_and_shuffled_columns_nothing(rows: Split, fresh: list[Wines]) -> None:
    measures = teaching(rows.holdout, rows.train, fresh)
    assert measures["tstr_r2"].value == pytest.approx(measures["tstr_r2"].ceiling, abs=0.1)
    assert measures["tstr_ratio"].value > 0.6
    assert measures["tstr_ratio"].ceiling == 1
    assert measures["tstr_r2"].floor is not None
    assert measures["tstr_r2"].floor < 0.05
    assert measures["tstr_qwk"].value > 0.2


def test_a_generator_that_pours_one_wine_only_gets_a_report_that_says_so(rows: Split, fresh: list[Wines]) -> None:
    report = evaluate.report(fresh[0].take(np.zeros(3600, dtype=np.int64)), rows)
    assert report.measures["c2st"].value > 0.95
    assert report.measures["coverage"].value < 0.05
    assert report.measures["recall"].value == 0


# --- how it is measured ---


def test_a_measure_is_the_mean_of_its_stretches_and_their_standard_deviation(fresh: list[Wines]) -> None:
    value = iter([1.0, 2.0, 6.0, 7.0, 9.0, 4.0])
    measures = between(lambda _, __: {"x": next(value)}, fresh, floor=fresh[:2], ceiling=fresh[:1])
    assert measures == {"x": Measure(value=3, spread=7**0.5, floor=8, ceiling=4)}


def test_what_was_not_measured_is_null(fresh: list[Wines]) -> None:
    assert between(lambda _, __: {"x": 1.0}, fresh[:1]) == {"x": Measure(value=1, spread=None, floor=None, ceiling=None)}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 240))
def test_rows_are_drawn_as_pandas_draws_them(few_wines: Wines, seed: int, n: int) -> None:
    expected = pd.DataFrame(few_wines.ticks).sample(n, random_state=seed)
    assert (drawn(few_wines, n, seed=seed).ticks == expected.to_numpy()).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_neither_dependence_nor_marginals(few_wines: Wines, seed: int) -> None:
    real, other = few_wines.take(slice(90)), few_wines.take(slice(90, 240))
    reordered = other.take(np.random.default_rng(seed).permutation(len(other)))
    assert spearman_gap(real, reordered) == pytest.approx(spearman_gap(real, other), abs=1e-12)
    assert ks(real, reordered) == ks(real, other)


def test_the_order_of_rows_changes_no_measure_by_much(rows: Split, fresh: list[Wines], perfect: dict[str, Measure]) -> None:
    reordered = likeness(rows.holdout, rows.train, [wines.take(slice(None, None, -1)) for wines in fresh])
    for name, measure in perfect.items():
        assert reordered[name].value == pytest.approx(measure.value, abs=0.06), name


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(10, 200))
def test_a_table_covers_itself_and_is_no_gap_away(few_wines: Wines, seed: int, n: int) -> None:
    wines = drawn(once(few_wines), n, seed=seed)
    itself = prdc(wines, drawn(wines, n, seed=seed))
    assert (itself["precision"], itself["recall"], itself["coverage"]) == (1, 1, 1)
    assert spearman_gap(wines, wines) == ks(wines, wines) == 0


def test_a_column_that_does_not_vary_is_no_dependence(few_wines: Wines) -> None:
    white = only(few_wines, red=False)
    assert spearman_gap(white, white) == 0
    same_score = replace(white, quality=np.full(len(white), 6))
    assert 0 < spearman_gap(white, same_score) < 1


def test_what_rounding_makes_of_a_constant_column_is_no_variation(few_wines: Wines) -> None:
    ticks = np.repeat(few_wines.ticks[:1], 160, axis=0)  # (160, 11)
    ticks[:, 0] += np.arange(160)  # one column is left that varies
    alike = replace(few_wines.take(np.zeros(160, dtype=np.int64)), ticks=ticks)
    assert (columns(alike).std(axis=0) > 0).sum() > 1  # such is rounding
    assert spearman_gap(alike, few_wines) == 0
    assert (scales(alike) == 1).sum() == 12


def test_a_measurement_is_known_where_any_wine_that_was_trained_on_has_it(rows: Split) -> None:
    half = rows.train.take(slice(None, None, 2))
    assert plausibility(rows.holdout, half, rows.train, known=half)["known_values"].generated < 1
    assert plausibility(rows.holdout, half, rows.train, known=rows.train)["known_values"].generated == 1


def test_each_wine_counts_once_where_it_first_occurs(few_wines: Wines) -> None:
    distinct = once(few_wines)
    again = once(concatenate([distinct, replace(distinct, quality=distinct.quality + 1).take(slice(None, None, -1))]))
    assert np.array_equal(again.ticks, distinct.ticks)
    assert np.array_equal(again.quality, distinct.quality)


def test_a_held_out_wine_that_repeats_is_no_clue_to_the_detectives(rows: Split, fresh: list[Wines], perfect: dict[str, Measure]) -> None:
    repeated = likeness(concatenate([rows.holdout, rows.holdout]), rows.train, fresh)
    assert repeated["c2st"] == perfect["c2st"]


def test_the_same_rows_give_the_same_report(starter_wines: Wines) -> None:
    few, poured = split(starter_wines.take(slice(300)), holdout=0.2, seed=0), starter_wines.take(slice(1000, 1600))
    assert evaluate.report(poured, few) == evaluate.report(poured, few)


# --- what trees make of a wished-for quality ---


def test_every_row_of_a_confusion_sums_to_1(whole: Report) -> None:
    assert set(whole.confusion) == {"all", "white", "red"}
    for table in whole.confusion.values():
        for shares in (table.generated, table.real):
            assert np.shape(shares) == (len(table.qualities), len(table.qualities))
            assert np.sum(shares, axis=1) == pytest.approx(1)


def test_a_confusion_tells_how_many_real_wines_are_behind_a_row(whole: Report, rows: Split) -> None:
    table = whole.confusion["all"]
    unseen = once(rows.train)
    assert table.real_rows == [int((unseen.quality == q).sum()) for q in table.qualities]


def test_real_wines_are_no_gap_away_from_themselves(rows: Split) -> None:
    rated = confusion(rows.holdout, rows.train, [once(rows.train)])
    assert rated is not None
    assert rated[0].gap == rated[1].value == 0
    assert rated[0].generated == rated[0].real


def test_scores_that_mean_nothing_open_a_gap(rows: Split, fresh: list[Wines]) -> None:
    random = np.random.default_rng(0)
    honest = confusion(rows.holdout, rows.train, fresh)
    dishonest = confusion(rows.holdout, rows.train, [replace(wines, quality=random.permutation(wines.quality)) for wines in fresh])
    assert honest is not None
    assert dishonest is not None
    assert dishonest[1].value > 2 * honest[1].value


# --- whether it could be a wine ---


def test_an_impossible_wine_is_found_by_the_rule_that_it_breaks(rows: Split, fresh: list[Wines]) -> None:
    ticks = fresh[0].ticks.copy()  # (1200, 11)
    ticks[:600, FREE_SO2] = ticks[:600, TOTAL_SO2] + 1
    ticks[:300, DENSITY] += round(0.01 * COLUMNS[DENSITY].scale)
    ticks[:120, 0] = -1
    before, rates = (plausibility(rows.holdout, rows.train, wines, known=rows.train) for wines in (fresh[0], replace(fresh[0], ticks=ticks)))
    assert (before["free_within_total"].generated, rates["free_within_total"].generated) == (1, 0.5)
    assert (before["within_bounds"].generated, rates["within_bounds"].generated) == (1, 0.9)
    assert rates["density_explained"].generated < before["density_explained"].generated - 0.2
    assert rates["known_values"].generated <= 0.9 * before["known_values"].generated + 0.1
    assert rates["near_real_wines"].generated < before["near_real_wines"].generated


def test_wines_of_the_same_kind_are_as_plausible_as_held_out_ones(rows: Split, fresh: list[Wines]) -> None:
    for name, rate in plausibility(rows.holdout, rows.train, concatenate(fresh), known=rows.train).items():
        assert rate.generated == pytest.approx(rate.real, abs=0.06), name
        assert rate.real > 0.95 or name == "known_values"


# --- what a judge's word is worth ---


def test_a_judge_that_knows_is_told_from_one_that_guesses(rows: Split, fresh: list[Wines]) -> None:
    real = {tuple(row) for row in rows.holdout.ticks.tolist()}
    random = np.random.default_rng(0)
    knows = discernment(
        Judge(lambda wines: np.array([2.0 if tuple(row) in real else -2.0 for row in wines.ticks.tolist()])), rows.holdout, rows.train, fresh[0]
    )
    guesses = discernment(Judge(lambda wines: random.normal(size=len(wines))), rows.holdout, rows.train, fresh[0])
    assert knows.auc == knows.auc_shuffled == 1
    assert knows.brier < 0.001
    assert guesses.auc == pytest.approx(0.5, abs=0.08)
    assert guesses.brier == pytest.approx(0.25, abs=0.01)


def test_a_judge_that_is_always_wrong_is_calibrated_to_say_nothing(rows: Split, fresh: list[Wines]) -> None:
    real = {tuple(row) for row in rows.holdout.ticks.tolist()}
    wrong = discernment(
        Judge(lambda wines: np.array([-2.0 if tuple(row) in real else 2.0 for row in wines.ticks.tolist()])), rows.holdout, rows.train, fresh[0]
    )
    assert (wrong.auc, wrong.auc_shuffled, wrong.brier) == (0, 0, 0.25)
    assert [(part.predicted, part.observed) for part in wrong.reliability] == [(0.5, 0.5)]


def test_a_calibration_made_elsewhere_is_judged_on_the_rows_that_it_is_about(rows: Split, fresh: list[Wines]) -> None:
    logits = partial(_strength, rows.holdout)
    right, loud = (Calibration(slope=slope, intercept=0, rows=1, in_sample=False) for slope in (1.0, 9.0))
    others = fresh[1]
    found, shouted = (discernment(Judge(logits, calibration, others), rows.holdout, rows.train, fresh[0]) for calibration in (right, loud))
    assert found.auc == shouted.auc
    assert found.brier < shouted.brier


def _strength(real: Wines, wines: Wines) -> Floats:
    """Logits of a judge that is right as often as it says: real wines at 1, three in four of them, others at -1 likewise."""
    known = {tuple(row) for row in real.ticks.tolist()}
    sign = np.array([1.0 if tuple(row) in known else -1.0 for row in wines.ticks.tolist()])
    return sign * np.where(np.random.default_rng(0).random(len(wines)) < 0.73, 1.0, -1.0)


def test_reliability_has_ten_parts_of_about_as_many_rows(whole: Report, rows: Split) -> None:
    parts = whole.judges["strength"].reliability
    assert 1 < len(parts) <= 10
    assert sum(part.rows for part in parts) == 2 * len(once(rows.holdout))
    assert [part.predicted for part in parts] == sorted(part.predicted for part in parts)


# --- the whole report ---


def test_a_report_is_about_all_wines_each_type_and_each_quality_with_enough_of_them(whole: Report, rows: Split) -> None:
    assert (
        whole.measures.keys() >= {"c2st", "c2st_excess", "c2st_logistic", "spearman_gap", "ks", "coverage", "tstr_r2", "tstr_ratio", "confusion_gap"} | PRIVACY
    )
    assert set(whole.by_type) == {"white", "red"}
    held = once(rows.holdout)
    assert set(whole.by_quality) == {q for q in range(11) if (held.quality == q).sum() >= 30}
    for measures in (*whole.by_type.values(), whole.by_quality[6]):
        assert measures.keys() >= {"c2st", "c2st_excess", "spearman_gap", "coverage"}
    assert whole.rows == len(held)


def test_a_report_names_what_it_left_out(whole: Report) -> None:
    (note,) = (note for note in whole.notes if note.startswith("not measured by themselves, fewer than 30"))
    assert note.endswith("quality 9")


def test_a_report_survives_its_way_through_a_bundle(whole: Report) -> None:
    assert Report.model_validate_json(whole.model_dump_json()) == whole


def test_progress_rises_to_the_whole(heard: tuple[Report, list[float]]) -> None:
    shares = heard[1]
    assert shares == sorted(shares)
    assert len(shares) > 8
    assert shares[-1] == 1


@pytest.mark.parametrize(("real", "poured"), [(2, 3), (40, 3000), (1000, 60)])
def test_too_few_wines_give_a_note_and_no_number(starter_wines: Wines, real: int, poured: int) -> None:
    report = evaluate.report(starter_wines.take(slice(2000, 2000 + poured)), split(starter_wines.take(slice(real)), holdout=0.2, seed=0))
    assert not any((report.measures, report.by_type, report.by_quality, report.confusion, report.plausibility, report.judges))
    assert "fewer than 30 different wines held out, trained on or poured at a time: nothing was measured" in report.notes


def test_one_wine_many_times_is_one_wine(starter_wines: Wines) -> None:
    one = starter_wines.take(np.zeros(500, dtype=np.int64))
    assert evaluate.report(one, Split(one, one)).measures == {}


def test_a_dataset_of_one_type_is_measured(starter_wines: Wines) -> None:
    white = only(starter_wines, red=False)
    report = evaluate.report(white.take(slice(1000, 2500)), split(white.take(slice(500)), holdout=0.2, seed=0))
    assert set(report.by_type) == set(report.confusion) - {"all"} == {"white"}
    assert all(np.isfinite(measure.value) for measure in report.measures.values())


def test_a_dataset_of_one_score_teaches_nothing_and_says_so(starter_wines: Wines) -> None:
    six = only(starter_wines, quality=6)
    report = evaluate.report(six.take(slice(1000, 2500)), split(six.take(slice(500)), holdout=0.2, seed=0))
    assert "all held-out wines have one score: there is nothing to learn from generated ones" in report.notes
    assert report.confusion == {}
    assert not any(name.startswith("tstr") for name in report.measures)
    assert report.measures["c2st"].value < 0.7


def test_scores_that_mean_nothing_give_no_ratio(rows: Split, fresh: list[Wines]) -> None:
    random = np.random.default_rng(0)
    blind = Split(*(replace(side, quality=random.permutation(side.quality)) for side in (rows.train, rows.holdout)))
    assert set(teaching(blind.holdout, blind.train, fresh)) == {"tstr_r2", "tstr_qwk"}


def test_without_holdout_the_report_is_in_sample_and_only_exact_copies_are_counted(rows: Split, fresh: list[Wines]) -> None:
    train = rows.train.take(slice(None, None, 3))
    poured = concatenate([fresh[0].take(slice(800)), train, fresh[1].take(slice(800))])
    report = evaluate.report(poured, Split(train, train.take(slice(0))))
    assert report.in_sample
    assert report.notes[0] == "no row was held out: measured on the training rows themselves, so it flatters the model"
    assert PRIVACY & report.measures.keys() == {"exact_copies"}
    assert report.measures["exact_copies"].value == pytest.approx(1 / 5)  # the middle one of five stretches
    assert report.measures["exact_copies"].ceiling is None


def test_more_wines_than_can_be_compared_are_sampled_and_the_report_says_so(rows: Split, fresh: list[Wines], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "MAX_ROWS", 500)
    report = evaluate.report(concatenate(fresh), rows)
    assert f"measured on 500 random rows of 1500; copies were looked for among all {len(rows.train)} training rows" in report.notes
    assert 90 <= report.rows <= 100


@pytest.mark.parametrize("held_out", [True, False])
def test_a_copier_of_more_wines_than_can_be_compared_is_caught_in_full(rows: Split, monkeypatch: pytest.MonkeyPatch, held_out: bool) -> None:
    monkeypatch.setattr(evaluate, "MAX_ROWS", 400)
    real = rows if held_out else Split(rows.train, rows.train.take(slice(0)))
    report = evaluate.report(bootstrap(rows.train, 1500, seed=1), real)
    assert report.in_sample is not held_out
    for measures in (report.measures, report.by_type["white"]):
        assert {name: measures[name].value for name in ("exact_copies", "near_copies") if name in measures} == (
            {"exact_copies": 1, "near_copies": 1} if held_out else {"exact_copies": 1}
        )


def test_poured_wines_that_repeat_are_no_clue_to_the_detectives(rows: Split, fresh: list[Wines]) -> None:
    pool = fresh[0].take(slice(300))
    stretches = [bootstrap(pool, 1200, seed=seed) for seed in range(3)]
    c2st = likeness(rows.holdout, rows.train, stretches)["c2st"].value
    assert abs(c2st - likeness(rows.holdout, rows.train, fresh)["c2st"].value) < 0.06  # with every repeat counted, above .9
