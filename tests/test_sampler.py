"""A model is an infinite table: a row is the same however it is asked for, and its labels are those of the training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app import codec
from app.bundle import GENERATOR, POOL, Bundle
from app.errors import Conflict, InvalidInput
from app.inference import session
from app.noise import MAX_ROW, MAX_SEED
from app.params import GanParams
from app.sampler import BLOCK, Condition, Sampler
from app.wine import FREE_SO2, HIGH_TICKS, LOW_TICKS, TOTAL_SO2, Wines, concatenate
from tests.conftest import csv_of, tiny_params
from worker import export
from worker.methods import gan
from worker.nets import Generator
from worker.training import Metrics, Trained, TrainingSet

SEEDS = st.integers(0, MAX_SEED)
LABELS = {"white": {5: 300, 6: 600}, "red": {3: 10, 5: 100, 7: 60}}
ALL = Condition()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sampler(tiny: Bundle) -> Sampler:
    return Sampler(tiny)


@pytest.fixture(scope="module")
def plain(tiny: Bundle) -> Bundle:
    """A model whose generator is its latents alone, u = sigmoid(latent), with labels that are known."""
    return replace(tiny, manifest=tiny.manifest.model_copy(update={"labels": LABELS, "latent": 16}), parts={**tiny.parts, GENERATOR: _latents_alone()})


@pytest.fixture(scope="module")
def plain_sampler(plain: Bundle) -> Sampler:
    return Sampler(plain)


def pour(sampler: Sampler, condition: Condition = ALL, *, seed: int = 0, offset: int = 0, n: int) -> Wines:
    """The rows asked for, as one table."""
    return sampler.wines(condition, seed=seed, offset=offset, n=n)


def wines_of(wines: Wines, quality: int, *, red: bool, n: int) -> Wines:
    """``n`` of the wines, with these labels."""
    return replace(wines.take(slice(n)), quality=np.full(n, quality), red=np.full(n, red))


def same(one: Wines, other: Wines) -> bool:
    """Whether two tables are equal, row by row and bit by bit."""
    return np.array_equal(one.ticks, other.ticks) and np.array_equal(one.quality, other.quality) and np.array_equal(one.red, other.red)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Any condition that the training data of ``tiny`` can meet: white wine of quality 5 is always among it."""
    qualities = draw(st.sampled_from([(), (5,), (5, 7), (7, 5, 5), (4, 5, 6, 7, 8)]))
    return Condition(qualities=qualities, types=draw(st.sampled_from([(), ("white",), ("red",), ("red", "white")])))


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, condition=conditions(), start=st.integers(0, 2**40), part=st.tuples(st.integers(0, 1100), st.integers(1, 700)))
def test_rows_equal_those_of_any_larger_range(sampler: Sampler, seed: int, condition: Condition, start: int, part: tuple[int, int]) -> None:
    offset, n = part
    large = pour(sampler, condition, seed=seed, offset=start, n=1800)
    assert same(pour(sampler, condition, seed=seed, offset=start + offset, n=n), large.take(slice(offset, offset + n)))


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, condition=conditions(), offset=st.integers(0, MAX_ROW - 20), n=st.integers(1, 12))
def test_rows_asked_for_one_by_one_are_the_same_rows(sampler: Sampler, seed: int, condition: Condition, offset: int, n: int) -> None:
    singles = [pour(sampler, condition, seed=seed, offset=offset + i, n=1) for i in range(n)]
    assert same(concatenate(singles), pour(sampler, condition, seed=seed, offset=offset, n=n))


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, pages=st.lists(st.integers(1, 700), min_size=1, max_size=5))
def test_pages_of_any_sizes_put_together_are_the_table(sampler: Sampler, seed: int, pages: list[int]) -> None:
    starts = np.cumsum([0, *pages]).tolist()
    parts = [pour(sampler, seed=seed, offset=start, n=n) for start, n in zip(starts, pages, strict=False)]
    assert same(concatenate(parts), pour(sampler, seed=seed, n=starts[-1]))


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, condition=conditions(), offset=st.integers(0, 2000), n=st.integers(1, 1500))
def test_exactly_as_many_rows_come_as_were_asked_for_and_no_piece_is_empty_or_too_large(
    sampler: Sampler, seed: int, condition: Condition, offset: int, n: int
) -> None:
    sizes = [len(block.wines) for block in sampler.blocks(condition, seed=seed, offset=offset, n=n)]
    assert sum(sizes) == n
    assert min(sizes) > 0
    assert max(sizes) <= BLOCK


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, condition=conditions())
def test_every_row_meets_the_condition(sampler: Sampler, seed: int, condition: Condition) -> None:
    wines = pour(sampler, condition, seed=seed, n=100)
    assert np.isin(wines.quality, condition.qualities or range(11)).all()
    assert np.isin(np.where(wines.red, "red", "white"), condition.types or ("red", "white")).all()


def test_another_seed_is_another_table(sampler: Sampler) -> None:
    assert not same(pour(sampler, seed=1, n=100), pour(sampler, seed=2, n=100))


