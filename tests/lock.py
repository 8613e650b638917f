"""Writes requirements.lock: every package that the tests need, pinned, with the sha256 of the file pip would install.

    python tests/lock.py            asks pip to resolve `.[dev,tasks]` for this interpreter, and installs nothing
    python tests/lock.py --torch    prints the bounds of PyTorch, which the lock leaves out

PyTorch and what comes with its CUDA builds are left out: one version has many files, and which is right depends on the
machine. No index is named, so the lock serves any mirror that has the same files. `make locked` installs from it.

Not collected by pytest: it needs a package index.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LEFT_OUT = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*|fledge)$")


def resolved() -> list[dict[str, Any]]:
    """What pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), f"{ROOT}[dev,tasks]"], check=True)
        return json.loads(report.read_text())["install"]


def lock_of(packages: list[dict[str, Any]]) -> str:
    """The text of the lock; raises KeyError for a package without a hash."""
    lines = []
    for package in packages:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        if not LEFT_OUT.match(name):
            mark = package["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={package['metadata']['version']} --hash=sha256:{mark}")
    where = f"CPython {'.'.join(platform.python_version_tuple()[:2])}, {platform.system()} {platform.machine()}"
    return (
        "\n".join([f"# Made by tests/lock.py for {where}; PyTorch is left out: see SECURITY.md.", *sorted(lines)])
        + "\n"
    )


def main() -> None:
    """Resolves and writes."""
    if "--torch" in sys.argv:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return print(next(each for each in project["dependencies"] if each.startswith("torch")))
    (ROOT / "requirements.lock").write_text(lock_of(resolved()))


if __name__ == "__main__":
    main()
