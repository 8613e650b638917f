"""Reads Python modules as text: what they define, document and import, without running them.

Source files are parsed with `ast`; nothing is imported, so nothing can have a side effect. Left out: names made at
run time (`globals().update(…)`, `__getattr__`), and which branch of a module-level `if` or `try` would run (unless it
asks for the platform): all are read, and the first documented definition of a name wins.
"""

import ast
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Definition:
    """A function, class, method, property or constant: `name` is relative to its module ("Path.exists")."""

    name: str
    kind: str
    signature: str = ""
    docstring: str = ""
    bases: tuple[str, ...] = ()
    members: "tuple[Definition, ...]" = ()


@dataclass(slots=True)
class Module:
    """A module as its text describes it.

    `imports` maps a local name to the dotted name it was imported from; `stars` are the modules of its star imports;
    `aliases` maps a name to the dotted expression assigned to it (`randint` -> "_inst.randint", `_inst` ->
    "Random()"); `exports` is `__all__` as far as it is literal; `identifiers` is every identifier in the file; `code`
    is its source without docstrings.
    """

    name: str
    docstring: str = ""
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    exports: list[str] | None = None
    exports_are_literal: bool = True
    identifiers: set[str] = field(default_factory=set)
    code: str = ""


def parse_module(name: str, source: str, *, package: bool) -> Module:
    """The module `name` (`package`: it is an `__init__.py`) from its source. Raises SyntaxError for broken source."""
    tree = ast.parse(source)
    module = Module(name, docstring=docstring_of(tree))
    parent = name if package else name.rpartition(".")[0]
    for statement in statements(tree.body):
        read_statement(module, statement, parent)
    spans: list[tuple[int, int]] = []
    for node in walk(tree):
        module.identifiers.update(spelt(node))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            spans += docstring_spans(node)
    module.code = without_lines(source, spans)
    return module


def parse_file(name: str, path: Path) -> Module | None:
    """The module in the file `path`; None where the file is not valid Python or not UTF-8."""
    try:
        return parse_module(name, path.read_text(encoding="utf-8"), package=path.name == "__init__.py")
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, those inside `if`, `try` and `with` included, in order."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            here = true_here(node.test)
            yield from statements(node.body if here is not False else [])
            yield from statements(node.orelse if here is not True else [])
        elif isinstance(node, ast.Try):
            yield from statements(node.body + node.orelse + node.finalbody)
            for handler in node.handlers:
                yield from statements(handler.body)
        elif isinstance(node, ast.With):
            yield from statements(node.body)


def true_here(test: ast.expr) -> bool | None:
    """Whether a test of the platform (`os.name == "nt"`, `sys.platform != "win32"`) holds here; None for others."""
    facts = {"os.name": os.name, "_os.name": os.name, "sys.platform": sys.platform, "_sys.platform": sys.platform}
    match test:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq() as sign], comparators=[ast.Constant(value=wanted)]):
            known = facts.get(dotted_name(left), os.name if dotted_name(left) == "name" else None)
            return None if known is None else (known == wanted) == isinstance(sign, ast.Eq)
    return None


