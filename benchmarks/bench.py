"""What serving costs, beside what it could cost at least: ``make bench`` prints a table and writes build/bench.json.

Every figure is a ratio of two costs measured in turn, in one run, on one machine; costs are CPU time unless said. The
API is a process of its own, asked over HTTP; what it is held against runs here. Nothing leaves 127.0.0.1.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch

from app import codec, noise, registry
from app.bundle import CLASSIFIER, CRITIC, DISCRIMINATOR, GENERATOR, Bundle, unpack
from app.formats import to_csv
from app.inference import session
from app.sampler import BLOCK, Condition, Sampler
from worker import export

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 30  # of each pair of costs, in turn; the median counts
WARM_UP = 5
MANY = 1_000_000  # rows of a stream
CLIENTS, ASKED_BY_EACH = 64, 24  # long enough for some 170 looks at health: of fewer than a hundred the 99th percentile is the worst
PAUSE_S = 0.02  # in which others could pour, or ask
STEP_S = 0.005  # between looks at a process's memory
ORIGINAL = 40, 384, 384, 384, 11  # widths of the perceptron that the generator is held against


@dataclass(frozen=True)
class Line:
    """One line of the table; ``ratio`` is ours over the other's, or the other way round where ``at_least``."""

    work: str
    against: str
    ratio: float
    target: float
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def main() -> int:
    """Measures everything; exit status 0 also where a target is missed, for a busy machine is no failure."""
    torch.set_num_threads(1)
    bundle = unpack(registry.starter_bytes())
    with served("app.main") as api, served("benchmarks.naive") as slow, served("benchmarks.empty") as nothing, served("benchmarks.ready") as ready:
        lines = [*requests(api, slow, bundle), *ahead(api, ready), *streams(api, bundle), *scores(api, nothing, bundle), *crowd(api), *networks(bundle)]
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps([vars(line) | {"met": line.met} for line in lines], indent=1) + "\n")
    print(table(lines))
    return 0


def table(lines: list[Line]) -> str:
    """As Markdown."""
    rows = ["| work | measured against | ratio | target | |", "|---|---|---:|---:|---|"]
    for line in lines:
        sign = ">=" if line.at_least else "<="
        verdict = "; ".join(["yes" if line.met else "**no**", *([line.note] if line.note else [])])
        rows.append(f"| {line.work} | {line.against} | {line.ratio:.2f} | {sign} {line.target:g} | {verdict} |")
    return "\n".join(rows)


