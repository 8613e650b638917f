"""requirements.lock holds what pyproject.toml asks for: by hash, within its bounds, and nothing twice."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lock import lock_of

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def locked() -> list[tuple[str, str]]:
    """Names and versions."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), "a line without a version or a hash"
    return [(each[1], each[2]) for each in found if each]


def test_the_lock_holds_what_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(each) for each in project["dependencies"] + extras["dev"] + extras["tasks"] + extras["serve"]]
    versions = dict(locked())
    assert len(versions) == len(locked())
    missing = []
    for each in asked:
        name = canonicalize_name(each.name)
        if name not in ("torch", "fledge") and not each.specifier.contains(versions.get(name, "0"), prereleases=True):
            missing.append(f"{each} is locked at {versions.get(name)}")
    assert not missing, "run `python tests/lock.py`"


def test_a_file_without_a_hash_cannot_be_locked() -> None:
    name, mark = {"name": "A_b", "version": "1"}, {"archive_info": {"hashes": {"sha256": "0" * 64}}}
    torch = {"name": "torch", "version": "2"}
    text = lock_of([{"metadata": each, "download_info": mark} for each in (name, torch)])
    assert text.splitlines()[1:] == [f"a-b==1 --hash=sha256:{'0' * 64}"]
    with pytest.raises(KeyError):
        lock_of([{"metadata": name, "download_info": {"archive_info": {"hashes": {}}}}])
