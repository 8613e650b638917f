"""Names that do not exist but look as if they did, to teach and to test honesty.

Three sorts: pieces of real identifiers recombined in a real module (`shutil.merge_archive`, `queue.EventBuffer`), an
invented module (`treeformat.parse_value`), and a real identifier in a module that lacks it (`glob.dumps`).
Pools are disjoint in their inventions and in the identifiers and pieces that these are made from.
"""

import hashlib
import random
import re
from collections.abc import Sequence, Set

from fledge.data.python.names import POPULAR, Name

POOLS = ("demonstrations", "prompts", "evaluation")

# How often each sort is drawn, in eighths.
SORTS = ("function", "function", "function", "class", "method", "module", "module", "moved")

# Where the names at hand are too few, well-known modules and common words are borrowed.
FEW = 10
COMMON_HEADS = """
    add apply build cache check clean clear collect compare convert count decode detect drain encode expand
    extract fetch fill filter find flush fold format group insert join load lock map mark match merge move parse
    patch pick pack probe pull push queue read render repair reset resolve rotate save scan select send shift
    sort split store strip swap sync trace trim unpack update verify walk wrap write
"""
COMMON_TAILS = """
    archive batch block buffer bytes chain channel chunk codec context count cursor digest entry event field
    file frame group handle header index item key label layer level line link list lock map message name node
    number offset option order pair part path pool prefix queue range record region result route row rule scope
    segment session signal slot source span stack state step stream suffix table tag target task text token tree
    value view
"""


def invent(names: Sequence[Name], existing: Set[str], pool: str, count: int, seed: int = 0) -> list[str]:
    """`count` invented dotted names of a pool, in a fixed order; fewer if the pool's pieces do not yield as many.

    `existing` holds every dotted name and identifier that exists: no invention is in it, and the last part of an
    invention is not either, unless it was moved from another module.
    """
    generator = random.Random(f"{seed}:{pool}")
    material = Material(names, existing, pool, seed)
    inventions: dict[str, None] = {}
    for attempt in range(40 * count):
        if len(inventions) == count:
            break
        candidate = material.draw(SORTS[attempt % len(SORTS)], generator)
        if candidate and not exists(candidate, existing, moved=SORTS[attempt % len(SORTS)] == "moved"):
            inventions[candidate] = None
    return list(inventions)


def exists(name: str, existing: Set[str], *, moved: bool) -> bool:
    """Whether a dotted name, or (unless it was moved) its last part, exists."""
    last = name.rpartition(".")[2]
    return name in existing or (not moved and last in existing)


class Material:
    """What inventions of one pool are made from: that pool's share of identifiers and of their pieces."""

    def __init__(self, names: Sequence[Name], existing: Set[str], pool: str, seed: int) -> None:
        self.modules = sorted({name.module for name in names if name.module != "builtins"})
        if len(self.modules) < FEW:
            self.modules = sorted({*self.modules, *(module for module in POPULAR.split()[1:] if module in existing)})
        self.classes = sorted({name.name for name in names if name.kind == "class" and "." in name.name})
        own = [name for name in names if pool_of(identifier(name), seed) == pool]
        self.identifiers = sorted({(identifier(name), name.module) for name in own})
        pieces = [words for name in names if len(words := split(identifier(name))) > 1]
        self.heads = chosen([words[0] for words in pieces], COMMON_HEADS, pool, seed)
        self.tails = chosen([words[-1] for words in pieces], COMMON_TAILS, pool, seed)

    def draw(self, sort: str, generator: random.Random) -> str:
        """One candidate of a sort; "" if the draw makes none."""
        head, tail, extra = (generator.choice(part) for part in (self.heads, self.tails, self.tails))
        module = generator.choice(self.modules)
        if head == tail:
            return ""
        if sort == "class":
            return f"{module}.{head.capitalize()}{tail.capitalize()}"
        if sort == "method" and self.classes:
            return f"{generator.choice(self.classes)}.{head}_{tail}"
        if sort == "module":
            return f"{head}{extra}.{head}_{tail}" if generator.random() < 0.5 else f"{tail}{extra}.{head}_{tail}"
        if sort == "moved" and self.identifiers:
            name, home = generator.choice(self.identifiers)
            return "" if module == home else f"{module}.{name}"
        return f"{module}.{head}_{tail}"


def chosen(words: Sequence[str], common: str, pool: str, seed: int) -> list[str]:
    """The words of at least three letters that belong to a pool; common ones too if there are few."""
    own = {word for word in words if len(word) > 2 and word.isalpha() and pool_of(word, seed) == pool}
    return sorted(own if len(own) >= FEW else own | {word for word in common.split() if pool_of(word, seed) == pool})


def identifier(name: Name) -> str:
    """The last part of a dotted name."""
    return name.name.rpartition(".")[2]


def split(name: str) -> list[str]:
    """The words of an identifier: `get_type_hints` -> get type hints, `JSONDecoder` -> json decoder."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def pool_of(text: str, seed: int) -> str:
    """The pool that an identifier or piece belongs to."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return POOLS[int.from_bytes(digest[:4], "big") % len(POOLS)]
