"""The verdict of a job becomes JSON: the sentence that it was, and what the gate compared."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# a new column and a copy: SQLite can't change a column's type in place
_jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("verdict", sa.JSON), sa.column("reason", sa.Text))


def upgrade() -> None:
    op.execute("ALTER TABLE jobs RENAME COLUMN verdict TO reason")
    op.add_column("jobs", sa.Column("verdict", sa.JSON(), nullable=True))
    tx = op.get_bind()
    for job in tx.execute(sa.select(_jobs.c.id, _jobs.c.reason).where(_jobs.c.reason.is_not(None))).all():
        verdict = {"promoted": job.reason.startswith("promoted"), "reason": job.reason, "champion": None, "gate": []}
        tx.execute(sa.update(_jobs).where(_jobs.c.id == job.id).values(verdict=verdict))
    op.drop_column("jobs", "reason")


def downgrade() -> None:
    op.add_column("jobs", sa.Column("reason", sa.Text(), nullable=True))
    tx = op.get_bind()
    for job in tx.execute(sa.select(_jobs.c.id, _jobs.c.verdict).where(_jobs.c.verdict.is_not(None))).all():
        tx.execute(sa.update(_jobs).where(_jobs.c.id == job.id).values(reason=job.verdict["reason"]))
    op.drop_column("jobs", "verdict")
    op.execute("ALTER TABLE jobs RENAME COLUMN reason TO verdict")
