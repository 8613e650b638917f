"""Removes one protection after another and sees that the test named after its absence fails.

    python tests/mutations.py            prints the table for docs/reliability.md

Each mutation is one replacement in a copy of the source; a text that is not found, or a test that still passes, is an
error. Not collected by pytest: it takes some minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = "tests/stages/test_suffered.py"


class Mutation(NamedTuple):
    test: str
    file: str
    protection: str
    without: str


MUTATIONS = [
    Mutation(
        "gradient_accumulation_changes_the_loss", "train/loop.py", "found.sum.backward()",
        "(found.sum / found.count).backward()",
    ),
    Mutation(
        "the_template_without_generation_marks_trains_on_nothing", "stages/preflight.py", "if not any(said.mask):",
        "if False:",
    ),
    Mutation("truncation_removes_every_label", "stages/preflight.py", "if len(long) == len(examples):", "if False:"),
    Mutation(
        "packing_leaks_across_documents", "data/packing.py", "np.repeat(number, tokens)",
        "np.repeat(number, tokens) > 0",
    ),
    Mutation("doubled_bos", "stages/preflight.py", "        if doubled:", "        if False:"),
    Mutation("missing_bos", "stages/preflight.py", "if begin is not None and begin not in said.ids[:1]:", "if False:"),
    Mutation(
        "lora_merged_into_4_bit", "checkpoint/families/table.py", "if theirs[part].dtype not in WEIGHTS:", "if False:"
    ),
    Mutation("text_that_spells_a_special_token", "text/template.py", "if tokenizer.special:", "if False:"),
    Mutation(
        "left_padding_changes_answers", "generate/slots.py", "[len(prompt) - 1 for prompt in prompts]",
        "[longest - 1 for prompt in prompts]",
    ),
    Mutation(
        "pad_that_is_eos_never_stops", "stages/preflight.py", "if tokenizer.pad_id == tokenizer.eos_id:", "if False:"
    ),
    Mutation(
        "the_reward_model_reads_the_wrong_position", "data/rankings.py", "place[1] + place[2] - 1", "length - 1"
    ),
    Mutation("ppo_rewards_pad", "objectives/policy.py", "last = mask.sum(1, keepdim=True) - 1",
             "last = mask.sum(1, keepdim=True) * 0 - 1 + mask.shape[1]"),
    Mutation(
        "rollout_and_trainer_disagree_on_logprobs", "train/rollouts.py",
        "if not disagreement <= self.config.logprob_tolerance:", "if False:",
    ),
    Mutation(
        "resume_restarts_the_data", "stages/session.py", 'self.batches.load_state(state["batches"])', "pass"
    ),
    Mutation("new_tokens_untrained", "stages/preflight.py", "if most >= shape.vocab_size:", "if False:"),
    Mutation(
        "evaluation_changes_with_batch_size", "evaluate/language.py", "chunk = rows[start : start + step]",
        "chunk = rows[start : start + step][: max(1, step - 1)]",
    ),
    Mutation(
        "export_renders_another_chat_template", "text/tokenizer.py", "        if self.chat_template:",
        "        if False:",
    ),
    Mutation("rows_silently_dropped", "stages/preflight.py",
             'log.say(f"[yellow]left out {len(long):,} of {len(examples):,} {what}', 'str(f"[yellow]{what}'),
    Mutation("a_prompt_on_both_sides_of_the_held_out_line", "stages/reward.py",
             "drawn[first.setdefault(tuple(c.prompt), i)]", "drawn[i]"),
]  # fmt: skip


def fails_without(mutation: Mutation) -> bool:
    """Whether the test fails when its protection is taken away."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source)
        file = source / "fledge" / mutation.file
        text = file.read_text()
        if text.count(mutation.protection) != 1:
            raise SystemExit(f"{mutation.file} does not have exactly one: {mutation.protection}")
        file.write_text(text.replace(mutation.protection, mutation.without))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", f"test_{mutation.test}", TESTS],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True,
        )  # fmt: skip
    if run.returncode not in (0, 1):
        raise SystemExit(run.stdout + run.stderr)
    return run.returncode == 1


def main() -> None:
    """The table; a non-zero exit if a test does not notice."""
    print("| what users of other tools suffered | where fledge prevents it | test fails without it |\n|---|---|---|")
    missed = 0
    for mutation in MUTATIONS:
        noticed = fails_without(mutation)
        missed += not noticed
        print(
            f"| {mutation.test.replace('_', ' ')} | `{mutation.file}` | {'yes' if noticed else '**NO**'} |", flush=True
        )
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
