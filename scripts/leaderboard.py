"""Trains every method at the settings that POST /train gives it, and prints the leaderboard as Markdown.

usage: python scripts/leaderboard.py [--dataset uci] [--preset default] [--seed 0] [--only gan ...]

It starts a service of its own on a free port, with a database of its own under build/leaderboard/; a second run goes on
where the first stopped. The exit status is 1 if a training failed, with its error on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.errors import CuveeError
from app.leaderboard import ENDS
from app.measures import MEASURES
from app.params import METHODS, resolve

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 1.0
STOP_AFTER_S = 60.0  # `cuvee up` gives each of its two processes 15
PAGE = 200
OPEN = ("queued", "running", "cancelling")

ARGUMENT = (  # what tells the methods apart, of those that pour
    "c2st",
    "c2st_worst",
    "spearman_gap",
    "coverage",
    "tstr_ratio",
    "dcr_closer_to_train",
    "near_copies",
    "confusion_gap",
    "confidence",
    "confidence_real",
    "rows_per_cpu_s",
    "train_cpu_s",
)

Row = dict[str, Any]


class Failed(Exception):
    """Why there is no leaderboard."""


def main() -> int:
    """The exit status: 0 if every training succeeded."""
    given = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # as Ctrl-C does: the service is ended on the way out
    try:
        wanted = {method: _params(method, given) for method in given.only}
        with _service(given.folder) as api:
            jobs = _finished(api, _train(api, wanted, given))
            _print_tables(_rows(api, jobs, next(iter(wanted.values()))))
    except (Failed, CuveeError, httpx.TransportError) as error:
        print(f"leaderboard: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nleaderboard: interrupted; run it again and it goes on from here", file=sys.stderr)
        return 1
    failed = [job for job in jobs if job["state"] != "succeeded"]
    for job in failed:
        print(f"leaderboard: {job['method']} {job['state']}: {job['error']}", file=sys.stderr)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", default="uci", help="a dataset's id, or a CSV file to upload (uci)")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (0)")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help="one of " + ", ".join(METHODS))
    parser.add_argument("--params", type=json.loads, default={}, help="JSON object: params over the preset's, for each method that has them")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "leaderboard", help="where the database and the service's log are")
    return parser.parse_args()


def _params(method: str, given: argparse.Namespace) -> dict[str, Any]:
    """The complete params of a method, as its job will have them; ``InvalidInput`` if they are none."""
    own = {name: value for name, value in given.params.items() if name in METHODS[method].model_fields}
    return resolve(method, {"preset": given.preset} | own).model_dump()


@contextmanager
def _service(folder: Path) -> Iterator[httpx.Client]:
    """A client of a service of our own, which is ready, and is ended whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    own = {"CUVEE_DATABASE_URL": f"sqlite:///{folder.resolve()}/cuvee.db", "CUVEE_HOST": "127.0.0.1", "CUVEE_PORT": str(port)}
    with (folder / "service.log").open("wb") as log:
        command = [sys.executable, "-m", "app.cli", "up"]
        # a session of its own: Ctrl-C comes here alone
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as api:
                while not _ready(api):
                    if process.poll() is not None:
                        raise Failed(f"the service did not start; {log.name} says why")
                    time.sleep(0.2)
                yield api
        finally:
            process.terminate()
            process.wait(STOP_AFTER_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(api: httpx.Client) -> bool:
    try:
        return api.get("/readyz").is_success
    except httpx.TransportError:
        return False


def _train(api: httpx.Client, wanted: dict[str, dict[str, Any]], given: argparse.Namespace) -> list[Row]:
    """A job for each method: one that an earlier run left, or a new one. Others that are still open are cancelled, for they would come first."""
    dataset = _dataset(api, given.dataset)
    known = list(_jobs(api))
    jobs = []
    for method, params in wanted.items():
        same = {"method": method, "params": params, "seed": given.seed, "dataset": dataset}
        left = next((job for job in known if job["state"] in ("succeeded", "queued", "running") and same.items() <= job.items()), None)
        jobs.append(left or _asked(api.post("/train", json={**same, "promote": "never"})))
    ours = {job["id"] for job in jobs}
    for job in known:
        if job["state"] in ("queued", "running") and job["id"] not in ours:
            api.post(f"/jobs/{job['id']}/cancel")  # refused if it ended meanwhile
    return jobs


def _dataset(api: httpx.Client, named: str) -> str:
    """The id of the dataset; a file's rows are uploaded, which gives the same rows the same id."""
    if not Path(named).is_file():
        return named
    answer = api.post("/datasets", params={"name": Path(named).name}, content=Path(named).read_bytes(), headers={"Content-Type": "text/csv"})
    return str(_asked(answer)["id"])


def _jobs(api: httpx.Client) -> Iterator[Row]:
    """All jobs of this database, newest first."""
    offset = 0
    while page := _asked(api.get("/jobs", params={"limit": PAGE, "offset": offset})):
        yield from page
        offset += PAGE


def _asked(answer: httpx.Response) -> Any:
    """What was answered; ``Failed`` with the problem in words."""
    if answer.is_error:
        raise Failed(answer.json()["detail"])
    return answer.json()


def _finished(api: httpx.Client, jobs: list[Row]) -> list[Row]:
    """The same jobs when all are over; tells meanwhile how far they are."""
    watched, told = sys.stderr.isatty(), ""
    while True:
        jobs = [_asked(api.get(f"/jobs/{job['id']}")) for job in jobs]
        states = "   ".join(f"{job['method']} {job['state']}" for job in jobs)
        if watched:  # one line that changes
            print("\r" + "   ".join(f"{job['method']} {_state(job)}" for job in jobs) + "\x1b[K", end="", file=sys.stderr, flush=True)
        elif states != told:
            print(told := states, file=sys.stderr, flush=True)
        if not any(job["state"] in OPEN for job in jobs):
            print(file=sys.stderr)
            return jobs
        time.sleep(POLL_S)


def _state(job: Row) -> str:
    return f"{job['progress']:.0%}" if job["state"] == "running" else str(job["state"])


def _rows(api: httpx.Client, jobs: list[Row], params: dict[str, Any]) -> list[Row]:
    """The leaderboard's rows of these jobs' models, best first, then floor and ceiling; none where no job succeeded."""
    ours = {job["model_id"] for job in jobs if job["state"] == "succeeded"}
    split = {"dataset": jobs[0]["dataset"], "holdout": params["holdout"], "split_seed": params["split_seed"]}
    url: str | None = str(httpx.URL("/leaderboard", params={**split, "limit": PAGE}))
    rows, ends = [], []
    while url and ours:
        answer = api.get(url)
        page = _asked(answer)
        rows += [row for row in page if row["model"] in ours]
        ends = [row for row in page if row["model"] in ENDS]
        url = answer.links.get("next", {}).get("url")
    return rows + ends


def _print_tables(rows: list[Row]) -> None:
    """The models that pour, and those that do not by what was measured of them; each with floor and ceiling."""
    ends = [row for row in rows if row["model"] in ENDS]
    models = [row for row in rows if row["model"] not in ENDS]
    pouring = [row for row in models if row["rows_per_cpu_s"] is not None]
    others = [row for row in models if row["rows_per_cpu_s"] is None]
    measured = [name for name in MEASURES if any(row[name] is not None for row in others)]
    for group, columns in ((pouring, ARGUMENT), (others, (*measured, "train_cpu_s"))):
        if group:
            _print_table([*group, *(end for end in ends if any(end[name] is not None for name in columns))], columns)


def _print_table(rows: list[Row], columns: Sequence[str]) -> None:
    cells = [[row["method"] or row["model"], *(_cell(row[name]) for name in columns)] for row in rows]
    for line in (["method", *columns], ["---", *("---:" for _ in columns)], *cells):
        print("| " + " | ".join(line) + " |")
    print()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
