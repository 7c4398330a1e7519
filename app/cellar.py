"""The models that are open in this process: loaded once, shared by all requests, a few at a time.

Nobody waits for a model but who asks for it first. A watcher looks every second what the aliases in use stand for by
now: it opens a new champion beside the old one, which answers until the new one has poured a first block. What can't
be opened, or a database that is away, leaves an alias with the last model that it had, and every answer says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property

import sqlalchemy as sa

from app import aliases, registry
from app.aliases import Alias
from app.bundle import Bundle
from app.db import Database
from app.errors import BundleInvalid, Conflict, CuveeError, NotFound
from app.sampler import BLOCK, PROBE_SEED, Condition, Sampler
from app.scorer import Scorer
from app.variations import Variations

log = logging.getLogger("cuvee.cellar")

KEEP = 4  # open models beside those that aliases stand for; each holds some 20 MB
FOLLOW = 4  # aliases that are watched, the last ones asked for
WATCH_S = 1.0  # between looks at what aliases stand for
RETRY_S = 5.0  # before a model that could not be opened is tried again: its row may have been mended


class OpenModel:
    """A verified bundle; its sampler, scorer and variations are built when first asked for."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @cached_property
    def sampler(self) -> Sampler:
        """``Conflict`` if the model does not generate."""
        return Sampler(self.bundle)

    @cached_property
    def scorer(self) -> Scorer:
        """``Conflict`` if the model can't score."""
        return Scorer(self.bundle)

    @property
    def scorer_is_built(self) -> bool:
        """Whether asking for the scorer costs nothing."""
        return "scorer" in vars(self)

    @cached_property
    def variations(self) -> Variations:
        """``Conflict`` if the model has no latent space."""
        return Variations(self.bundle)

    def warm(self, *, like: OpenModel | None) -> None:
        """Pours a first block, and builds what was asked of the model that this one takes over from; ``BundleInvalid``."""
        for part in ("scorer", "variations"):
            if like is not None and part in vars(like):
                with suppress(Conflict):  # it has none
                    getattr(self, part)
        if self.bundle.pours:
            self.sampler.wines(Condition(), seed=PROBE_SEED, offset=0, n=BLOCK)


@dataclass(frozen=True)
class Served:
    """A model, and how it came to answer.

    ``wanted`` is the id of the one that was meant: the same, unless ``why`` says what is wrong with that one. ``away``
    says what is wrong with the database, where nobody knows any more whether the alias still stands for it.
    """

    model: OpenModel
    wanted: str
    why: str | None = None
    away: str | None = None

    @property
    def warnings(self) -> list[str]:
        """What must be said beside an answer."""
        instead = [] if self.why is None else [f"model {self.model.bundle.id} answers instead of {self.wanted}: {self.why}"]
        return instead + ([] if self.away is None else [f"model {self.model.bundle.id} is the last that was known: {self.away}"])


