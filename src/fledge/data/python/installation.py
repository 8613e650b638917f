"""Finds the modules of a Python installation, or of one installed package, and follows names through them.

Source is parsed, C modules of a safe list are introspected (`builtin.py`); a package's own C extensions are left out,
because importing them could do anything. Tests, demos and modules that act on import are left out too.
"""

import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.core.errors import FledgeError
from fledge.data.python.builtin import SAFE, read_builtin
from fledge.data.python.modules import Definition, Module, parse_file

SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "ensurepip", "pydoc_data", "test", "tests"}
SKIPPED |= {"testing", "conftest", "site-packages", "__pycache__", "__main__", "__phello__", "xxlimited"}

# Modules known under another name than their file's.
PUBLIC = {"posixpath": "os.path"}


@dataclass(frozen=True, slots=True)
class Found:
    """A definition and the module it stands in."""

    home: str
    definition: Definition

    @property
    def identity(self) -> str:
        return f"{self.home}.{self.definition.name}"


class Installation:
    """The modules of an installation by name; `package` is the one asked for, None for the standard library."""

    def __init__(self, modules: dict[str, Module], package: str | None = None) -> None:
        self.modules = modules
        self.package = package

    def find(self, module: str, name: str, seen: frozenset[str] = frozenset()) -> Found | None:
        """Where `module.name` is defined, through imports, star imports and aliases; documented ones first."""
        here, key = self.modules.get(module), f"{module}.{name}"
        if here is None or key in seen:
            return None
        seen |= {key}
        own = here.definitions.get(name)
        candidates = [Found(module, own)] if own else []
        if own is None or not own.docstring:
            candidates += filter(None, self.elsewhere(here, name, seen))
        return next((found for found in candidates if found.definition.docstring), next(iter(candidates), None))

    def elsewhere(self, here: Module, name: str, seen: frozenset[str]) -> Iterator[Found | None]:
        """What `name` may stand for when `here` does not define it itself."""
        if name in here.imports:
            yield self.find_dotted(here.imports[name], seen)
        if name in here.aliases and not here.aliases[name].endswith("()"):
            yield self.find_expression(here, here.aliases[name], seen)
        for star in here.stars:
            if not name.startswith("_"):
                yield self.find(star, name, seen)

    def find_dotted(self, dotted: str, seen: frozenset[str] = frozenset()) -> Found | None:
        """The definition with an absolute name such as `json.decoder.JSONDecoder.decode`."""
        parts = dotted.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:cut])
            if module in self.modules:
                found = self.find(module, parts[cut], seen)
                return self.find_members(found, parts[cut + 1 :], seen)
        return None

    def find_expression(self, here: Module, expression: str, seen: frozenset[str]) -> Found | None:
        """What an expression such as `_inst.randint` refers to inside the module `here`."""
        head, *rest = expression.split(".")
        if head in here.imports and here.imports[head] in self.modules and rest:
            return self.find_dotted(f"{here.imports[head]}.{'.'.join(rest)}", seen)
        if here.aliases.get(head, "").endswith("()"):
            head = here.aliases[head].removesuffix("()")
        return self.find_members(self.find(here.name, head, seen), rest, seen)

    def find_members(self, found: Found | None, path: list[str], seen: frozenset[str]) -> Found | None:
        """The member of a class at the end of `path`, in the class itself or a base of it."""
        for attribute in path:
            found = self.find_member(found, attribute, seen) if found else None
        return found

    def find_member(self, found: Found, attribute: str, seen: frozenset[str]) -> Found | None:
        owner = found.definition
        for member in owner.members:
            if member.name.rpartition(".")[2] == attribute:
                return Found(found.home, member)
        for base in owner.bases:
            parent = self.find_expression(self.modules[found.home], base, seen)
            if (
                parent
                and parent.identity != found.identity
                and (inherited := self.find_member(parent, attribute, seen))
            ):
                return inherited
        return None

    def public_modules(self) -> Iterator[str]:
        """The modules whose names people write, in alphabetical order; in a package, only its own."""
        for name in sorted(self.modules):
            hidden = any(part.startswith("_") for part in name.split("."))
            if not hidden and (self.package is None or name.split(".")[0] == self.package):
                yield name

    def public_names(self, module: str) -> list[str]:
        """The names `module` offers: its `__all__` if that is literal, else what it defines and gathers."""
        here = self.modules[module]
        if here.exports is not None and here.exports_are_literal:
            return list(dict.fromkeys(here.exports))
        names = [*(here.exports or []), *here.definitions, *here.aliases]
        top = module.split(".")[0]
        if here.exports is not None or top == self.package:  # a package's front door gathers its names
            names += [name for name, target in here.imports.items() if target.split(".")[0] == top]
        for star in here.stars:
            if star in self.modules and (star in SAFE.split() or here.exports is not None):
                names += self.public_names(star)
        return sorted({name for name in names if not name.startswith("_")})

    def attributes(self, module: str, seen: frozenset[str] = frozenset()) -> set[str]:
        """Every name that `module.NAME` reaches, documented or not, public or not."""
        here = self.modules.get(module)
        if here is None or module in seen:
            return set()
        names = {*here.definitions, *here.imports, *here.aliases, *here.assigned}
        for star in here.stars:
            names |= self.attributes(star, seen | {module})
        return names

    def all_names(self) -> set[str]:
        """All that exists: dotted names of modules, attributes and members, and every identifier in the source."""
        names: set[str] = set()
        for module, here in self.modules.items():
            names |= {module, *module.split("."), *here.identifiers}
            prefix = "" if module == "builtins" else f"{module}."
            names |= {f"{prefix}{attribute}" for attribute in self.attributes(module)}
            for definition in here.definitions.values():
                names |= {f"{prefix}{member.name}" for member in members(definition)}
        return names


