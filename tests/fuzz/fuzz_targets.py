"""Everything in fledge that reads a file somebody else may have written, each with valid files to start from.

A target reads bytes and returns, or raises a FledgeError of one printable line with a remedy. Anything else (another
exception, a hang, more memory than the harness allows, another process's files touched) is a finding.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from fledge.checkpoint.directory import load_model, save_model
from fledge.checkpoint.lstm import load_any
from fledge.checkpoint.resume import CHECKSUMS, TENSORS, TREE, load_state, save_state
from fledge.core.config import load_config
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, write_json
from fledge.core.nouns import Message
from fledge.data.columns import to_comparisons, to_conversations, to_documents
from fledge.data.readers import Reading, iterate
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.recipes.artifact import stamped
from fledge.recipes.proof import verified
from fledge.recipes.runner import plan, read_recipe
from fledge.stages import load_stage
from fledge.stages.run_record import read_run
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer

CHAT = [Message("user", "Is <|im_end|> héllo 你好?"), Message("assistant", "Yes.")]
PARTS = [{"type": "text", "text": "a"}]
ROWS: dict[str, list[dict[str, Any]]] = {
    "documents": [{"text": "one é"}, {"text": 'two, "quoted"\nnext line', "source": "web", "kind": "code"}],
    "conversations": [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": PARTS}]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"instruction": "say", "input": "it", "output": "it", "system": "be"},
        {"prompt": "a", "completion": "b"},
    ],
    "comparisons": [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"prompt": [{"role": "user", "content": "q"}], "completions": ["a", "b", "c"], "ranks": [0, 1.5, 1]},
    ],
}  # fmt: skip
PAGE = (
    "<html><head><title>Kestrels</title></head><body><nav>Home</nav><article><h1>A</h1><p>{}</p><pre>x</pre></article>"
)


@dataclass(frozen=True)
class Target:
    """A reader: `prepare` makes what lies around the file in a folder, `read` puts the bytes there and reads them."""

    seeds: Sequence[bytes]
    read: Callable[[bytes, Path], Any]
    prepare: Callable[[Path], Any] = lambda folder: None


def attempt(target: Target, data: bytes, folder: Path) -> bool:
    """Whether the bytes were taken; False if they were refused as they should be. Anything else is raised."""
    try:
        target.read(data, folder)
        return True
    except FledgeError as error:
        check(error)
        return False


def check(error: FledgeError) -> None:
    """A refusal is one printable line of a bearable length."""
    assert error.message.isprintable(), f"not one printable line: {error.message!r}"
    assert 0 < len(error.message) < 2000, f"a refusal of {len(error.message)} characters"


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def arrow(rows: list[dict[str, Any]], new: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[-1]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows({name: row.get(name, "") for name in rows[-1]} for row in rows)
    return sink.getvalue().encode()


def archive(page: bytes) -> bytes:
    """A crawl of one page, plain and packed, and an extracted text."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: %s\r\n\r\n%s"
    packed = http % (b"gzip", gzip.compress(page, mtime=0))
    records = [
        ("response", "application/http; msgtype=response", http % (b"identity", page)),
        ("response", "application/http; msgtype=response", packed),
        ("conversion", "text/plain", page),
    ]
    head = (
        "WARC/1.0\r\nWARC-Type: {}\r\nWARC-Target-URI: http://a.org/\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
    )
    return b"".join(head.format(what, kind, len(body)).encode() + body + b"\r\n\r\n" for what, kind, body in records)


