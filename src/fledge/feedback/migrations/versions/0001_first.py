"""The first tables, and a trigger that keeps judgements as they were given."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)

SQLITE = """
CREATE TRIGGER judgements_stay BEFORE UPDATE ON judgements
BEGIN SELECT RAISE(ABORT, 'a judgement is never changed: add one that replaces it'); END
"""
POSTGRES = (
    """
CREATE FUNCTION judgements_stay() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION 'a judgement is never changed: add one that replaces it'; END
$$ LANGUAGE plpgsql
""",
    "CREATE TRIGGER judgements_stay BEFORE UPDATE ON judgements FOR EACH ROW EXECUTE FUNCTION judgements_stay()",
)


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "people",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("consent", TIME),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "guidelines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version", sa.String(40), nullable=False, unique=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(16), nullable=False, unique=True),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prompt_id", sa.Integer, sa.ForeignKey("prompts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.UniqueConstraint("prompt_id", "digest", name="one_of_each_answer"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("prompt_id", sa.Integer, sa.ForeignKey("prompts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("completions", sa.JSON, nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("place", sa.Float, nullable=False),
        sa.Column("known", sa.JSON),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "assignments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("opened", TIME, nullable=False),
        sa.UniqueConstraint("task_id", "person_id", name="one_assignment_each"),
    )
    op.create_table(
        "judgements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.String(64), nullable=False, unique=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("prompt_id", sa.Integer, sa.ForeignKey("prompts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("guideline_id", sa.Integer, sa.ForeignKey("guidelines.id")),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id", ondelete="CASCADE")),
        sa.Column("replaces", sa.Integer, sa.ForeignKey("judgements.id", ondelete="CASCADE")),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_index("judgements_by_task", "judgements", ["task_id", "person_id"])
    op.create_index("judgements_by_prompt", "judgements", ["prompt_id"])
    for statement in [SQLITE] if op.get_bind().dialect.name == "sqlite" else POSTGRES:
        op.execute(statement)


def downgrade() -> None:
    """Drops them."""
    for table in ("judgements", "assignments", "tasks", "completions", "prompts", "guidelines", "people"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION judgements_stay")
