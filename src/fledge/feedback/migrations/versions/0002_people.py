"""Consent and screening, each kept as it was given; a task without known ranks has none (not a JSON null)."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Adds the two tables; `people.consent` was never written and says less."""
    op.create_table(
        "consents",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
        sa.Column("guideline_id", sa.Integer, sa.ForeignKey("guidelines.id"), nullable=False),
        sa.Column("given", sa.Boolean, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_index("consents_by_person", "consents", ["person_id"])
    op.create_table(
        "screenings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
        sa.Column("right", sa.Float, nullable=False),
        sa.Column("pairs", sa.Integer, nullable=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("admitted_by", sa.String(200), nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_index("screenings_by_person", "screenings", ["person_id"])
    op.execute("ALTER TABLE people DROP COLUMN consent")
    op.execute("UPDATE tasks SET known = NULL WHERE CAST(known AS TEXT) = 'null'")


def downgrade() -> None:
    """Drops them."""
    op.add_column("people", sa.Column("consent", TIME))
    for table in ("screenings", "consents"):
        op.drop_table(table)
