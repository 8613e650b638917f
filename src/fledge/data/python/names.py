"""What the documentation says about each public name: the facts an assistant for Python is taught and asked.

A fact is a name and the first sentence of its docstring, as one clean line. Left out, because no one could answer or
judge them: empty and overlong summaries, those several names share, and dunder boilerplate.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fledge.data.python.builtin import split_signature
from fledge.data.python.installation import Found, Installation

# Well-known modules first: a smaller assistant learns the part of Python that people ask about.
POPULAR = """
    builtins json os re math itertools functools collections os.path pathlib random statistics string textwrap
    shutil subprocess datetime time operator copy glob fnmatch tempfile csv pickle struct heapq bisect hashlib
    hmac secrets base64 binascii uuid urllib.parse urllib.request threading queue asyncio concurrent.futures
    contextlib abc typing dataclasses enum inspect types sys logging argparse configparser getpass platform
    socket ssl select signal zlib gzip bz2 lzma zipfile tarfile sqlite3 decimal fractions cmath array calendar
    locale unicodedata difflib html html.parser xml.etree.ElementTree http.client http.server http.cookies
    smtplib email.message email.utils mimetypes traceback warnings unittest unittest.mock doctest pdb timeit
    cProfile pstats ast tokenize dis importlib importlib.util importlib.metadata pkgutil weakref gc io codecs
    pprint reprlib shelve dbm shlex stat filecmp fileinput linecache collections.abc multiprocessing sched
    ipaddress webbrowser getopt cmd code keyword token numbers graphlib zoneinfo selectors socketserver errno
    tracemalloc faulthandler marshal mmap
"""

# Modules that are platform details, data tables or on their way out.
OBSCURE = re.compile(
    r"(genericpath|ntpath|nturl2path|sre_\w+|opcode|posix|nt|encodings|distutils|msilib|msvcrt|winreg|winsound|xdrlib"
    r"|ctypes\.(macholib|wintypes)|multiprocessing\.dummy|pyexpat|symbol|parser|imp|asyncore|asynchat|smtpd)(\.|$)"
    r"|asyncio\.(windows|proactor)|multiprocessing\.(popen|resource|spawn|forkserver)"
)

# Classes whose methods people know by name.
WITH_METHODS = """
    str list dict set int float bytes collections.Counter collections.deque pathlib.Path datetime.datetime
    datetime.date datetime.timedelta threading.Thread threading.Event subprocess.Popen argparse.ArgumentParser
    logging.Logger zipfile.ZipFile tarfile.TarFile decimal.Decimal fractions.Fraction configparser.ConfigParser
    string.Template queue.Queue inspect.Signature