class Cellar:
    """Opens models by id or alias, least recently used ones making room. Safe to use from several threads."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()  # of all that follows; never held while anything is read or opened
        self._open: OrderedDict[str, OpenModel] = OrderedDict()
        self._followed: OrderedDict[str, Served] = OrderedDict()  # by alias
        self._opening: dict[str, threading.Lock] = {}
        self._faults: dict[str, tuple[str, float]] = {}  # by model: what is wrong with it, and when that was found
        self._away: str | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follows the aliases in use meanwhile, the champion from the start."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                try:
                    self.refresh()
                except Exception:  # whatever it is, the next look may fare better, and the models that are open go on
                    log.exception("looking for new models failed")
                stop.wait(WATCH_S)

        watcher = threading.Thread(target=watch, name="cellar")
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def known(self, name: str) -> Served | None:
        """What answers to ``name``, an alias or an id, if that takes neither the database nor time; else None."""
        with self._lock:
            if (served := self._followed.get(name)) is not None:
                self._followed.move_to_end(name)
                return replace(served, away=self._away)
            if (model := self._open.get(name)) is not None:
                self._open.move_to_end(name)
                return Served(model, name)
        return None

    def get(self, name: str) -> Served:
        """What answers to ``name``, an alias or an id. ``NotFound``, ``Deleted``; ``BundleInvalid`` if neither it nor a model before it can be opened."""
        if (known := self.known(name)) is not None:
            return known
        with self._db.read() as tx:
            alias = aliases.find(tx, name)
            model_id = registry.resolve(tx, name)
        if alias is None:
            return Served(self._opened(model_id), model_id)
        served = self._best(alias, None)
        with self._lock:
            self._followed.setdefault(name, served)  # the watcher may have been faster, and knows better
            self._trim()
        return served

    def refresh(self) -> None:
        """Looks what the aliases in use stand for, and swaps in what is new; drops models that were deleted."""
        with self._lock:
            followed, opened = {registry.CHAMPION, *self._followed}, list(self._open)
        try:
            with self._db.read() as tx:
                found, there = aliases.these(tx, sorted(followed)), registry.existing(tx, opened)
            for name in followed:
                self._follow(name, found.get(name))
        except sa.exc.SQLAlchemyError as error:
            self._away = f"the database does not answer: {str(getattr(error, 'orig', None) or error).strip()}"
            log.warning("%s", self._away)
            return
        with self._lock:
            self._away = None
            for gone in set(opened) - there:
                self._open.pop(gone, None)

    def _follow(self, name: str, alias: Alias | None) -> None:
        """Brings one alias up to date."""
        served = self._followed.get(name)
        if alias is None:
            with self._lock:
                self._followed.pop(name, None)
        elif served is None or served.wanted != alias.model_id or served.why is not None:
            try:
                best = self._best(alias, served)
            except CuveeError:  # nothing at all can be opened, or it is gone again: who asks will be told
                return
            with self._lock:
                self._followed[name] = best
                self._trim()

    def _best(self, alias: Alias, served: Served | None) -> Served:
        """The alias's model; where that can't be opened, the one served so far, or else the last one before it that can."""
        try:
            return Served(self._opened(alias.model_id, like=None if served is None else served.model), alias.model_id)
        except (BundleInvalid, NotFound) as error:
            fault = error
        if served is not None:
            return replace(served, wanted=alias.model_id, why=fault.detail)
        with self._db.read() as tx:
            earlier = [str(change.model_id) for change in aliases.beneath(tx, alias) if change.model_exists]
        for model_id in earlier:
            with suppress(BundleInvalid, NotFound):
                return Served(self._opened(model_id), alias.model_id, why=fault.detail)
        raise fault

    def _opened(self, model_id: str, *, like: OpenModel | None = None) -> OpenModel:
        """The model, open and warm. Who asks for the same one meanwhile waits for it; who asks for another does not."""
        with self._lock:
            opening = self._opening.setdefault(model_id, threading.Lock())
        with opening:
            try:
                with self._lock:
                    if (model := self._open.get(model_id)) is not None:
                        return model
                    fault, failed_at = self._faults.get(model_id, ("", -RETRY_S))
                if fault and time.monotonic() - failed_at < RETRY_S:
                    raise BundleInvalid(fault)
                model = self._load(model_id, like)
                with self._lock:
                    self._open[model_id] = model
                    self._faults.pop(model_id, None)
                    self._trim()
                return model
            finally:
                with self._lock:
                    self._opening.pop(model_id, None)

    def _load(self, model_id: str, like: OpenModel | None) -> OpenModel:
        with self._db.read() as tx:
            data, sha256 = registry.stored(tx, model_id)
        try:
            model = OpenModel(registry.opened(model_id, data, sha256))
            model.warm(like=like)
        except Exception as error:  # a manifest may hold anything, if its hash is right: none of it may end what serves
            said = error.detail if isinstance(error, BundleInvalid) else repr(error)
            fault = f"model {model_id} can't be opened: {said}"
            log.warning("%s", fault, exc_info=not isinstance(error, BundleInvalid))
        else:
            return model
        with self._lock:
            self._faults = {known: kept for known, kept in self._faults.items() if time.monotonic() - kept[1] < RETRY_S}
            self._faults[model_id] = fault, time.monotonic()
        raise BundleInvalid(fault)

    def _trim(self) -> None:
        """Lets go of what was not asked for lately; whoever pours from it keeps it to the end."""
        while len(self._followed) > FOLLOW:
            self._followed.popitem(last=False)
        pointed = {served.model.bundle.id for served in self._followed.values()}
        spare = [model_id for model_id in self._open if model_id not in pointed]
        for model_id in spare[: max(0, len(spare) - KEEP)]:
            del self._open[model_id]
