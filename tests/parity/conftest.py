"""`pytest tests/parity --write-families` writes what the parity tests measured into the table of docs/families.md."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from cases import CASES

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- measured by tests/parity -->\n", "<!-- end -->"
COLUMNS = {
    "test_we_read_what_they_write": "read",
    "test_they_read_what_we_write_and_the_tensors_are_identical": "written",
    "test_padding_agrees_with_them": "padded",
    "test_packed_documents_agree_with_each_alone": "packed",
    "test_decoding_through_the_cache_agrees_with_them": "cached",
}
MEASURED: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-families", action="store_true", help="write the table of docs/families.md")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = re.search(r"::(\w+)\[([\w.-]+)\]$", report.nodeid)
    if report.when != "call" or not report.passed or not found or found[2] not in CASES:
        return
    for name, value in report.user_properties:
        if name == "difference" and found[1] in COLUMNS:
            MEASURED[CASES[found[2]].family][COLUMNS[found[1]]].append(value)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not session.config.getoption("--write-families", default=False):
        return
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + table() + END + rest.split(END)[1])


def table() -> str:
    """The largest difference of logits of each family in each setting, over its configs."""
    lines = ["| family | configs | " + " | ".join(COLUMNS.values()) + " |", "|---|---" + "|---" * len(COLUMNS) + "|"]
    for family in dict.fromkeys(case.family for case in CASES.values()):
        names = ", ".join(f"`{name}`" for name, case in CASES.items() if case.family == family)
        cells = [MEASURED[family].get(column) for column in COLUMNS.values()]
        shown = (f"{max(cell):.0e}".replace("0e+00", "0") + f" ({len(cell)})" if cell else "–" for cell in cells)
        lines.append(f"| {family} | {names} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