def members(definition: Definition) -> Iterator[Definition]:
    """The members of a definition, theirs included."""
    for member in definition.members:
        yield member
        yield from members(member)


def read_installation(package: str | None = None) -> Installation:
    """The standard library, and `package` (a distribution or import name) beside it if one is given.

    Raises FledgeError if the package is not installed or holds no Python source.
    """
    root_of_package = package_root(package := import_name(package)) if package else Path()
    modules = {name: module for name in SAFE.split() if (module := read_builtin(name))}
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - SKIPPED):
        modules |= read_tree(name, root)
    if package:
        own = read_tree(package, root_of_package)
        if not own:
            raise FledgeError(f"package '{package}' holds no Python source", "choose a package written in Python")
        modules |= own
    return Installation(modules, package)


def read_tree(name: str, root: Path) -> dict[str, Module]:
    """The module `name` below `root` and, if it is a package, its submodules, by their public names."""
    single, folder = root / f"{name}.py", root / name
    files = [single] if single.is_file() else sorted(folder.rglob("*.py"))
    modules = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        if SKIPPED & set(parts) or any(part.startswith("test_") for part in parts):
            continue
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if module := parse_file(PUBLIC.get(dotted, dotted), file):
            modules[module.name] = module
    return modules


def import_name(package: str) -> str:
    """The name to import for a distribution's name ("scikit-learn" -> "sklearn")."""
    provided = importlib.metadata.packages_distributions()
    wanted = package.lower().replace("_", "-")
    if package in provided or package in sys.stdlib_module_names:
        return package
    names = [name for name, owners in provided.items() if wanted in [o.lower().replace("_", "-") for o in owners]]
    public = sorted(name for name in names if not name.startswith("_"))
    return public[0] if public else package


def package_root(package: str) -> Path:
    """The folder that holds the top-level package or module, found without importing it."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FledgeError(
            f"package '{package}' is not installed here", f"pip install {package}, or name another package"
        )
    origin = Path(spec.origin)
    return origin.parent.parent if spec.submodule_search_locations else origin.parent
