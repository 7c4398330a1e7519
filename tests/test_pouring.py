"""The pouring thread: what it pours ahead goes to one asker, and never before somebody who waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from fastapi import Response

from app.api.pouring import SHELVES, Ahead, Pouring


@pytest.fixture
def pouring() -> Iterator[Pouring]:
    with closing(Pouring()) as made:
        yield made


class Maker:
    """Makes numbered answers."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Response:
        self.made += 1
        return Response(str(self.made))


def ask(pouring: Pouring, ahead: Ahead, kind: str, make: Callable[[], Response]) -> bytes:
    """The body that somebody gets, once all that this sets off is done."""
    answer = asyncio.run(sent(ahead, kind, make))
    settle(pouring)
    return bytes(answer.body)


async def sent(ahead: Ahead, kind: str, make: Callable[[], Response]) -> Response:
    """The answer, after which comes what was to be done once it is sent."""
    answer = await ahead.answer(kind, make)
    if answer.background is not None:
        await answer.background()
    return answer


def settle(pouring: Pouring) -> None:
    """Waits until the thread has nothing to do, without asking it for anything."""
    done = threading.Event()
    pouring.later(done.set)
    assert done.wait(10)


def test_what_is_asked_for_again_is_poured_ahead_and_each_answer_goes_to_one(pouring: Pouring) -> None:
    ahead, make = Ahead(pouring, keep=2), Maker()
    assert (ask(pouring, ahead, "7", make), make.made) == (b"1", 1)  # who asks once costs nothing more
    assert (ask(pouring, ahead, "7", make), make.made) == (b"2", 4)
    assert (ask(pouring, ahead, "7", make), make.made) == (b"3", 5)
    assert (ask(pouring, ahead, "7", make), make.made) == (b"4", 6)


def test_kinds_do_not_mix(pouring: Pouring) -> None:
    ahead, seven, eight = Ahead(pouring, keep=2), Maker(), Maker()
    for k in range(1, 4):
        assert [ask(pouring, ahead, "7", seven), ask(pouring, ahead, "8", eight)] == [str(k).encode()] * 2


def test_nothing_is_poured_ahead_where_none_are_to_be_kept(pouring: Pouring) -> None:
    ahead, make = Ahead(pouring, keep=0), Maker()
    assert [(ask(pouring, ahead, "7", make), make.made) for _ in range(3)] == [(b"1", 1), (b"2", 2), (b"3", 3)]


def test_only_the_kinds_asked_for_last_are_kept(pouring: Pouring) -> None:
    ahead, make = Ahead(pouring, keep=1), Maker()
    for kind in ["first", "first", *map(str, range(SHELVES))]:
        ask(pouring, ahead, kind, make)
    before = make.made
    assert ask(pouring, ahead, "first", make) == str(before + 1).encode()


def test_who_asks_while_answers_are_poured_ahead_waits_for_one_of_them_at_most(pouring: Pouring) -> None:
    ahead, begun, go = Ahead(pouring, keep=5), threading.Event(), threading.Event()
    made: list[Response] = []

    def make() -> Response:
        if len(made) == 2:  # the first that is poured ahead
            begun.set()
            assert go.wait(10)
        made.append(Response("wine"))
        return made[-1]

    async def somebody() -> int:
        for _ in range(2):
            await sent(ahead, "7", make)
        assert await asyncio.to_thread(begun.wait, 10)
        asked = asyncio.ensure_future(pouring.run(lambda: len(made)))
        await asyncio.sleep(0)  # it is in line now
        go.set()
        return await asked

    assert asyncio.run(somebody()) == 3
    settle(pouring)
    assert len(made) == 3  # the others are poured when the next asks


def test_who_leaves_before_it_is_his_turn_waits_no_longer(pouring: Pouring) -> None:
    go = threading.Event()

    async def leaving() -> None:
        held = asyncio.ensure_future(pouring.run(lambda: go.wait(10)))
        left = asyncio.ensure_future(pouring.run(lambda: None))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        go.set()
        await held

    asyncio.run(leaving())
    assert pouring.idle


def test_what_fails_ahead_is_logged_and_told_to_whoever_asks_next(pouring: Pouring, caplog: pytest.LogCaptureFixture) -> None:
    ahead, casks = Ahead(pouring, keep=1), ["wine", "wine"]

    def make() -> Response:
        if not casks:
            raise RuntimeError("the cask leaks")
        return Response(casks.pop())

    assert [ask(pouring, ahead, "7", make) for _ in range(2)] == [b"wine"] * 2
    assert "poured ahead" in caplog.text
    with pytest.raises(RuntimeError, match="the cask leaks"):
        ask(pouring, ahead, "7", make)


def test_nothing_is_poured_ahead_before_the_answer_is_sent(pouring: Pouring) -> None:
    ahead, make = Ahead(pouring, keep=2), Maker()
    ask(pouring, ahead, "7", make)
    answer = asyncio.run(ahead.answer("7", make))
    settle(pouring)
    assert make.made == 2
    assert answer.background is not None
    asyncio.run(answer.background())
    settle(pouring)
    assert make.made == 4