"""

BOILERPLATE = re.compile(
    r"^(See |Like |Return (self|key|value)\W|Initialize self|Helper for|Abstract base class for|Deprecated"
    r"|Create and return a new|This (method|function|class|is) |Overrid|Override|Implement|Constructor|Internal|TBD|XXX"
    r"|Alias |Synonym|Usage|Equivalent to |Inherit|Simple wrapper|Undocumented|Not implemented)",
    re.IGNORECASE,
)
LONGEST = 20  # words

SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]'\"])(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)[.!?:;]\s+(?=[A-Z`'\"(<-])")

# What announces an example or a list that the first sentence no longer holds.
DANGLING = re.compile(r",?\s*\(?\b(e\.g|i\.e|for example|such as|as follows|like this|namely|viz)$")

# Where an overlong sentence may end early and still be true.
CLAUSE = re.compile(r"(?:;|, (?:from|then|so|which|until|using|without|where|as|thus|such|optionally)\b)")

# In the source on every platform, but there only on some.
ELSEWHERE = re.compile(r"asyncio\.windows|_winapi|nt\.|msvcrt|socket\.fromshare|selectors\.(Devpoll|Kqueue)")


@dataclass(frozen=True, slots=True)
class Name:
    """A documented public name and its fact. `module` is where people find it; `name` is how they write it."""

    name: str
    module: str
    kind: str
    signature: str
    summary: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def documented_names(installation: Installation, limit: int | None = None) -> list[Name]:
    """Facts with distinct summaries, well-known modules first, at most `limit` of them; deterministic."""
    names = []
    for (dotted, module), found in public_definitions(installation).items():
        definition = found.definition
        prefix = "" if module == "builtins" else f"{module}."
        aliased = definition.kind == "method" and "." not in dotted.removeprefix(prefix)  # random.shuffle
        kind = "function" if aliased else definition.kind
        names.append(Name(dotted, module, kind, definition.signature, summarise(definition.docstring)))
    shared = Counter(normal(name.summary) for name in names)
    names = [name for name in names if name.summary and shared[normal(name.summary)] == 1]
    return names[:limit]


def public_definitions(installation: Installation) -> dict[tuple[str, str], Found]:
    """Each public definition once, under the first (dotted name, module) it is known by, in order of renown."""
    known: dict[tuple[str, str], Found] = {}
    seen: set[str] = set()
    for module in ordered_modules(installation):
        prefix = "" if module == "builtins" else f"{module}."
        for name in sorted(installation.public_names(module)):
            found = installation.find(module, name)
            if name.startswith("_") or found is None or found.identity in seen or ELSEWHERE.match(found.identity):
                continue
            seen.add(found.identity)
            known[prefix + name, module] = found
            if prefix + name in WITH_METHODS.split() or (installation.package and found.definition.kind == "class"):
                for member in found.definition.members:
                    if not (attribute := member.name.rpartition(".")[2]).startswith("_"):
                        known[f"{prefix}{name}.{attribute}", module] = Found(found.home, member)
    return known


def ordered_modules(installation: Installation) -> list[str]:
    """The public modules: the popular ones in their order, then the others, the less nested first."""
    rank = {module: index for index, module in enumerate(POPULAR.split())}
    public = [module for module in installation.public_modules() if not OBSCURE.match(module)]
    return sorted(public, key=lambda module: (rank.get(module, len(rank)), module.count("."), module))


def summarise(docstring: str) -> str:
    """The first sentence of a docstring as one line of plain text that ends in a period; "" if it gives none."""
    body = split_signature(docstring)[0]
    paragraph = re.split(r"\n\s*(?:\n|>>>|[-=~*]{3,}|:param|@param|Args:|Returns:)", body, maxsplit=1)[0]
    text = plain(paragraph)
    text = SENTENCE_END.split(text, maxsplit=1)[0].strip().rstrip(".:;,-! ")
    text = DANGLING.sub("", text)
    if len(text.split()) > LONGEST:
        text = re.sub(r"\s+\([^()]*\)", "", text)
    while len(text.split()) > LONGEST and (clauses := list(CLAUSE.finditer(text))):
        text = text[: clauses[-1].start()]
    if not 3 <= len(text.split()) <= LONGEST or BOILERPLATE.match(text) or not whole(text):
        return ""
    return f"{text[0].upper()}{text[1:]}." if text.split()[0].islower() else f"{text}."


def plain(text: str) -> str:
    """`text` on one line, without reST and Markdown marks."""
    text = re.sub(r":[a-z:]+:`~?([^`<]+)(?:<[^`]*>)?`", r"\1", text)
    text = re.sub(r"`([^`'\n]+)'", r"\1", text)
    text = re.sub(r"``?([^`]+)``?", r"\1", text)
    text = re.sub(r"(?<![\w*])\*{1,2}(\w[^*\n]*?)\*{1,2}(?![\w*])", r"\1", text)
    return " ".join(text.split())


def whole(text: str) -> bool:
    """Whether a line reads as a whole statement in plain ASCII: brackets and quotes closed, begun with a word."""
    opened, closed = sum(map(text.count, "([{<")), sum(map(text.count, ")]}>"))
    balanced = opened == closed or "->" in text
    return text.isascii() and text[0].isalnum() and balanced and text.count('"') % 2 == 0 and "::" not in text


def normal(text: str) -> str:
    """The form in which two texts are the same answer: case, white space and punctuation at word edges ignored."""
    return " ".join(filter(None, (word.strip("'\"`.,;:!?()[]{}<>*-") for word in text.lower().split())))
