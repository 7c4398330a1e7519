"""One who asks the API all the while, and notes every answer that is none."""

from __future__ import annotations

import itertools
import threading
import time
from http import HTTPStatus

import httpx

from chaos.house import House

PATIENCE_S = 60.0  # longer than any writer waits for another, on either database
PAUSE_S = 0.2
POURED = "/samples?n=20&seed=1&model=champion"


class Asker(threading.Thread):
    """Asks until told to stop; what it finds wrong goes into the house's ``broken``."""

    def __init__(self, house: House) -> None:
        super().__init__(daemon=True)
        self._house = house
        self._enough = threading.Event()
        self._poured: bytes | None = None
        self._unwanted: set[str] = set()  # jobs that were queued to be cancelled, and a cancelling that fails is asked for again
        self.answers, self.problems, self.cut_off = 0, 0, 0

    def run(self) -> None:
        with httpx.Client(base_url=self._house.url, timeout=PATIENCE_S) as client:
            for turn in itertools.count():
                if self._enough.wait(PAUSE_S):
                    return
                answer = self._ask(client, *(("GET", POURED), ("GET", "/jobs"), ("GET", "/readyz"), ("GET", "/models"), ("POST", "/train"))[turn % 5])
                if answer is not None and answer.status_code == HTTPStatus.ACCEPTED:
                    self._unwanted.add(answer.json()["id"])
                self._unwanted = {job for job in self._unwanted if not self._cancelled(client, job)}

    def stop(self) -> None:
        """Returns when the last answer is in."""
        self._enough.set()
        self.join(2 * PATIENCE_S)
        if self.is_alive():
            self._house.broken.append("the API keeps a request waiting for ever")

    def _cancelled(self, client: httpx.Client, job: str) -> bool:
        answer = self._ask(client, "POST", f"/jobs/{job}/cancel")
        return answer is not None and answer.status_code in (HTTPStatus.OK, HTTPStatus.CONFLICT)  # or it is over already

    def _ask(self, client: httpx.Client, method: str, path: str) -> httpx.Response | None:
        start, serving, at = self._house.api_starts, self._house.serving, time.monotonic()
        try:
            answer = client.request(method, path, json={"method": "search", "dataset": "starter", "params": {"preset": "quick"}} if method == "POST" else None)
        except httpx.TransportError as error:
            self.cut_off += 1
            if serving and self._house.serving and self._house.api_starts == start:  # else it was killed under this request
                self._note(f"{method} {path}: {type(error).__name__} after {time.monotonic() - at:.1f} s from an API that ran all the while")
            return None
        self._judge(answer)
        return answer

    def _judge(self, answer: httpx.Response) -> None:
        self.answers += 1
        asked = f"{answer.request.method} {answer.request.url.path}"
        if answer.is_error:
            self.problems += 1
            typed = answer.headers["content-type"] == "application/problem+json" and {"type", "title", "status", "detail"} <= answer.json().keys()
            if not typed or answer.status_code not in (409, 503):
                self._note(f"{asked}: {answer.status_code} {answer.text[:300]}")
        elif asked == "GET /samples":
            self._poured = self._poured or answer.content
            if answer.content != self._poured:
                self._note(f"{asked}: other rows than before for the same seed")

    def _note(self, what: str) -> None:
        self._house.broken.append(what)
