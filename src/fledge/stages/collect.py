"""Collect: the documentation and source of a Python installation as documents, and the facts it states about names.

Nothing with side effects is imported: source is parsed, and only C modules of a safe list are introspected. For a
package the standard library's text is read too, because a package alone is rarely enough to learn language from; the
facts are then the package's own.
"""

from pathlib import Path
from typing import Any

from fledge.core.config import Config
from fledge.core.errors import FledgeError
from fledge.core.files import write_jsonl, write_text_atomic
from fledge.core.log import Log
from fledge.data.curate import kinds
from fledge.data.parquet import write_documents
from fledge.data.python.documents import collect_documents, pretraining_facts
from fledge.data.python.installation import read_installation
from fledge.data.python.names import documented_names


class CollectConfig(Config):
    """`package`: an installed package, "" for the standard library; `names`: how many documented names at most."""

    package: str = ""
    names: int = 1500
    code_megabytes: float = 6.0
    seed: int = 0


def collect(config: CollectConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes documents.parquet, names.jsonl (the facts) and all_names.txt (every name that exists, one a line)."""
    installation = read_installation(config.package or None)
    names = documented_names(installation, config.names)
    if not names:
        raise FledgeError(
            f"'{config.package}' documents no name in a way that can be asked about",
            "choose a package whose functions have docstrings",
        )
    facts = pretraining_facts(names, config.seed)
    documents = [*collect_documents(installation, int(config.code_megabytes * 1e6)), *facts]
    existing = installation.all_names()

    write_documents(out / "documents.parquet", documents)
    write_jsonl(out / "names.jsonl", (name.as_dict() for name in names))
    write_text_atomic(out / "all_names.txt", "".join(f"{name}\n" for name in sorted(existing)))

    sizes = kinds(documents)
    rows = [[kind, size["documents"], size["characters"]] for kind, size in sizes.items()]
    log.table("collected", ["kind", "documents", "characters"], rows)
    modules = len({name.module for name in names})
    log.say(f"{len(names):,} documented names of {modules} modules; {len(existing):,} names exist")
    return {"kinds": sizes, "names": len(names), "modules": modules, "existing": len(existing)}