def rows_of(name: str) -> Callable[[bytes, Path], None]:
    """Reads a data file of that name, and makes of its rows whatever can be made."""

    def read(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        report = Reading()
        rows = list(iterate(path, report))
        assert report.read == report.kept + sum(report.dropped.values())
        assert all("\n" not in reason for reason in report.dropped)
        for make in (to_documents, to_conversations, to_comparisons):
            try:
                made, dropped = make(rows)
            except FledgeError as error:
                check(error)
            else:
                assert len(made) + sum(dropped.values()) == len(rows)

    return read


def config(data: bytes, folder: Path) -> None:
    """The same bytes as the YAML of two stages."""
    path = folder / "config.yaml"
    path.write_bytes(data)
    try:
        load_config(load_stage("sft").config, path)
    except FledgeError as error:
        check(error)
        load_config(load_stage("pretrain").config, path)


def recipe(data: bytes, folder: Path) -> None:
    """A recipe, at its scale."""
    path = folder / "recipe.yaml"
    path.write_bytes(data)
    content = read_recipe(str(path))
    plan(content, folder / "run")
    plan(content, folder / "run", "smoke", ["depth=3", "tokenizer.vocab_size=400"])


def overrides(data: bytes, folder: Path) -> None:
    """Lines as overrides of the command line."""
    load_config(load_stage("ppo").config, None, data.decode("utf-8", "replace").split("\n"))


def tokenizer(name: str) -> Callable[[bytes, Path], None]:
    """Reads a tokenizer of which that file was changed, and uses it."""

    def read(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        found = Tokenizer.load(folder)
        ids = found.encode("Is <|im_end|> héllo 你好?\n\n  x" + "a" * 99)
        found.decode(ids)
        found.encode_batch(["a b", ""])
        if found.chat_template:
            render(found, CHAT)

    return read


def model(name: str) -> Callable[[bytes, Path], None]:
    """Loads a model of which that file was changed, and runs it."""

    def read(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        found = load_any(folder)
        found(torch.arange(4)[None])

    return read


def make_model(folder: Path) -> None:
    """A tiny model with its tokenizer; checksums would hide the rest."""
    save_model(tiny_model(), folder, tokenizer=tiny_tokenizer())
    (folder / "checksums.json").unlink()


def make_shards(folder: Path) -> None:
    """The same, with its weights in a shard."""
    make_model(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")


def tiny_model(**axes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_size": 8, "hidden": 16}
    return build(ModelConfig(**(shape | {"context": 32} | axes)))


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train(["I love New York Zoo. 你好 ☃ def f(x): return x " * 20], 300)


def artifact(data: bytes, folder: Path) -> None:
    """A step's record, as the runner, the verifier and the report read it."""
    place = folder / "run" / "sft"
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (place / "artifact.json").write_bytes(data)
    verified(folder / "run")
    stamped(place)
    read_run(folder / "run")


def made_artifact() -> bytes:
    content = {
        "step": "sft", "stage": "sft", "fingerprint": "0123456789abcdef", "seconds": 1.5, "peak_memory": 1 << 20,
        "config": {"model": "base"}, "environment": {"torch": "2"}, "files": {"metrics.jsonl": "0" * 64},
    }  # fmt: skip
    return json.dumps(content, indent=1).encode()


def state(name: str) -> Callable[[bytes, Path], None]:
    """A resume state of which one file was changed by somebody who also wrote new checksums."""

    def read(data: bytes, folder: Path) -> None:
        place = folder / "resume" / "step-000000003"
        make_state(folder)
        (place / name).write_bytes(data)
        if name != CHECKSUMS:
            write_json(place / CHECKSUMS, {each: checksum(place / each) for each in (TENSORS, TREE)})
        load_state(folder / "resume")

    return read


def make_state(folder: Path) -> None:
    values = {"step": 3, "model": {"a": torch.ones(2, 3)}, "rng": (torch.arange(3), [1.5, None, "x"]), "k": {1: True}}
    save_state(folder / "resume", values, 3)


def checksums(data: bytes, folder: Path) -> None:
    """A model's list of checksums."""
    (folder / "checksums.json").write_bytes(data)
    load_model(folder)


def files_of(make: Callable[[Path], Any], *names: str) -> list[bytes]:
    """The content of files that `make` writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return [(Path(folder) / name).read_bytes() for name in names]


TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] | upper + '] ' + m['content'] | trim }}\n{% endfor %}",
    "{%- set ns = namespace(n=0) -%}{%- macro turn(m) -%}<{{ m.role }}>{{ m.content }}{%- endmacro -%}"
    "{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}{{ ns.n ~ turn(m) }}{% if loop.last %}"
    "{{ raise_exception('no') }}{% endif %}{%- endfor -%}",
    "{% for m in messages %}{% generation %}{{ m | tojson(indent=1) }}{% endgeneration %}{{ range(3) | join(',') }}"
    "{% endfor %}",
]


def targets() -> dict[str, Target]:
    """All of them, by name."""
    every = [row for rows in ROWS.values() for row in rows]
    files = {
        "a.jsonl": [jsonl(rows) for rows in ROWS.values()],
        "a.json": [json.dumps(every, indent=1).encode(), json.dumps({"data": every[:2]}).encode(), jsonl(every)],
        "a.csv": [table(ROWS["documents"], ","), table(ROWS["conversations"], ";")],
        "a.tsv": [table(ROWS["documents"], "\t")],
        "a.parquet": [
            parquet(ROWS["documents"]), parquet(ROWS["comparisons"][:1], compression="zstd"),
            parquet(ROWS["conversations"][1:2], compression="none"),
        ],
        "a.arrow": [arrow(ROWS["documents"], pa.ipc.new_file), arrow(ROWS["documents"], pa.ipc.new_stream)],
        "a.html": [PAGE.format("The kestrel hovers over the field and looks for mice. " * 9).encode(), b"<p>a</p>"],
        "a.warc": [archive(PAGE.format("The kestrel hovers over the field and looks for mice. " * 9).encode())],
        "a.md": [b"# Title\n\nText *with* `marks`.\n", "señor".encode("utf-16")],
        "a.jsonl.gz": [gzip.compress(jsonl(every), mtime=0)],
        "a.parquet.gz": [gzip.compress(parquet(ROWS["documents"]), mtime=0)],
    }  # fmt: skip
    found = {f"data {name}": Target(seeds, rows_of(name)) for name, seeds in files.items()}
    found["config"] = Target(
        [
            b"model: runs/a\ndemonstrations: b.jsonl\nepochs: 2\noptimizer: {learning_rate: 2e-4}\n",
            b"documents: d\ntokenizer: t\nobjective: {span_mask: 1, lm: 2}\nweights:\n  code: 0.5\n",
        ],
        config,
    )
    written = (
        b"settings: {depth: 2, data: docs}\nscales:\n  smoke: [depth=1]\nsteps:\n  curate: {documents: '${data}'}\n"
    )
    found["recipe"] = Target([written + b"  tokenizer: {documents: '${curate}', vocab_size: 300}\n"], recipe)
    found["overrides"] = Target([b"policy=a\nreward=b\nprompts=c\nrollouts.kl_coefficient=0.1\nlength=64"], overrides)
    names = ("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors")
    made = dict(zip(names, files_of(make_model, *names), strict=True))
    for name in names[:2]:
        found[name] = Target([made[name]], tokenizer(name), make_model)
    found["chat_template.jinja"] = Target([t.encode() for t in TEMPLATES], tokenizer("chat_template.jinja"), make_model)
    configs = [made["config.json"], *foreign_configs()]
    found["config.json"] = Target(configs, model("config.json"), make_model)
    found["model.safetensors"] = Target(
        [made["model.safetensors"], save({"a": torch.ones(3)})], model("model.safetensors"), make_model
    )
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    found["model.safetensors.index.json"] = Target(
        [json.dumps(index).encode()], model("model.safetensors.index.json"), make_shards
    )
    pooling = b'{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}'
    found["1_Pooling/config.json"] = Target([pooling], model("1_Pooling/config.json"), make_encoder)
    found["checksums.json"] = Target([json.dumps({"config.json": "0" * 64}).encode()], checksums, make_model)
    found["artifact.json"] = Target([made_artifact()], artifact)
    inside = [f"resume/step-000000003/{name}" for name in (TREE, TENSORS, CHECKSUMS)]
    for name, seed in zip((TREE, TENSORS, CHECKSUMS), files_of(make_state, *inside), strict=True):
        found[f"resume {name}"] = Target([seed], state(name))
    return found


def make_encoder(folder: Path) -> None:
    """An encoder that gives embeddings."""
    axes = {"positions": "learned", "residual": "post", "norm": "layer", "final_norm": False, "embedding_norm": True}
    biases = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}
    plain = {"qk_norm": False, "gated": False, "activation": "gelu", "token_types": 2, "kv_heads": 2}
    save_model(tiny_model(shape="encoder", head="embedding", **axes, **biases, **plain), folder)
    (folder / "checksums.json").unlink()


def foreign_configs() -> list[bytes]:
    """config.json of other families, which the weights do not fit: what they claim is read all the same."""
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 300,
        "intermediate_size": 16,
    }
    common |= {"max_position_embeddings": 32}
    return [json.dumps(common | {"model_type": kind} | more).encode() for kind, more in FOREIGN.items()]


FOREIGN: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8,
            "low_freq_factor": 1,
            "high_freq_factor": 4,
            "rope_theta": 1e4,
        }
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "n_inner": None},
    "opt": {"ffn_dim": 16, "word_embed_proj_dim": 16, "do_layer_norm_before": True},
    "gpt_neox": {"rotary_pct": 0.25, "use_parallel_residual": True},
    "bloom": {"n_layer": 1, "n_head": 2},
    "bert": {"type_vocab_size": 2, "hidden_act": "gelu"},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "relative_attention_num_buckets": 32},
    "fledge_lstm": {"width": 16, "layers": 1, "context": 32},
}
