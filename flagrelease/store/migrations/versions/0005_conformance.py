"""conformance of FlagGems' operators"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conformance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("chip", sa.String(length=100), nullable=True),
        sa.Column("device", sa.String(length=50), nullable=False),
        sa.Column("interpreter", sa.Boolean(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("dtype", sa.String(length=20), nullable=False),
        sa.Column("flag_gems", sa.String(length=100), nullable=False),
        sa.Column("torch", sa.String(length=100), nullable=False),
        sa.Column("triton", sa.String(length=100), nullable=False),
        sa.Column("operator", sa.String(length=100), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("matching", sa.Integer(), nullable=False),
        sa.Column("worst_error", sa.Double(), nullable=True),
        sa.Column("worst_tolerance", sa.Double(), nullable=True),
        sa.Column("worst", sa.Double(), nullable=True),
        sa.Column("speed_ratio", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conformance")),
        sa.UniqueConstraint("key", "chip", "operator", name=op.f("uq_conformance_key")),
    )
    op.create_index("ix_conformance_chip_operator", "conformance", ["chip", "operator"])


def downgrade() -> None:
    """What was found of operators is lost; the files of evidence stay."""
    op.drop_index("ix_conformance_chip_operator", table_name="conformance")
    op.drop_table("conformance")
