"""Renders a Python installation as documents: docstrings, language reference, source, and one-line facts.

Kinds: "docs" (a module's, function's or class's documentation, a class with its methods), "topics" (the language
reference inside `pydoc_data`), "code" (source without docstrings and tests), "facts" (see `pretraining_facts`).
"""

import random
import textwrap
from collections.abc import Iterator, Sequence
from pydoc_data.topics import topics

from fledge.core.nouns import Document
from fledge.data.python.builtin import SAFE
from fledge.data.python.installation import Found, Installation
from fledge.data.python.names import Name, ordered_modules, public_definitions

# Documentation layouts of a fact: reference entry, index line, description list, lookup by purpose, module contents.
LAYOUTS = (
    ("Reference", "{name}{signature}\n    {summary}"),
    ("Index", "{name} -- {summary}"),
    ("Summary of names", "* {name} ({kind}, module {module}): {summary}"),
    ("Lookup by description", "{summary}\n    {name}"),
    ("Contents", "{kind} {name}\n  Module: {module}\n  Purpose: {summary}"),
)
FACTS_PER_DOCUMENT = 8


def collect_documents(installation: Installation, code_bytes: int) -> list[Document]:
    """All documents of an installation in a fixed order; source, the best-known modules first, up to `code_bytes`."""
    return [*docs(installation), *reference(), *code(installation, code_bytes)]


def docs(installation: Installation) -> Iterator[Document]:
    """One document per documented module and per documented top-level function or class."""
    public = {found.identity: dotted for (dotted, _), found in public_definitions(installation).items()}
    titles: set[str] = set()
    for module in sorted(installation.modules):
        here = installation.modules[module]
        if here.docstring:
            yield Document(f"Module {module}\n\n{here.docstring}\n", f"module:{module}", "docs")
        for definition in here.definitions.values():
            found = Found(module, definition)
            title = public.get(found.identity, found.identity)
            documented = definition.docstring or any(member.docstring for member in definition.members)
            twin = module in SAFE.split() and module.startswith("_") and found.identity not in public  # C beside Python
            if documented and not twin and not definition.name.startswith("_") and title not in titles:
                titles.add(title)
                yield Document(entry(found, title), f"python:{title}", "docs")


def entry(found: Found, title: str) -> str:
    """A definition as `help()` would show it, a class with its documented public methods."""
    definition = found.definition
    word = "class " if definition.kind == "class" else ""
    parts = [f"{word}{title}{definition.signature}"]
    if definition.docstring:
        parts.append(definition.docstring)
    for member in definition.members:
        name = member.name.rpartition(".")[2]
        if member.docstring and not name.startswith("_"):
            parts.append(f"{name}{member.signature}\n{textwrap.indent(member.docstring, '    ')}")
    return "\n\n".join(parts) + "\n"


def reference() -> Iterator[Document]:
    """The topics of the language reference."""
    for topic, text in sorted(topics.items()):
        yield Document(text.strip() + "\n", f"topics:{topic}", "topics")


def code(installation: Installation, limit: int) -> Iterator[Document]:
    """Source files until `limit` bytes are reached: public modules in order of renown, then the private ones."""
    public = ordered_modules(installation)
    total = 0
    for module in [*public, *sorted(set(installation.modules) - set(public))]:
        text = installation.modules[module].code
        size = len(text.encode())
        if text.strip() and total + size <= limit:
            total += size
            yield Document(text, f"code:{module}", "code")


def pretraining_facts(names: Sequence[Name], seed: int = 0) -> list[Document]:
    """Every fact once in each documentation layout, a few to a document, in a different company each time.

    A base model that reads a fact in several settings can be asked for it later (arXiv:2309.14316).
    """
    documents = []
    for number, (title, layout) in enumerate(LAYOUTS):
        order = list(names)
        random.Random(f"{seed}:{title}").shuffle(order)
        for start in range(0, len(order), FACTS_PER_DOCUMENT):
            lines = [layout.format(**name.as_dict()) for name in order[start : start + FACTS_PER_DOCUMENT]]
            text = f"{title}\n\n" + "\n".join(lines) + "\n"
            documents.append(Document(text, f"facts:{number}:{start // FACTS_PER_DOCUMENT}", "facts"))
    return documents
