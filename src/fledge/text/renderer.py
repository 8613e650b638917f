"""Jinja as chat templates are written for it, and the process in which a stranger's template runs.

A template is a program. Jinja's sandbox keeps it from Python's inner parts, but not from looping for ever or asking for
all the memory there is, so one that is not ours runs in a process of its own (`sandbox` starts it): bounded in time,
memory and output, no environment, and no way to open a file or a socket, all kept by the kernel. This file is that
program. It imports nothing of fledge, so that it starts in a tenth of a second.
"""

import json
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from typing import IO, Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Noncharacters of Unicode: they steer the rendering and never come out of it.
OPEN, CLOSE = "\ufdd1", "\ufdd2"
MEMORY = 1 << 29  # bytes, of the whole process
SECONDS = 3.0  # of processor time, for one rendering
LENGTH = 1 << 20  # characters that a text may have beyond `GROWTH` times what went into it
GROWTH = 4
Frame = dict[str, Any]


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: puts OPEN and CLOSE around what it encloses."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Callable[[], str]) -> str:
        return OPEN + caller() + CLOSE


@lru_cache
def compiled(source: str) -> jinja2.Template:
    """The template, compiled as `transformers` compiles it; raises jinja2.TemplateSyntaxError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON without Jinja's HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def refuse(message: str) -> None:
    """`raise_exception` of a template: it refuses a conversation."""
    raise jinja2.TemplateError(message)


def rendered(source: str, values: Frame) -> Frame:
    """What a template makes of its values: {"text"}, or {"syntax"} or {"refused"}, each with the reason."""
    try:
        template = compiled(source)
    except jinja2.TemplateSyntaxError as error:
        return {"syntax": f"line {error.lineno}: {error.message}"}
    except Exception as error:  # nested too deeply, or a constant that cannot be computed
        return {"syntax": f"{type(error).__name__}: {error}"}
    left = LENGTH + GROWTH * len(json.dumps(values))
    parts = []
    try:
        for part in template.generate(values):
            parts.append(part)
            left -= len(part)
            if left < 0:
                return {"refused": "it writes far more than it was given"}
    except MemoryError:
        parts.clear()
        return {"refused": f"it needs more than {MEMORY >> 20:,} MiB of memory"}
    except RecursionError:
        return {"refused": "it calls itself too deeply"}
    except Exception as error:  # a template is a program: it can fail in any way
        return {"refused": f"{error}"}
    return {"text": "".join(parts)}


def read_frame(file: IO[bytes]) -> Frame | None:
    """The next message of a pipe: a length in 8 bytes, then JSON. None at its end."""
    size = int.from_bytes(file.read(8), "little")
    if size > MEMORY:
        raise ValueError("no message is that long")
    return json.loads(file.read(size)) if size else None


def write_frame(file: IO[bytes], frame: Frame) -> None:
    """Writes one message."""
    data = json.dumps(frame).encode()
    file.write(len(data).to_bytes(8, "little") + data)
    file.flush()


def give_up_rights() -> None:
    """From here on this process can open no file or socket, start no process, and hold no more than MEMORY."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))


def main() -> None:
    """Renders what comes in on standard input until it ends. A rendering that takes too long ends the process."""
    for name in ("jinja2.debug", "pprint", "textwrap"):  # what Jinja imports when it is needed, and could not any more
        import_module(name)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    rendered("{{ strftime_now('%Y') }}{{ messages | tojson }}{{ 1 / 0 }}", {"messages": ["é"]})
    give_up_rights()
    while (frame := read_frame(source)) is not None:
        signal.setitimer(signal.ITIMER_PROF, frame["seconds"])  # its signal ends anything
        answer = rendered(frame["source"], frame["values"])
        write_frame(sink, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
