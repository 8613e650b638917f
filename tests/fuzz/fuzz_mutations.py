"""Valid files → hostile ones: by bytes, by the structure of JSON, by the header of a safetensors file.

Deterministic from a `random.Random`. Leaves out coverage guidance, which `run.py --atheris` has.
"""

import json
import random
from copy import deepcopy
from typing import Any

TOKENS = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\r\n", b'"', b"'", b"\\", b"\\u0000",
    b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"- ", b"#", b"&a ", b"*a", b"<<: ", b"0x7fffffff",
    b"!!python/object/apply:os.system ['true']", b"2001-13-45", b"!!int ''", b"!!binary x", b"null", b"true", b"NaN",
    b"Infinity", b"-1", b"0", b"1e308", b"1e999", b"99999999999999999999999", b"../../../etc/passwd", b"/dev/zero",
    b"<", b"</p>", b"<!--", b"&#x110000;", b"<![CDATA[", b"{{", b"}}", b"{%", b"%}", b"|tojson", b"{% endfor %}",
    b"{% for i in range(9) %}", b"{{ messages[0].__class__ }}", b"PAR1", b"\x1f\x8b", b"Human:", b"\xe2\x80\xa8",
    b"\xf0\x9f\x99\x82",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**32, 2**53, 2**63, 2**64, 10**18, 10**30, -(2**63), 0.0, -0.5,
    1e-300, 1e308, float("nan"), float("inf"), "", "a", "../x", "/etc/passwd", "\0", "\ud800", "x" * 5000, "float32",
    "F64", "I8", [], [None], [[]], {}, {"": None}, [-1], [2**40], [2**62, 2**62], [0, 0], [8, 4], [0, 10**18],
    {"a": {"a": {"a": {}}}}, [1] * 300,
)  # fmt: skip


def mutated(seed: bytes, draw: random.Random) -> bytes:
    """A hostile file made of a valid one; one in twenty is left as it is."""
    if draw.random() < 0.05:
        return seed
    kinds = [of_bytes, of_bytes]
    if seed.lstrip()[:1] in (b"{", b"["):
        kinds += [of_json] * 3
    if is_safetensors(seed):
        kinds += [of_header] * 6
    return draw.choice(kinds)(seed, draw)


def of_bytes(seed: bytes, draw: random.Random) -> bytes:
    """Some bytes flipped, cut out, doubled, overwritten, or replaced by what has a meaning in some format."""
    data = bytearray(seed)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place, size = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 4, 8, 64))
        match draw.randrange(7):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
            case 1:
                del data[place : place + size]
            case 2:
                data[place:place] = data[place : place + size] * draw.choice((1, 2, 50))
            case 3:
                data[place : place + size] = draw.randbytes(size)
            case 4:
                data[place:place] = draw.choice(TOKENS)
            case 5:
                token = draw.choice(TOKENS)
                data[place : place + len(token)] = token
            case 6:
                del data[place:]
    return bytes(data)


def of_json(seed: bytes, draw: random.Random) -> bytes:
    """A JSON document (or lines of it) with values replaced, removed, doubled or moved."""
    lines = seed.splitlines() if b"}\n{" in seed else [seed]
    number = draw.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return of_bytes(seed, draw)
    for _ in range(draw.choice((1, 1, 2, 5))):
        value = disturbed(value, draw)
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def disturbed(value: Any, draw: random.Random) -> Any:
    """The value with one of its parts (or itself, rarely) made into something else."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.03:
        return deepcopy(draw.choice(VALUES))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    choice = draw.random()
    if choice < 0.1:
        del value[key]
    elif choice < 0.2:
        value[key] = deepcopy(value[draw.choice(keys)])
    elif choice < 0.25 and isinstance(value, dict):
        value[draw.choice(("", "type", "x" * 300, "__class__"))] = deepcopy(draw.choice(VALUES))
    else:
        value[key] = disturbed(value[key], draw)
    return value


def is_safetensors(data: bytes) -> bool:
    """Whether these bytes begin like a safetensors file."""
    return len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data)


def of_header(seed: bytes, draw: random.Random) -> bytes:
    """A safetensors file with its header, its header's length or its data changed."""
    size = int.from_bytes(seed[:8], "little")
    header, data = seed[8 : 8 + size], seed[8 + size :]
    if draw.random() < 0.2:
        size = draw.choice((0, 1, size - 1, size + 1, 2**20, 2**31, 2**63, 2**64 - 1))
        return size.to_bytes(8, "little") + header + data
    header = of_json(header, draw)
    return (
        len(header).to_bytes(8, "little")
        + header
        + (data[: draw.randrange(len(data))] if draw.random() < 0.1 else data)
    )
