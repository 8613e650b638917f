"""No network unless asked, no telemetry. The whole smoke recipe runs offline in test_story, watched as here."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from conftest import offline
from fledge.cli.main import TELEMETRY

SWITCH = re.compile(r"""["']([A-Z_]*(?:TELEMETRY|ANALYTICS|NOT_TRACK|USAGE_STATS)[A-Z_]*)["']""")
NATIVE = (
    "import ctypes, struct, socket; libc = ctypes.CDLL(None); s = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0); "
    "a = struct.pack('=HH4s8x', socket.AF_INET, socket.htons(80), bytes([93, 184, 216, 34])); libc.connect(s, a, 16)"
)


@pytest.mark.parametrize(
    ("attempt", "seen"),
    [
        ("import urllib.request; urllib.request.urlopen('http://example.com')", "socket.getaddrinfo"),
        ("import socket; socket.create_connection(('93.184.216.34', 80))", "socket.getaddrinfo"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('93.184.216.34', 53))", "socket.sendto"),
        (NATIVE, "1 packets left a native library"),
        ("import socket; a, b = socket.socketpair(); a.send(b'x')", ""),
    ],
)
def test_the_watch_sees_every_attempt(tmp_path: Path, attempt: str, seen: str) -> None:
    command, environment = offline(tmp_path / "log")
    if attempt == NATIVE and not command:
        pytest.skip("needs `unshare --net`")
    subprocess.run([*command, sys.executable, "-c", attempt], env=environment, capture_output=True)
    log = (tmp_path / "log").read_text()
    assert seen in log
    assert bool(log) == bool(seen)


def test_every_switch_of_telemetry_that_a_dependency_knows_is_off() -> None:
    """Searches the installed core dependencies for the names of such switches."""
    known: set[str] = set()
    for requirement in metadata.requires("fledge") or []:
        name = re.match(r"[\w.-]+", requirement)
        if "extra ==" in requirement or name is None:
            continue
        for file in metadata.files(name[0]) or []:
            if file.suffix == ".py":
                known |= set(SWITCH.findall(Path(str(file.locate())).read_text("utf-8", "replace")))
    assert "DAFT_ANALYTICS_ENABLED" in known  # the search finds what is there
    assert known <= TELEMETRY.keys()


def test_the_switches_are_set_before_anything_is_imported() -> None:
    code = "import sys; sys.argv = ['fledge', '--help']; from fledge.cli.main import run; run()"
    show = f"import atexit, os; atexit.register(lambda: print([os.environ.get(n) for n in {sorted(TELEMETRY)}])); "
    clean = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    done = subprocess.run([sys.executable, "-c", show + code], capture_output=True, text=True, env=clean)
    assert done.stdout.splitlines()[-1] == str([TELEMETRY[name] for name in sorted(TELEMETRY)])
    kept = subprocess.run(
        [sys.executable, "-c", show + code], capture_output=True, text=True, env=clean | {"DO_NOT_TRACK": "0"}
    )
    assert "'0'" in kept.stdout.splitlines()[-1]  # who wants it can have it
