"""On the PYTHONPATH of a process it notes every attempt to reach a network, and lets none through.

Python's own attempts are seen by an audit hook. Those of native libraries are seen, in a network namespace without any
network (`unshare --net`), by the kernel's counters of packets that had nowhere to go.
"""

import atexit
import os
import socket
import sys
from pathlib import Path
from typing import Any

ASKS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")


def note(text: str) -> None:
    with open(os.environ["OFFLINE_LOG"], "a") as log:
        log.write(f"{' '.join(sys.argv[:4])}: {text}\n")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ASKS:
        first = arguments[0]
        if isinstance(first, socket.socket) and first.family == socket.AF_UNIX:
            return
        note(f"{event} {arguments[-1]!r}")
        raise OSError("there is no network")


def packets() -> int:
    """How many packets found no way out of this network namespace."""
    names, counts = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    return int(counts[names.index("OutNoRoutes")])


def count() -> None:
    if packets():
        note(f"{packets()} packets left a native library")


sys.addaudithook(watch)
if os.environ.get("OFFLINE_NAMESPACE"):
    atexit.register(count)
