"""What a request with a key made, so that the same request sent again makes nothing; and datasets that were deleted, whose jobs still name them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("call", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("call", "key", name=op.f("pk_idempotency_keys")),
    )
    op.add_column("datasets", sa.Column("deleted_at", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "deleted_at")
    op.drop_table("idempotency_keys")
