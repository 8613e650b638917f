"""Indexes for what is asked with every task: who has it, what was said on it, what was taken back."""

from alembic import op

revision = "0003"
down_revision = "0002"

INDEXES = {
    "judgements_by_replaced": ("judgements", "replaces"),
    "judgements_by_person": ("judgements", "person_id"),
    "assignments_by_person": ("assignments", "person_id"),
    "tasks_by_prompt": ("tasks", "prompt_id"),
}


def upgrade() -> None:
    """Adds them."""
    for name, (table, column) in INDEXES.items():
        op.create_index(name, table, [column])


def downgrade() -> None:
    """Drops them."""
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