def test_a_row_is_made_from_the_same_latent_whatever_the_quality(plain_sampler: Sampler) -> None:
    at_5, at_7 = (pour(plain_sampler, Condition(qualities=(quality,), types=("red",)), n=1000) for quality in (5, 7))
    assert np.array_equal(at_5.ticks, at_7.ticks)


@pytest.mark.parametrize("kind", ["red", "white"])
def test_a_type_asked_for_stays_at_every_quality(sampler: Sampler, kind: str) -> None:
    for quality in (5, 6):
        wines = pour(sampler, Condition(qualities=(quality,), types=(kind,)), n=600)
        assert (wines.red == (kind == "red")).all()
        assert (wines.quality == quality).all()


def test_a_trained_generator_listens_to_the_quality(starter: Bundle) -> None:
    sampler = Sampler(starter)
    alcohol = [pour(sampler, Condition(qualities=(quality,), types=("white",)), n=512).measurements()[:, 10].mean() for quality in (5, 8)]
    assert alcohol[1] > alcohol[0] + 0.5


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (ALL, {("white", 5): 300, ("white", 6): 600, ("red", 3): 10, ("red", 5): 100, ("red", 7): 60}),
        (Condition(qualities=(5,)), {("white", 5): 300, ("red", 5): 100}),
        (Condition(types=("red",)), {("red", 3): 10, ("red", 5): 100, ("red", 7): 60}),
        (Condition(qualities=(3, 6)), {("white", 6): 600, ("red", 3): 10}),
        (Condition(qualities=(7,), types=("red",)), {("red", 7): 60}),
    ],
)
def test_labels_come_in_the_mix_of_the_training_rows_that_the_condition_leaves(
    plain_sampler: Sampler, condition: Condition, expected: dict[tuple[str, int], int]
) -> None:
    wines = pour(plain_sampler, condition, seed=3, n=20_000)
    found = Counter(zip(np.where(wines.red, "red", "white").tolist(), wines.quality.tolist(), strict=True))
    assert found.keys() == expected.keys()
    share = 20_000 / sum(expected.values())
    chi_squared = sum((found[label] - rows * share) ** 2 / (rows * share) for label, rows in expected.items())
    assert chi_squared < 15  # of at most four degrees of freedom: p < 0.005


def test_a_quality_that_a_type_does_not_have_is_refused_by_name(plain_sampler: Sampler) -> None:
    with pytest.raises(InvalidInput, match="the training data hold no wine of quality 6 among red wines") as refused:
        plain_sampler.check(Condition(qualities=(5, 6), types=("red",)))
    (fault,) = refused.value.faults
    assert fault.pointer == "/query/quality"
    assert fault.expected == "one that is there (white: 5, 6; red: 3, 5, 7)"
    assert fault.found == "6"


def test_every_quality_that_nobody_has_is_named(plain_sampler: Sampler) -> None:
    with pytest.raises(InvalidInput, match=r"the training data hold no wine of quality 4, 9$"):
        plain_sampler.check(Condition(qualities=(4, 5, 9)))


def test_a_type_that_training_did_not_hold_is_refused_by_name(plain: Bundle) -> None:
    white = replace(plain, manifest=plain.manifest.model_copy(update={"labels": {"white": {5: 300}, "red": {}}}))
    with pytest.raises(InvalidInput, match="the training data hold no wine of type red") as refused:
        Sampler(white).check(Condition(types=("red",)))
    (fault,) = refused.value.faults
    assert (fault.pointer, fault.expected, fault.found) == ("/query/type", "one that is there (white: 5)", "red")


@pytest.mark.parametrize(
    ("condition", "notes"),
    [
        (Condition(qualities=(3,)), ["quality 3 rests on 10 training rows only"]),
        (Condition(qualities=(3, 5, 7)), ["quality 3 rests on 10 training rows only"]),
        (Condition(qualities=(5, 6)), []),
        (Condition(types=("red",)), []),
        (ALL, []),
    ],
)
def test_a_rare_quality_that_was_asked_for_is_served_with_a_warning(plain_sampler: Sampler, condition: Condition, notes: list[str]) -> None:
    assert plain_sampler.check(condition) == notes


def test_a_quality_of_which_few_wines_were_made_in_advance_is_served_with_a_warning(plain: Bundle, few_wines: Wines) -> None:
    made = concatenate([wines_of(few_wines, 5, red=False, n=49), wines_of(few_wines, 5, red=True, n=1), wines_of(few_wines, 6, red=False, n=49)])
    parts = {name: part for name, part in plain.parts.items() if name != GENERATOR} | {POOL: csv_of(made)}
    pooled = Sampler(replace(plain, manifest=plain.manifest.model_copy(update={"pool": 99}), parts=parts))
    assert pooled.check(Condition(qualities=(5, 6))) == ["only 49 wines of quality 6 were made in advance; they come again and again"]
    assert pooled.check(Condition(qualities=(5,), types=("white",))) == ["only 49 wines of quality 5 were made in advance; they come again and again"]
    assert pooled.check(ALL) == []


