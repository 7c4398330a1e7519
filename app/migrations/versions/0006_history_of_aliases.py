"""Aliases remember every model that they stood for, and the registry remembers which models it deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_aliases = sa.table("aliases", *(sa.column(name) for name in ("alias", "model_id", "version", "reason", "changed_at")))
_history = sa.table("alias_history", *(sa.column(name) for name in ("alias", "version", "action", "model_id", "reason", "changed_by", "changed_at")))


def upgrade() -> None:
    op.create_table(
        "deleted_models",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("deleted_by", sa.String(128), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deleted_models"),
    )
    op.create_table(
        "alias_history",
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("model_id", sa.String(32), nullable=True),
        sa.Column("below", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.String(128), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.CheckConstraint("action IN ('set','rollback','delete')", name=op.f("ck_alias_history_action")),
        sa.PrimaryKeyConstraint("alias", "version", name="pk_alias_history"),
    )
    tx = op.get_bind()
    known = tx.execute(sa.select(_aliases.c.alias, _aliases.c.model_id, _aliases.c.reason, _aliases.c.changed_at)).all()
    op.drop_table("aliases")  # its columns can't be dropped one by one on every SQLite
    _create(sa.Column("version", sa.Integer(), nullable=False))
    for row in known:  # nobody but the service could change an alias
        tx.execute(sa.insert(_aliases).values(alias=row.alias, model_id=row.model_id, version=1))
        tx.execute(sa.insert(_history).values(**row._mapping, version=1, action="set", changed_by="cuvee"))


def downgrade() -> None:
    tx = op.get_bind()
    joined = _aliases.join(_history, sa.and_(_history.c.alias == _aliases.c.alias, _history.c.version == _aliases.c.version))
    known = tx.execute(sa.select(_aliases.c.alias, _aliases.c.model_id, _history.c.reason, _history.c.changed_at).select_from(joined)).all()
    op.drop_table("aliases")
    _create(sa.Column("reason", sa.Text(), nullable=False), sa.Column("changed_at", sa.Double(), nullable=False))
    for row in known:
        tx.execute(sa.insert(_aliases).values(**row._mapping))
    op.drop_table("alias_history")
    op.drop_table("deleted_models")


def _create(*more: sa.Column[object]) -> None:
    op.create_table(
        "aliases",
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("model_id", sa.String(32), nullable=False),
        *more,
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_aliases_model_id"),
        sa.PrimaryKeyConstraint("alias", name="pk_aliases"),
    )
