"""What a reader of the code may rely on: short files, docstrings, the field's own names, no path of a machine."""

import ast
import re
from pathlib import Path

import pytest

import fledge

ROOT = Path(fledge.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
AVOIDED = re.compile(r"(Manager|Handler|Helper)$|^Base[A-Z]")


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("file", FILES, ids=name)
def test_modules_and_public_names_are_documented(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "a module says what it does"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_names_are_the_fields_own(file: Path) -> None:
    assert file.stem not in ("utils", "helpers", "misc", "common")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef):
            assert not AVOIDED.search(node.name), node.name


@pytest.mark.parametrize("file", FILES, ids=name)
def test_nothing_is_unpickled(file: Path) -> None:
    assert not re.search(r"^\s*(import|from) pickle\b|pickle\.loads?\(|torch\.(load|save)\(", file.read_text(), re.M)


def test_stages_are_pages() -> None:
    for file in sorted((ROOT / "stages").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == file.stem:
                assert node.end_lineno - node.lineno <= 120, f"{file.name}:{node.name} is longer than a page"
