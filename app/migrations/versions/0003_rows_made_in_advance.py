"""A model tells how many rows it was made with in advance, so that nobody opens its bundle for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("pool", sa.Integer(), nullable=False, server_default="0"))  # earlier models had no pools


def downgrade() -> None:
    op.drop_column("models", "pool")
