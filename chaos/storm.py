"""Faults at random, then rest, then the promises."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from app.db import UNAVAILABLE
from chaos import promises
from chaos.asker import Asker
from chaos.faults import Fault, faults_of
from chaos.house import House, Never, furnished, wait_for
from chaos.stores import Store

BETWEEN_S = 0.0, 3.0


@dataclass(frozen=True)
class Report:
    """What a storm left: how many of which faults, how the jobs ended, and every promise that was broken."""

    faults: Counter[str]
    ends: Counter[str]
    failures: int
    answers: int
    problems: int
    seconds: float
    broken: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.faults.total()} faults in {self.seconds:.0f} s: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
            "jobs: " + ", ".join(f"{state} {count}" for state, count in sorted(self.ends.items())) + f"; failures spent: {self.failures}",
            f"the API: {self.answers} answers, {self.problems} of them problems",
            *(f"BROKEN: {sentence}" for sentence in self.broken),
        ]
        return "\n".join(lines)


def storm(store: Store, folder: Path, *, seed: str, rounds: int, workers: int, quick_jobs: int, rest_s: float, tell: Callable[[str], None]) -> Report:
    """``rounds`` faults drawn by the seed, on so many workers and jobs, which then have ``rest_s`` to come to an end."""
    random, begun = Random(seed), time.monotonic()
    with furnished(store, folder, workers=workers, quick_jobs=quick_jobs) as house:
        asker = Asker(house)
        asker.start()
        fates = _fates(random, faults_of(house), rounds)
        for number, fault in enumerate(fates, 1):
            time.sleep(random.uniform(*BETWEEN_S))
            tell(f"{number}/{rounds} {fault.__name__}")
            fault(house, random)
            house.mend()
            for promise in promises.ALWAYS:
                with suppress(*UNAVAILABLE):  # our own connection was cut as well
                    house.broken += promise(house)
        _rest(house, rest_s, tell)
        asker.stop()
        for promise in promises.AT_REST:
            house.broken += [f"{promise.__name__}: {sentence}" for sentence in promise(house)]
        ended = house.jobs()
        house.stop()
        house.broken += promises.nothing_is_left_of_a_house_that_was_stopped(house)
    return Report(
        Counter(fault.__name__ for fault in fates),
        Counter(job.state for job in ended),
        sum(job.failures for job in ended),
        asker.answers,
        asker.problems,
        time.monotonic() - begun,
        tuple(house.broken),
    )


def _fates(random: Random, faults: Sequence[Fault], rounds: int) -> list[Fault]:
    """So many, none twice before each came once."""
    drawn: list[Fault] = []
    while len(drawn) < rounds:
        drawn += random.sample(faults, len(faults))
    return drawn[:rounds]


def _rest(house: House, rest_s: float, tell: Callable[[str], None]) -> None:
    tell("rest")
    try:
        wait_for(lambda: all(job.finished_at is not None for job in house.jobs()), "every job to end", timeout_s=rest_s)
    except Never as never:
        house.broken.append(str(never))
    house.mend()
