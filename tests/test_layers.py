"""A package may import only from rows below it; packages in one row do not import each other."""

import ast
from pathlib import Path

import pytest

import fledge

ROOT = Path(fledge.__file__).parent
ROWS = [
    ["cli"],
    ["recipes"],
    ["stages", "serve"],
    ["evaluate", "assist"],
    ["feedback"],
    ["train", "generate", "adapt"],
    ["distributed", "checkpoint"],
    ["model", "data", "objectives"],
    ["text"],
    ["core"],
]
ROW_OF = {package: index for index, row in enumerate(ROWS) for package in row}


def imports(source: str) -> set[str]:
    """The fledge packages that a source text imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "fledge" else [node.module]
            )
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("fledge.")}
    return found


def violations(package: str, source: str) -> list[str]:
    return [
        other
        for other in sorted(imports(source))
        if other in ROW_OF and other != package and ROW_OF[other] <= ROW_OF[package]
    ]


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_downwards(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    if package in ("__init__.py", "__main__.py"):
        return
    assert package in ROW_OF, f"{package} has no row in the house"
    assert violations(package, file.read_text()) == []


def test_the_rule_can_fail() -> None:
    assert violations("model", "from fledge.train.loop import fit") == ["train"]
    assert violations("train", "import fledge.generate.engine") == ["generate"]
    assert violations("train", "from fledge.model import heads") == []
