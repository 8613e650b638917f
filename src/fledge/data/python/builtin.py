"""Reads modules written in C, which have no source here, by introspection.

Only modules of the standard library that are known to have no side effect on import are looked at: the `SAFE` list.
Of text signatures `inspect` cannot read, the first line of the docstring (`range(start, stop[, step])`) is used.
"""

import importlib
import inspect
import re
import sys
from types import ModuleType

from fledge.data.python.modules import Definition, Module

SAFE = """
    builtins _abc _asyncio _bisect _bz2 _codecs _collections _contextvars _csv _ctypes _datetime _decimal
    _elementtree _functools _hashlib _heapq _interpchannels _io _json _lsprof _lzma _operator _pickle
    _posixsubprocess _queue _random _signal _socket _sqlite3 _sre _ssl _stat _statistics _string _struct
    _suggestions _symtable _thread _tokenize _tracemalloc _typing _uuid _warnings _weakref _zoneinfo array
    atexit binascii cmath errno faulthandler fcntl gc grp itertools marshal math mmap posix nt pwd pyexpat
    resource select spwd sys syslog termios time unicodedata zlib
"""

# Docstrings written for C code name their own signature first: "dumps(obj) -> bytes" or "range(stop)".
CALL = re.compile(r"^[\w.]+\((?P<arguments>[^\n]*?)\)(?P<result>\s*(-+>|=|:|--)[^\n]*)?$")


def read_builtin(name: str) -> Module | None:
    """What the C module `name` holds, or None if it is not on the safe list, absent, or has Python source."""
    if name not in SAFE.split() or name not in sys.stdlib_module_names:
        return None
    try:
        live = importlib.import_module(name)
    except ImportError:
        return None
    module = Module(name, docstring=clean(live.__doc__))
    for attribute, value in sorted(vars(live).items()):
        module.identifiers.add(attribute)
        if isinstance(value, ModuleType):
            continue
        module.assigned.add(attribute)
        if callable(value):
            module.definitions[attribute] = introspect(attribute, value, method=False)
            if isinstance(value, type):
                module.identifiers.update(vars(value))
    return module


def introspect(name: str, value: object, *, method: bool) -> Definition:
    """The definition of a live C function, method or class (with its public methods)."""
    docstring, signature = split_signature(clean(inspect.getdoc(value) if method else own_docstring(value)))
    if not isinstance(value, type):
        kind = "property" if method and not callable(value) else "method" if method else "function"
        return Definition(name, kind, live_signature(value, method=method) or signature, docstring)
    members = tuple(
        introspect(f"{name}.{attribute}", member, method=True)
        for attribute, member in sorted(vars(value).items())
        if not attribute.startswith("_") and not isinstance(member, type)
    )
    bases = tuple(base.__name__ for base in value.__bases__ if base is not object)
    return Definition(name, "class", live_signature(value, method=True) or signature, docstring, bases, members)


def own_docstring(value: object) -> str | None:
    """The docstring of `value` itself, not one it inherits or takes from its type (as `None` or `1` would)."""
    documented = isinstance(value, type) or inspect.isroutine(value)
    return value.__doc__ if documented else None


def live_signature(value: object, *, method: bool) -> str:
    """`(obj, /, *, key=None)` as the C code declares it, of a method without `self`; "" where it declares none."""
    try:
        text = str(inspect.signature(value))  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, NameError, SyntaxError):  # it evaluates the defaults
        return ""
    return re.sub(r"^\((\$?self|cls|type)(, /)?(, )?", "(", text) if method else text


def split_signature(docstring: str) -> tuple[str, str]:
    """(docstring without the signature lines it opens with, the first such signature).

    Where that line is all there is, what it says of the result remains: "random() -> x in the interval [0, 1)."
    """
    lines = docstring.split("\n")
    signature = result = ""
    while lines and (call := CALL.match(lines[0].strip())):
        signature = signature or f"({call['arguments']})"
        result = (call["result"] or "").strip()
        lines.pop(0)
        if result.startswith(("--", ":")) and not result.startswith(("-->", "->")):
            lines.insert(0, result.lstrip("-: "))
            break
    rest = "\n".join(lines).strip()
    result = result.lstrip("->= ")
    return rest or (f"Return {result}" if len(result.split()) > 2 else ""), signature


def clean(text: str | None) -> str:
    """A docstring, dedented; "" for none."""
    return inspect.cleandoc(text).strip() if isinstance(text, str) else ""