def read_statement(module: Module, node: ast.stmt, parent: str) -> None:
    """Records what one module-level statement defines."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            definition = define(node)
            known = module.definitions.get(node.name)
            if known is None or (definition.docstring and not known.docstring):
                module.definitions[node.name] = definition
        case ast.Import():
            for alias in node.names:
                module.imports[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        case ast.ImportFrom():
            source = absolute(node, parent)
            for alias in node.names:
                if alias.name == "*":
                    module.stars.append(source)
                else:
                    module.imports.setdefault(alias.asname or alias.name, f"{source}.{alias.name}")
        case ast.Assign():
            for target in node.targets:
                read_assignment(module, target, node.value)
        case ast.AnnAssign() if node.value is not None:
            read_assignment(module, node.target, node.value)
        case ast.AugAssign(target=ast.Name(id="__all__")):
            add_exports(module, node.value)
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="__all__")), args=[argument])):
            add_exports(module, argument)


def read_assignment(module: Module, target: ast.expr, value: ast.expr) -> None:
    """Records `name = value`: `__all__`, a plain constant, or an alias such as `randint = _inst.randint`."""
    for name in (node.id for node in ast.walk(target) if isinstance(node, ast.Name)):
        module.assigned.add(name)
    if not isinstance(target, ast.Name):
        return
    if target.id == "__all__":
        add_exports(module, value)
    elif isinstance(value, ast.Call):
        if (called := dotted_name(value.func)) and not value.args:
            module.aliases.setdefault(target.id, f"{called}()")
    elif dotted := dotted_name(value):
        module.aliases.setdefault(target.id, dotted)


def add_exports(module: Module, value: ast.expr) -> None:
    """Adds the strings of a literal to `__all__`; anything else makes `__all__` incomplete."""
    strings = [node.value for node in ast.walk(value) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    module.exports = [*(module.exports or []), *strings]
    if not isinstance(value, ast.List | ast.Tuple | ast.Constant):
        module.exports_are_literal = False


def absolute(node: ast.ImportFrom, parent: str) -> str:
    """The absolute name of the module that `from … import` names, inside the package `parent`."""
    if not node.level:
        return node.module or ""
    parts = parent.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` for an expression of names and attributes, else ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted_name(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def define(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, owner: str = "") -> Definition:
    """The definition a `def` or `class` statement makes; a class carries its methods and properties."""
    name = f"{owner}.{node.name}" if owner else node.name
    if not isinstance(node, ast.ClassDef):
        signature, kind = signature_of(node, method=bool(owner)), "method" if owner else "function"
        if any(dotted_name(d).endswith("property") for d in node.decorator_list):
            signature, kind = "", "property"
        return Definition(name, kind, signature, docstring_of(node))
    members: dict[str, Definition] = {}
    for child in statements(node.body):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            member = define(child, name)
            if child.name not in members or (member.docstring and not members[child.name].docstring):
                members[child.name] = member
    bases = tuple(filter(None, (dotted_name(base) for base in node.bases)))
    constructor = members.get("__init__") or members.get("__new__")
    signature = constructor.signature if constructor else ""
    return Definition(name, "class", signature, docstring_of(node), bases, tuple(members.values()))


def signature_of(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> str:
    """`(a, b=1, *, c)` without annotations and, of a method, without `self` or `cls`."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    for argument in [*plain, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]:
        argument.annotation = None
    text = ast.unparse(arguments)
    if method and plain and plain[0].arg in ("self", "cls"):
        text = text.removeprefix(plain[0].arg).removeprefix(", ").removeprefix("/, ")
        text = "" if text == "/" else text
    return f"({text})"


def docstring_of(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The docstring, dedented."""
    text = ast.get_docstring(node, clean=False)
    return cleandoc(text).strip() if text else ""


def docstring_spans(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[int, int]]:
    """First and last line (from 0, last excluded) of the docstring, unless it is the whole body."""
    if ast.get_docstring(node, clean=False) is None or (len(node.body) == 1 and not isinstance(node, ast.Module)):
        return []
    first, second = node.body[0], node.body[1] if len(node.body) > 1 else None
    if first.lineno == getattr(node, "lineno", 0) or (second and second.lineno == first.end_lineno):
        return []
    return [(first.lineno - 1, first.end_lineno or first.lineno)]


def without_lines(source: str, spans: list[tuple[int, int]]) -> str:
    """`source` without the lines in `spans`."""
    if not spans:
        return source
    lines = source.splitlines()
    for start, end in sorted(spans, reverse=True):
        del lines[start:end]
    return "\n".join(lines).strip("\n") + "\n"


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree, in no particular order; three times as fast as `ast.walk`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for value in node.__dict__.values():
            if isinstance(value, list):
                waiting += [child for child in value if isinstance(child, ast.AST)]
            elif isinstance(value, ast.AST) and value.__dict__:
                waiting.append(value)


def spelt(node: ast.AST) -> list[str]:
    """The identifiers that one node spells: every string in it that is not a literal."""
    if isinstance(node, ast.Constant):
        return []
    words = [value for value in node.__dict__.values() if isinstance(value, str)]
    if isinstance(node, ast.alias | ast.ImportFrom):
        words += [part for word in words for part in word.split(".")]
    return words
