"""What a job tells: its events, numbered. A job that is there already gets the one that says how it stands, and its last word if it is over."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OPEN = ("queued", "running", "cancelling")

_jobs = sa.table(
    "jobs",
    *(sa.column(name) for name in ("id", "state", "attempt", "failures", "worker", "model_id", "error", "created_at", "started_at", "finished_at")),
)
_events = sa.table(
    "job_events",
    *(sa.column(name) for name in ("job_id", "number", "kind", "attempt")),
    sa.column("data", sa.JSON),
    sa.column("at"),
)


def upgrade() -> None:
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_events")),
    )
    tx = op.get_bind()
    for job in tx.execute(sa.select(_jobs)).all():
        event = {"job_id": job.id, "attempt": job.attempt, "at": job.finished_at or job.started_at or job.created_at}
        standing = {"state": job.state, "worker": job.worker, "failures": job.failures}
        tx.execute(sa.insert(_events).values(**event, number=1, kind="state", data=standing))
        if job.state not in OPEN:
            end = {"state": job.state, "model_id": job.model_id, "error": job.error}
            tx.execute(sa.insert(_events).values(**event, number=2, kind="end", data=end))


def downgrade() -> None:
    op.drop_table("job_events")
