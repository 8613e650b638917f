"""API keys: who may do what. The file holds hashes only; a key is shown once, when it is made.

A key has 256 random bits, so a plain SHA-256 of it cannot be turned back. Roles include one another: a user may ask
models, a labeller may also write and rank answers, an admin may do everything.
"""

import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fledge.core.errors import FledgeError

ROLES = ("user", "labeller", "admin")
PREFIX = "fledge-"


@dataclass(frozen=True)
class Key:
    """What the file knows of a key."""

    name: str
    role: str
    sha256: str
    created: int


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether the caller's role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Keys:
    """The keys in a file; a file that changes is read again."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.seen, self.known = path, -1.0, dict[str, Key]()
        self._read()

    def __len__(self) -> int:
        self._read()
        return len(self.known)

    def caller(self, key: str) -> Caller | None:
        """Whose key that is, or None."""
        self._read()
        found = self.known.get(digest(key))
        return Caller(found.name, found.role) if found else None

    def add(self, name: str, role: str) -> str:
        """Make a key; returns it, and it is nowhere else. Raises FledgeError for a name that is taken."""
        if role not in ROLES:
            raise FledgeError(f"there is no role '{role}'", f"roles: {', '.join(ROLES)}")
        if any(key.name == name for key in self.known.values()):
            raise FledgeError(f"there is a key called '{name}' already", "choose another name or remove that one")
        key = PREFIX + secrets.token_urlsafe(32)
        self._write([*self.known.values(), Key(name, role, digest(key), int(time.time()))])
        return key

    def remove(self, name: str) -> None:
        """Make a key worthless."""
        left = [key for key in self.known.values() if key.name != name]
        if len(left) == len(self.known):
            raise FledgeError(f"there is no key called '{name}'", "`fledge keys list` shows them")
        self._write(left)

    def _write(self, keys: list[Key]) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        work = self.path.with_name(self.path.name + ".writing")
        with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump([asdict(key) for key in keys], file, indent=1)
        work.replace(self.path)
        self.seen = -1.0
        self._read()

    def _read(self) -> None:
        if self.path is None:
            return
        try:
            changed = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            self.known = {}
            return
        if changed == self.seen:
            return
        try:
            rows = [Key(**row) for row in json.loads(self.path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, OSError) as error:
            raise FledgeError(f"{self.path} holds no keys: {error}", "make one with `fledge keys add`") from None
        self.known, self.seen = {key.sha256: key for key in rows}, changed


def digest(key: str) -> str:
    """The hash of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
