"""Reading an installation: against the live interpreter (pydoc, inspect), and without running what is read."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.data.python.builtin import split_signature
from fledge.data.python.documents import LAYOUTS, collect_documents, pretraining_facts
from fledge.data.python.installation import Installation, import_name, read_installation
from fledge.data.python.modules import parse_module
from fledge.data.python.names import Name, documented_names, normal, summarise

FAMOUS = """
    len print dict.get str.join json.dumps os.getcwd os.path.join re.compile math.sqrt random.randint random.random
    itertools.islice functools.reduce collections.Counter collections.deque pathlib.Path.mkdir time.sleep shutil.copy
    struct.pack copy.deepcopy subprocess.run heapq.heappush socket.create_server operator.add
"""


@pytest.fixture(scope="module")
def names(library: Installation) -> list[Name]:
    return documented_names(library)


def test_enough_names_and_the_famous_ones(names: list[Name]) -> None:
    assert 1300 <= len(names) <= 3500
    assert not {*FAMOUS.split()} - {name.name for name in names}


def test_every_popular_name_exists_and_says_what_its_docstring_says(names: list[Name]) -> None:
    disagree = []
    for name in names[:1000]:
        live = pydoc.locate(name.name)
        assert live is not None, name
        said = re.sub(r"\W+", "", inspect.getdoc(live) or "").lower()
        if re.sub(r"\W+", "", name.summary).lower() not in said:
            disagree.append(name)
    # Markup and parentheses that were left out make a few differ; so do C twins of these modules' Python source.
    twins = {"datetime", "pickle", "heapq", "queue", "xml.etree.ElementTree", "locale"}
    assert len([name for name in disagree if name.module not in twins]) < 20, disagree


def test_signatures_agree_with_inspect(library: Installation) -> None:
    for dotted in ("json.dumps", "shutil.copytree", "textwrap.wrap", "pathlib.Path.mkdir", "functools.wraps"):
        found = library.find_dotted(dotted)
        assert found is not None
        live = inspect.signature(pydoc.locate(dotted))  # type: ignore[arg-type]
        parameters = [p for p in live.parameters if p != "self"]
        parsed = ast.parse(f"def f{found.definition.signature}: pass").body[0]
        assert isinstance(parsed, ast.FunctionDef)
        arguments = parsed.args
        assert [a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]] == [
            p for p in parameters if live.parameters[p].kind.name[:3] != "VAR"
        ]


def test_summaries_are_clean_and_distinct(names: list[Name]) -> None:
    assert len({normal(name.summary) for name in names}) == len(names)
    for name in names:
        assert name.summary.endswith(".")
        assert not name.summary.endswith((" e.g.", "..", " ."))
        assert "\n" not in name.summary
        assert len(name.summary.split()) <= 20
        assert not any(part.startswith("_") for part in name.name.split("."))


def test_all_names_holds_what_dir_says(library: Installation) -> None:
    existing = library.all_names()
    for module in ("json", "os", "os.path", "math", "shutil", "itertools", "functools", "collections", "datetime"):
        live = pydoc.locate(module)
        missing = {f"{module}.{attribute}" for attribute in dir(live) if not attribute.startswith("__")} - existing
        assert not missing


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("", ""),
        ("Do it.", ""),  # two words say nothing
        ("Do a thing well", "Do a thing well."),
        ("Do a thing\nwell.  And more.", "Do a thing well."),
        ("Do a thing well, e.g. Today or so.", "Do a thing well, e.g. Today or so."),
        ("range(stop) -> range object\n\nReturn an object that counts.", "Return an object that counts."),
        ("roll() -> x in the interval [0, 1).", "Return x in the interval [0, 1)."),
        ("Return ``x`` of :class:`Foo` and *y*.", "Return x of Foo and y."),
        ("Return `name' of it.", "Return name of it."),
        ("Return self+value.", ""),
        ("Return a (broken thing", ""),
        ("Ein schöner Text hier.", ""),
        (f"Count {'very ' * 25}far.", ""),
        (f"Count {'very ' * 15}far, so as to see how far one can go.", f"Count {'very ' * 15}far."),
        ("First line here.\n    >>> 1 + 1", "First line here."),
    ],
)
def test_summarise(docstring: str, summary: str) -> None:
    assert summarise(docstring) == summary


def test_split_signature() -> None:
    assert split_signature("f(a[, b]) -> int\nf(a) -> str\n\nText.") == ("Text.", "(a[, b])")
    assert split_signature("f(a) -- do it\nnow") == ("do it\nnow", "(a)")
    assert split_signature("Plain text (with this).") == ("Plain text (with this).", "")


SOURCE = '''"""Module."""
import os as system
from .near import thing as other
from ..far import *
from collections import OrderedDict

__all__ = ["f", "C"]
__all__ += ["roll"]

try:
    from fast import f
except ImportError:
    def f(a: int, /, b=1, *args, c, **rest) -> int:
        """Doc of f."""
        return 1

class C(OrderedDict):
    """Doc of C."""
    def __init__(self, x): "Sets up."; self.x = x
    def m(self):
        """Doc of m."""
    @property
    def p(self): return 1

_inst = C()
roll = _inst.m
'''


def test_parse_module() -> None:
    module = parse_module("a.b.c", SOURCE, package=False)
    assert module.exports == ["f", "C", "roll"]
    assert module.imports["system"] == "os"
    assert module.imports["other"] == "a.b.near.thing"
    assert module.stars == ["a.far"]
    assert module.definitions["f"].signature == "(a, /, b=1, *args, c, **rest)"
    assert module.definitions["C"].signature == "(x)"
    assert [(m.name, m.kind, m.docstring) for m in module.definitions["C"].members] == [
        ("C.__init__", "method", "Sets up."),
        ("C.m", "method", "Doc of m."),
        ("C.p", "property", ""),
    ]
    found = Installation({"a.b.c": module}).find("a.b.c", "roll")
    assert found is not None
    assert found.identity == "a.b.c.C.m"


def test_a_package_imports_relative_to_itself() -> None:
    module = parse_module("a.b", "from .c import x\nfrom . import y", package=True)
    assert module.imports == {"x": "a.b.c.x", "y": "a.b.y"}


def test_code_is_the_source_without_docstrings(library: Installation) -> None:
    for name in ("json.decoder", "shutil", "argparse", "dataclasses", "enum"):
        code, path = library.modules[name].code, Path(inspect.getsourcefile(pydoc.locate(name)) or "")  # type: ignore[arg-type]
        source = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(source):
            whole = not isinstance(node, ast.Module) and isinstance(node, documented) and len(node.body) == 1
            if isinstance(node, documented) and ast.get_docstring(node) is not None and not whole:
                del node.body[0]
        assert ast.dump(ast.parse(code)) == ast.dump(source)


def test_documents(library: Installation) -> None:
    documents = collect_documents(library, 1_000_000)
    kinds = {document.kind for document in documents}
    assert kinds == {"docs", "topics", "code"}
    assert 900_000 < sum(len(d.text.encode()) for d in documents if d.kind == "code") <= 1_000_000
    by_source = {document.source: document.text for document in documents}
    assert len(by_source) == len(documents)
    assert by_source["python:json.dumps"].startswith("json.dumps(obj, *, skipkeys=False")
    assert "most_common(n=None)" in by_source["python:collections.Counter"]
    assert not any(source.startswith(("python:test", "code:test")) for source in by_source)


def test_facts_come_in_every_layout(names: list[Name]) -> None:
    some = names[:50]
    documents = pretraining_facts(some)
    text = "\n".join(document.text for document in documents)
    for name in some:
        for _, layout in LAYOUTS:
            assert layout.format(**name.as_dict()) in text
    assert {document.kind for document in documents} == {"facts"}


def test_reading_imports_nothing_that_acts(tmp_path: Path) -> None:
    package = tmp_path / "loud"
    package.mkdir()
    (package / "__init__.py").write_text(
        'import pathlib\npathlib.Path(__file__).with_name("ran").touch()\n'
        'def shout(text):\n    """Say a text very loudly."""\n'
    )
    (package / "broken.py").write_text("def (")
    code = (
        "import sys; from fledge.data.python.installation import read_installation as read;"
        "from fledge.data.python.names import documented_names;"
        "print([n.name for n in documented_names(read('loud'))]);"
        "bad = {'antigravity', 'this', 'idlelib', 'turtle', 'tkinter', 'webbrowser', 'loud', 'test'};"
        "assert not bad & set(sys.modules), bad & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout == "['loud.shout']\n", done.stderr
    assert not (package / "ran").exists()


def test_an_installed_package() -> None:
    names = documented_names(read_installation("jinja2"))
    assert {name.name.split(".")[0] for name in names} == {"jinja2"}
    assert any(name.name == "jinja2.Environment.compile_expression" for name in names)
    assert import_name("PyYAML") == "yaml"
    with pytest.raises(FledgeError, match="'no_such_thing' is not installed"):
        read_installation("no_such_thing")


def test_the_same_installation_gives_the_same_text_whatever_the_hash_seed() -> None:
    code = (
        "from fledge.core.files import fingerprint; from fledge.data.python.questions import Plan, ask;"
        "from fledge.data.python.installation import read_installation as read;"
        "from fledge.data.python.names import documented_names;"
        "from fledge.data.python.documents import collect_documents, pretraining_facts;"
        "i = read(); n = documented_names(i, 300); q = ask(n, i.all_names(), Plan());"
        "print(fingerprint([[str(d) for d in collect_documents(i, 200000) + pretraining_facts(n)],"
        "str(q.demonstrations), str(q.prompts), str(q.evaluation)]))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    first, second = (run.communicate()[0] for run in runs)
    assert len(first) == 17
    assert first == second
