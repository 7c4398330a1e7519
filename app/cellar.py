"""The models that are open in this process: loaded once, shared by all requests, a few at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import cached_property

from app import registry
from app.bundle import Bundle
from app.db import Database
from app.sampler import Sampler
from app.scorer import Scorer
from app.variations import Variations

KEEP = 4  # open models; each holds about 10 MB
ALIAS_TTL_S = 1.0  # how old an answer to "which model is champion" may be


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

    @cached_property
    def variations(self) -> Variations:
        """``Conflict`` if the model has no latent space."""
        return Variations(self.bundle)


class Cellar:
    """Opens models by id or alias, least recently used ones making room. Safe to use from several threads."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenModel] = OrderedDict()
        self._names: dict[str, tuple[str, float]] = {}

    def get(self, name: str) -> OpenModel:
        """The model that ``name``, an alias or an id, stands for; ``NotFound`` or ``BundleInvalid``."""
        with self._lock:
            model_id = self._resolve(name)
            if model_id not in self._open:
                with self._db.read() as tx:
                    self._open[model_id] = OpenModel(registry.load(tx, model_id))
            self._open.move_to_end(model_id)
            while len(self._open) > KEEP:
                self._open.popitem(last=False)
            return self._open[model_id]

    def _resolve(self, name: str) -> str:
        if name in self._open:  # an id stands for the same model for ever
            return name
        model_id, read_at = self._names.get(name, ("", 0.0))
        if time.monotonic() - read_at > ALIAS_TTL_S:
            with self._db.read() as tx:
                model_id = registry.resolve(tx, name)
            self._names = {n: entry for n, entry in self._names.items() if time.monotonic() - entry[1] <= ALIAS_TTL_S}
            self._names[name] = model_id, time.monotonic()
        return model_id