@pytest.mark.parametrize("model", ["tiny", "starter"])
@settings(deadline=None, max_examples=8)
@given(seed=SEEDS, condition=conditions())
def test_served_wines_lie_inside_the_bounds_with_free_within_total(request: pytest.FixtureRequest, model: str, seed: int, condition: Condition) -> None:
    wines = pour(Sampler(request.getfixturevalue(model)), condition, seed=seed, n=BLOCK)
    assert wines.ticks.dtype == np.int32
    assert (wines.ticks >= LOW_TICKS).all()
    assert (wines.ticks <= HIGH_TICKS).all()
    assert (wines.ticks[:, FREE_SO2] <= wines.ticks[:, TOTAL_SO2]).all()


def test_a_model_without_a_generator_is_a_conflict(tiny: Bundle) -> None:
    classifier = replace(
        tiny,
        manifest=tiny.manifest.model_copy(update={"method": "classifier"}),
        parts={name: part for name, part in tiny.parts.items() if name != GENERATOR},
    )
    with pytest.raises(Conflict, match=f"model {tiny.id} was trained by method 'classifier', which does not generate wines"):
        Sampler(classifier)


@dataclass
class Quiet:
    """A run that nobody watches."""

    device: torch.device = CPU
    seed: int = 0
    resume: bytes | None = None
    classifier: bytes | None = None

    def tick(self, step: int, steps: int, *, metrics: Callable[[], Metrics], state: Callable[[], bytes] | None) -> None:
        """Nobody asks."""


@pytest.fixture(scope="module")
def trained(few_wines: Wines) -> Trained:
    """Tiny networks, a discriminator of each kind among them, trained a little."""
    rows = TrainingSet(few_wines, codec.fit(few_wines), CPU)
    return gan.train(rows, GanParams.model_validate(tiny_params("gan") | {"discriminators": 2}), Quiet())


ROWS = (1, 3, 512)


def test_the_exported_generator_equals_the_trained_one(trained: Trained) -> None:
    assert trained.source is not None
    graph = session(export.generator_graph(trained.source))
    for latent, condition in _inputs(trained.source.latent, turns=trained.source.turns):
        (u,) = graph.run(None, {"latent": latent.numpy(), "condition": condition.numpy()})
        with torch.no_grad():
            expected = torch.special.ndtr(trained.source(latent, condition)).numpy()
        assert u.shape == (len(latent), 11)
        np.testing.assert_allclose(u, expected, atol=1e-5)


def test_blocks_between_the_first_and_the_last_are_exported_as_they_are() -> None:
    torch.manual_seed(0)
    net = Generator(latent=16, channels=5, blocks=3, hidden=16).eval()
    graph = session(export.graph(net, {"latent": 16, "condition": 8}, "fields"))
    for latent, condition in _inputs(16):
        (fields,) = graph.run(None, {"latent": latent.numpy(), "condition": condition.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(fields, net(latent, condition).numpy(), atol=1e-5)


def test_the_exported_discriminators_equal_the_trained_ones(trained: Trained) -> None:
    assert trained.discriminator is not None
    graph = session(export.discriminator_graph(trained.discriminator))
    for fields, condition in _inputs(11):
        (logit,) = graph.run(None, {"fields": fields.numpy(), "condition": condition.numpy()})
        with torch.no_grad():
            expected = trained.discriminator(fields, condition).numpy()
        assert logit.shape == (len(fields),)
        np.testing.assert_allclose(logit, expected, atol=1e-5)


def test_the_exported_classifier_equals_the_trained_one(trained: Trained) -> None:
    assert trained.classifier is not None
    graph = session(export.classifier_graph(trained.classifier))
    for fields, condition in _inputs(11):
        (logits,) = graph.run(None, {"fields": fields.numpy(), "condition": condition.numpy()})
        with torch.no_grad():
            expected = trained.classifier(fields, condition).numpy()
        assert logits.shape == (len(fields), 11)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def _inputs(width: int, *, turns: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Normal rows of this width with conditions, at several batch sizes, each a multiple of ``turns``."""
    random = np.random.default_rng(0)
    return [
        (
            torch.from_numpy(random.standard_normal((rows, width)).astype(np.float32)),
            torch.from_numpy(codec.condition(random.integers(3, 9, rows), random.random(rows) < 0.5)),
        )
        for rows in (turns * rows for rows in ROWS)
    ]


def _latents_alone() -> bytes:
    """ONNX: u = sigmoid of the first 11 of 16 latents; the condition comes in and is not looked at."""
    node, tensor, value = onnx.helper.make_node, onnx.numpy_helper.from_array, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node("MatMul", ["latent", "first"], ["x"]), node("Sigmoid", ["x"], ["u"])],
        "latents alone",
        [value("latent", onnx.TensorProto.FLOAT, ["rows", 16]), value("condition", onnx.TensorProto.FLOAT, ["rows", 8])],
        [value("u", onnx.TensorProto.FLOAT, ["rows", 11])],
        [tensor(np.eye(16, 11, dtype=np.float32), "first")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
