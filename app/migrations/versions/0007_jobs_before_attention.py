"""Jobs of GANs that were asked for before discriminators could attend say that theirs do not."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("method", sa.String), sa.column("params", sa.JSON))


def upgrade() -> None:
    for job, params in _asked():
        if "attention" not in params:
            _change(job, params | {"attention": False})


def downgrade() -> None:
    for job, params in _asked():
        _change(job, {name: value for name, value in params.items() if name != "attention"})


def _asked() -> list[tuple[str, dict[str, Any]]]:
    found = op.get_bind().execute(sa.select(_jobs.c.id, _jobs.c.params).where(_jobs.c.method == "gan"))
    return [(job, params) for job, params in found]


def _change(job: str, params: dict[str, Any]) -> None:
    op.get_bind().execute(sa.update(_jobs).where(_jobs.c.id == job).values(params=params))