@dataclass(frozen=True)
class Server:
    """A served process: a client of it, and the CPU that it has used."""

    client: httpx.Client
    process: psutil.Process

    def cpu(self) -> float:
        """Seconds, in whole ticks of ten milliseconds: what is measured must take many of them."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def served(module: str) -> Iterator[Server]:
    """A process that serves on a port of its own; an API also on a database of its own with the starter model in it."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        plain = {name: value for name, value in os.environ.items() if not name.startswith("CUVEE_")}
        environment = plain | {"CUVEE_DATABASE_URL": f"sqlite:///{folder}/cuvee.db", "CUVEE_PORT": str(port), "CUVEE_LOG_LEVEL": "warning"}
        subprocess.run([sys.executable, "-m", "app.cli", "migrate"], env=environment, check=True, cwd=ROOT, capture_output=True)
        process = subprocess.Popen([sys.executable, "-m", module], env=environment, cwd=ROOT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, headers={"Accept-Encoding": "identity"}) as client:
                _wait_for(client)
                yield Server(client, psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def _wait_for(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            client.get("/healthz")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise SystemExit("bench: the API did not start within 30 s")


def cost(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """CPU seconds of one call."""
    start = clock()
    work()
    return clock() - start


def turns(*costs: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """The median of each cost, all of them measured in turn."""
    found = [[one() for one in costs] for _ in range(WARM_UP + rounds)][WARM_UP:]
    return [statistics.median(column) for column in zip(*found, strict=True)]


def requests_cost(server: Server, path: Callable[[int], str], *, number: int, **posted: Any) -> Callable[[], float]:
    """CPU seconds of the server for one request, the mean over so many; ``posted``: what httpx takes to post one, nothing to get it."""
    count = iter(range(10**9))

    def measured() -> float:
        start = server.cpu()
        for _ in range(number):
            answer = server.client.request("POST" if posted else "GET", path(next(count)), **posted)
            answer.raise_for_status()
        return (server.cpu() - start) / number

    return measured


def requests(api: Server, slow: Server, bundle: Bundle) -> list[Line]:
    """One request for 500 rows of quality 7."""
    graph, latent = session(bundle.parts[GENERATOR]), bundle.manifest.latent
    condition = codec.condition(np.full(BLOCK, 7), np.zeros(BLOCK, dtype=bool))

    seeds = itertools.count(10**6)

    def forward() -> object:
        return graph.run(None, {"latent": noise.draw(next(seeds), 0, BLOCK, dims=latent).latent, "condition": condition})

    ours = requests_cost(api, lambda k: f"/samples?n=500&quality=7&seed={k}", number=200)
    theirs = requests_cost(slow, lambda k: f"/samples?n=500&quality=7&seed={k}", number=20)
    full, alone, reference = turns(ours, lambda: cost(lambda: [forward() for _ in range(20)]) / 20, theirs, rounds=12)
    return [
        Line("/samples?n=500&quality=7, JSON, a whole request", "forward pass and noise of the same rows", full / alone, 1.3),
        Line("the same", "eager torch, per-column inverse, rejection, pydantic response: times as cheap", reference / full, 6, at_least=True),
    ]


def ahead(api: Server, ready: Server) -> list[Line]:
    """The same request without a seed, now and then, as whoever asks again and again sees it (wall)."""
    asked = "/samples?n=500&quality=7"

    def waited(server: Server) -> Callable[[], float]:
        def measured() -> float:
            time.sleep(PAUSE_S)
            return cost(lambda: server.client.get(asked).raise_for_status(), time.perf_counter)

        return measured

    ours, theirs = turns(waited(api), waited(ready), rounds=100)
    return [Line("the same without a seed, poured ahead (wall)", "the same bytes ready-made", ours / theirs, 2)]


def streams(api: Server, bundle: Bundle) -> list[Line]:
    """A million rows in each format: rows a CPU-second, and memory beyond what the process had."""
    sampler = Sampler(bundle)
    lines = []
    for name in ("csv", "ndjson", "parquet", "arrow"):
        pour = cost(lambda: [None for _ in sampler.blocks(Condition(), seed=1, offset=0, n=MANY // 4)]) * 4
        api.client.get(f"/samples?n=1000&format={name}")  # libraries are loaded when first asked for
        before, peak, start = api.process.memory_info().rss, 0, api.cpu()
        with api.client.stream("GET", f"/samples?n={MANY}&seed=1&format={name}") as answer:
            looked = 0.0
            for _ in answer.iter_raw():
                if time.monotonic() - looked > STEP_S:
                    peak, looked = max(peak, api.process.memory_info().rss), time.monotonic()
        used = api.cpu() - start
        note = f"{MANY / used:,.0f} rows a CPU-second, peak memory +{max(0, peak - before) / 2**20:.0f} MB"
        lines.append(Line(f"stream of {MANY:,} rows, {name}", "generator and decoding alone (rows a CPU-second)", pour / used, 0.8, at_least=True, note=note))
    return lines


def scores(api: Server, nothing: Server, bundle: Bundle) -> list[Line]:
    """One row and 500 rows scored."""
    wines = Sampler(bundle).wines(Condition(), seed=1, offset=0, n=500)
    rows = api.client.get("/samples?n=500&seed=1").json()
    graphs = [session(bundle.parts[name]) for name in (DISCRIMINATOR, CRITIC, CLASSIFIER)]
    fields, condition = codec.from_state(bundle.manifest.codec).scores(wines), codec.condition(wines.quality, wines.red)

    def forward() -> object:
        return [graph.run(None, {"fields": fields, "condition": condition}) for graph in graphs]

    one, empty_answer = turns(
        requests_cost(api, lambda k: "/score", number=500, json={"rows": rows[:1]}), requests_cost(nothing, lambda k: "/", number=3000), rounds=8
    )
    csv = {"content": to_csv(wines), "headers": {"Content-Type": "text/csv"}}
    as_json, as_csv, alone = turns(
        requests_cost(api, lambda k: "/score", number=50, json={"rows": rows}),
        requests_cost(api, lambda k: "/score", number=50, **csv),
        lambda: cost(lambda: [forward() for _ in range(10)]) / 10,
        rounds=8,
    )
    return [
        Line("/score, 1 row", "an empty ASGI answer", one / empty_answer, 8),
        Line("/score, 500 rows, JSON", "the three graphs' forward passes alone", as_json / alone, 1.5),
        Line("/score, 500 rows, CSV", "the three graphs' forward passes alone", as_csv / alone, 1.5),
    ]


def crowd(api: Server) -> list[Line]:
    """64 connections at once: how long the slowest wait (wall), and whether health stays fast meanwhile.

    As many threads as connections ask. One event loop for all of them got, every other time, into a state in which it
    read crumbs, took three times the CPU, and measured itself: 1.4 s for a request of a server that was not busier.
    """
    limits, done = httpx.Limits(max_connections=CLIENTS + 1), threading.Event()
    with (
        httpx.Client(base_url=api.client.base_url, timeout=120, limits=limits, headers=api.client.headers) as client,
        ThreadPoolExecutor(CLIENTS + 1) as threads,
    ):

        def timed(path: str) -> float:
            return cost(lambda: client.get(path).raise_for_status(), time.perf_counter)

        def ask(k: int) -> list[float]:
            return [timed(f"/samples?n=500&seed={k * 1000 + i}") for i in range(ASKED_BY_EACH)]

        def watch() -> list[float]:
            looks = []
            while not done.is_set():
                looks.append(timed("/healthz"))
                time.sleep(PAUSE_S)
            return looks

        watching = threads.submit(watch)
        try:
            taken = list(itertools.chain.from_iterable(threads.map(ask, range(CLIENTS))))
        finally:
            done.set()
        health = watching.result()
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    slow = float(np.quantile(health, 0.99)) * 1000
    return [
        Line("64 connections, n=500: p99", "p50 (wall)", float(p99 / p50), 3, note=f"p50 {p50 * 1000:.0f} ms"),
        Line("/healthz meanwhile: p99 in ms", "1 ms (wall)", slow, 20),
    ]


def networks(bundle: Bundle) -> list[Line]:
    """The generator with decoding against a perceptron, 500 rows of quality 7."""
    sampler, condition = Sampler(bundle), Condition((7,))
    perceptron = session(_perceptron())
    inputs = {"x": np.random.default_rng(0).standard_normal((BLOCK, ORIGINAL[0])).astype(np.float32)}
    ours, theirs = turns(
        lambda: cost(lambda: sampler.wines(condition, seed=1, offset=0, n=500)), lambda: cost(lambda: perceptron.run(None, inputs)), rounds=100
    )
    width = "-".join(map(str, ORIGINAL))
    return [Line("generator and decoding, n=500, quality=7", f"an untrained ONNX perceptron {width}", ours / theirs, 1.3)]


def _perceptron() -> bytes:
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(ORIGINAL):
        layers += [torch.nn.Linear(a, b), torch.nn.LeakyReLU(0.2)]
    return export.graph(torch.nn.Sequential(*layers[:-1]), {"x": ORIGINAL[0]}, "y")


if __name__ == "__main__":
    sys.exit(main())
