"""Small files that ask for all the time or memory there is: each is refused in one line, with nothing allocated."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fuzz_targets import files_of, make_model, make_shards, tiny_tokenizer

from fledge.checkpoint.directory import load_model
from fledge.checkpoint.lstm import load_any
from fledge.core import files
from fledge.core.config import read_yaml
from fledge.core.errors import FledgeError
from fledge.core.files import parse_json, read_json, weight
from fledge.data.readers import read
from fledge.recipes.runner import plan, read_recipe
from fledge.stages import load_stage  # noqa: F401 -- imported before memory is counted
from fledge.text.growth import check_growth
from fledge.text.tokenizer import Tokenizer

MOST = 300 << 20  # bytes that a refusal may take


@pytest.fixture(autouse=True)
def little_memory() -> Any:
    """More than MOST beyond what this process holds already is a MemoryError."""
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    held = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmSize"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(attempt: Callable[[], Any], *mentioned: str) -> None:
    with pytest.raises(FledgeError) as caught:
        attempt()
    assert caught.value.message.isprintable()
    assert caught.value.remedy
    for text in mentioned:
        assert text in caught.value.message


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefghijkl", "bcdefghijklm")
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm")
)
YAMLS = {
    "laughs": (LAUGHS, "aliases make it endless"),
    "merges": (MERGES, "aliases make it endless"),
    "itself": ("a: &a [*a]", "aliases make it endless"),
    "deep": ("[" * 20_000, "nested too deeply"),
    "large": ("# " + "x" * (1 << 18), "larger than 256 KiB"),
    "date": ("a: 2001-13-45", "month must be in 1..12"),
    "integer": ("a: !!int ''", "not valid YAML"),
    "timestamp": ("a: !!timestamp x", "not valid YAML"),
    "digits": ("a: " + "1" * 9999, "not valid YAML"),
    "code": ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
    "binary": ("a: \0", "not valid YAML"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(tmp_path: Path, name: str) -> None:
    text, says = YAMLS[name]
    (tmp_path / "a.yaml").write_text(text)
    refusal(lambda: read_yaml(tmp_path / "a.yaml"), says)


def test_honest_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {k: [1, 2]}\nb: *a\nc: {<<: *a, d: 1}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": {"k": [1, 2], "d": 1}}


RECIPES = {
    "steps: {../../x: {stage: curate}}": "cannot be the name of a step",
    "steps: {.hidden: {stage: curate}}": "cannot be the name of a step",
    "steps: {1: {}}": "cannot be the name of a step",
    "steps: {curate: {stage: [a]}}": "unknown stage",
    "settings: {depth: 2, 0x7fffffff}\nsteps: {curate: {inputs: '${data}'}}": "'data'",
    "settings: x\nsteps: {curate: {}}": "'settings'",
    "scales: {small: depth=1}\nsteps: {curate: {}}": "'scales'",
    "scales: [a]\nsteps: {curate: {}}": "'scales'",
    "settings: {a: .nan}\nsteps: {pretrain: {documents: d, tokenizer: t, clip: .nan}}": "clip",
}


@pytest.mark.parametrize("text", RECIPES)
def test_recipes(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    refusal(lambda: plan(read_recipe(str(tmp_path / "a.yaml")), tmp_path / "run"), RECIPES[text])


def test_json_that_is_deep_long_or_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    refusal(lambda: read_json(path), "not valid JSON")
    path.write_text("[" + "1" * 5000 + "]")
    refusal(lambda: read_json(path), "not valid JSON")
    with path.open("wb") as file:
        file.truncate(1 << 34)  # nothing is on the disk
    refusal(lambda: read_json(path), "larger than 256 MiB")
    monkeypatch.setattr(files, "HEAVIEST", 1 << 20)
    path.write_text("[" + "{}," * 30_000 + "{}]")
    refusal(lambda: read_json(path), "would take more than")
    refusal(lambda: read(path), "not valid JSON")


def test_the_weight_of_json_is_a_bound() -> None:
    """Against what Python really holds, for the shapes that are worst."""
    for text in (b"[" + b"{}," * 9999 + b"{}]", b"[" + b"[]," * 9999 + b"1]", b'["' + "🙂".encode() * 9999 + b'"]'):
        assert held(parse_json(text)) <= weight(text)
    many = b"{" + b",".join(b'"%d":1' % n for n in range(5000)) + b"}"
    assert held(parse_json(many)) <= 1.5 * weight(many)


def held(value: Any) -> int:
    inside = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return sys.getsizeof(value) + sum(held(part) for part in inside)


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return tiny_tokenizer().spec


def replaced(*pairs: tuple[str, str]) -> dict[str, Any]:
    steps = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in pairs]
    return {"type": "Sequence", "normalizers": steps}


def test_a_tokenizer_cannot_blow_texts_up(spec: dict[str, Any]) -> None:
    bombs: list[dict[str, Any]] = [
        replaced(*[("a", "aa")] * 60),
        replaced(("a", "a" * 10**6)),
        {"type": "Prepend", "prepend": "a" * 10**6},
        {"type": "Sequence", "normalizers": [replaced(*[("a", "aa")] * 4)] * 4},
    ]
    for bomb in bombs:
        refusal(lambda bomb=bomb: check_growth(spec | {"normalizer": bomb}), "times as long")
    check_growth(spec | {"normalizer": replaced((" ", "▁"), ("``", '"')), "decoder": {"type": "ByteLevel"}})


def test_padding_to_a_trillion_is_not_done(spec: dict[str, Any]) -> None:
    padding = {
        "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|pad|>",
    }  # fmt: skip
    tokenizer = Tokenizer(spec | {"padding": padding}, {"eos_token": "<|im_end|>"}, "")
    assert tokenizer.encode_special("I love") == tokenizer.encode("I love")


def test_a_regex_that_gives_up_is_a_refusal(spec: dict[str, Any]) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer(spec | {"pre_tokenizer": split}, {"eos_token": "<|im_end|>"}, "")
    refusal(lambda: tokenizer.encode("a" * 60 + "!"), "cannot deal with this text")
    refusal(lambda: tokenizer.encode_batch(["a" * 60 + "!"]), "cannot deal with this text")


def test_a_special_token_without_characters_is_none(spec: dict[str, Any]) -> None:
    empty = {**spec["added_tokens"][0], "id": 300, "content": ""}
    assert "" not in Tokenizer(spec | {"added_tokens": [*spec["added_tokens"], empty]}, {}, "").special


CONFIGS: dict[str, dict[str, Any]] = {
    "context": {"max_position_embeddings": 2**39},
    "head": {"head_dim": 2**30},
    "layers": {"num_hidden_layers": 200_000},
    "width": {"hidden_size": 2**30},
    "vocabulary": {"vocab_size": 2**38},
    "experts": {"model_type": "qwen3_moe", "architectures": None, "num_experts": 10**6, "moe_intermediate_size": 1},
    "nan": {"rms_norm_eps": float("nan")},
    "lstm": {"model_type": "fledge_lstm", "width": 2**20, "layers": 8, "context": 32},
    "lstm layers": {"model_type": "fledge_lstm", "width": 1, "layers": 10**9, "context": 32},
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_model(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_asks_for_too_much(directory: Path, name: str) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | CONFIGS[name]))
    refusal(lambda: load_any(directory), str(directory))


HEADERS: dict[str, dict[str, Any]] = {
    "overlap": {"a": [0, 8], "b": [4, 12]},
    "outside": {"a": [0, 2**40]},
    "backwards": {"a": [8, 0]},
    "hole": {"a": [4, 12]},
}


@pytest.mark.parametrize("name", HEADERS)
def test_offsets_of_safetensors(directory: Path, name: str) -> None:
    header = {key: {"dtype": "F32", "shape": [2], "data_offsets": place} for key, place in HEADERS[name].items()}
    write_safetensors(directory / "model.safetensors", header, 16)
    refusal(lambda: load_model(directory), "is damaged")


@pytest.mark.parametrize("shape", [[-2], [2**62, 2**62], [2**40], [2.5], None, "x", [0]])
def test_shapes_of_safetensors(directory: Path, shape: Any) -> None:
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}
    write_safetensors(directory / "model.safetensors", header, 8)
    refusal(lambda: load_model(directory), "model.safetensors is damaged")


@pytest.mark.parametrize("size", [0, 2**30, 2**63, 2**64 - 1])
def test_lengths_of_safetensors_headers(directory: Path, size: int) -> None:
    (directory / "model.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    refusal(lambda: load_model(directory), "model.safetensors is damaged")


def write_safetensors(path: Path, header: dict[str, Any], size: int) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/a.safetensors", "a\0.safetensors", "a/b.safetensors", "\n.safetensors"]
)
def test_an_index_names_files_beside_itself(tmp_path: Path, name: str) -> None:
    make_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refusal(lambda: load_model(tmp_path), "does not name shards in its own directory")


@pytest.mark.parametrize("name", ["config.json" * 99, "a\0b", ".", "", "\n"])
def test_checksums_of_what_cannot_be_a_file(directory: Path, name: str) -> None:
    (directory / "checksums.json").write_text(json.dumps({name: "0" * 64}))
    refusal(lambda: load_model(directory), "is missing")


def test_arrow_that_speaks_of_more_than_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"\xff\xff\xff\xff" + (2**31 - 8).to_bytes(4, "little") + b"x" * 400)
    refusal(lambda: read(tmp_path / "a.arrow"), "broken Arrow")


def test_arrow_whose_offsets_point_outside(tmp_path: Path) -> None:
    """Nothing but a look at them keeps a reader inside the file."""
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2**30, 3)))
    text = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"abc"))
    batch = pa.record_batch([text], names=["text"])
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    refusal(lambda: read(tmp_path / "a.arrow"), "broken Arrow")


def test_the_harness_can_find(tmp_path: Path) -> None:
    """A reader that crashes, one that hangs and one that eats memory are findings."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import run, fuzz_targets as f, time\n"
        "run.SECONDS, run.MEMORY = 0.3, 1 << 28\n"
        "def hang(data, folder):\n    while data: pass\n"
        "def eat(data, folder): bytearray(1 << 30)\n"
        "def crash(data, folder): raise KeyError('x')\n"
        "def fine(data, folder): pass\n"
        "f.targets = lambda: {n: f.Target([b'seed'], globals()[n]) for n in ('fine', 'eat', 'crash', 'hang')}\n"
        "from pathlib import Path; run.worker(['fine', 'eat', 'crash', 'hang'], 0, 2, 0, Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["findings"][:1] for row in found[:1]] == [[]]
    assert found[1]["findings"][0].startswith("MemoryError")
    assert found[2]["findings"][0].startswith("KeyError")
    assert len(found) == 3
    assert run.returncode == -27, run.stderr  # SIGPROF


def test_files_of_targets_are_what_the_package_writes() -> None:
    assert files_of(make_model, "config.json")[0].startswith(b"{")
