"""Decoding speed: fledge's engine against `generate` of `transformers`, on the same weights.

Greedy, prompts of equal length (so nothing is padded anywhere), every request to the same number of new tokens; the
prefill is within the time. The engine returns each token's log-probability besides, `generate` does not. Copies in
another precision are made beforehand on both sides. Static caches under torch.compile are tried for `transformers`
too; the engine does not compile.

Two models: 134 M parameters in SmolLM's LLaMA shape, where memory bandwidth decides, and the demo's (4 layers of 256),
where the number of operators per token does.
"""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from transformers import AutoModelForCausalLM, CompileConfig, GenerationConfig, PreTrainedModel

from fledge.checkpoint.directory import save_model
from fledge.generate.engine import Engine
from fledge.generate.packed import packed
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, count
from measure import Contender, arguments, fastest, interleaved, show, speedup, spread, tokens_per_second, warn_if_busy

GREEDY = Sampling(temperature=0)
SMOL = ModelConfig(
    vocab_size=49_152, width=576, layers=30, heads=9, kv_heads=3, head_size=64, hidden=1536, context=2048,
    norm_eps=1e-5, qk_norm=False,
)  # fmt: skip


def same_in_transformers(model: LanguageModel) -> PreTrainedModel:
    """The same weights, as `transformers` reads them from a checkpoint."""
    with TemporaryDirectory() as directory:
        save_model(model, Path(directory))
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def generate(model: PreTrainedModel, prompts: torch.Tensor, new: int, compiled: bool = False) -> Contender:
    """`new` tokens after prompts [B,T]. compiled: a static cache, the decoding step through torch.compile."""
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0, bos_token_id=None,
        cache_implementation="static" if compiled else None,
        compile_config=compile_everywhere() if compiled else None,
    )  # fmt: skip
    model.generation_config.eos_token_id = None
    mask = torch.ones_like(prompts)

    def run() -> None:
        with torch.inference_mode():
            ids = model.generate(prompts, attention_mask=mask, generation_config=config)
        assert ids.shape[1] == prompts.shape[1] + new

    return run


def compile_everywhere() -> CompileConfig:
    """`generate` compiles on GPUs only unless it is told otherwise."""
    config = CompileConfig(mode="default", fullgraph=False)
    config._compile_all_devices = True
    return config


def engine(model: LanguageModel, dtype: torch.dtype | None, prompts: torch.Tensor, new: int) -> Contender:
    """The same by the engine: on the model as it is, or on a packed copy in `dtype`."""
    ready = Engine(packed(model, dtype) if dtype else model, max_batch=len(prompts))
    requests = [Request(ids, new, GREEDY) for ids in prompts.tolist()]

    def run() -> None:
        assert all(len(completion.ids) == new for completion in ready.run(requests))

    return run


def measure(
    model: LanguageModel,
    batch: int,
    precisions: tuple[torch.dtype, ...],
    prompt: int,
    new: int,
    compiled: bool,
    rounds: int,
) -> list[tuple[str, ...]]:
    """The lines of the table for one model and batch size."""
    torch._dynamo.reset()
    prompts = torch.randint(0, model.config.vocab_size, (batch, prompt))
    runs: dict[str, Contender] = {}
    for dtype in precisions:
        other = copy.deepcopy(same_in_transformers(model)).to(dtype)
        name = str(dtype).removeprefix("torch.")
        runs[f"transformers, {name}"] = generate(other, prompts, new)
        if compiled:
            runs[f"transformers, {name}, compiled"] = generate(other, prompts, new, compiled=True)
        runs[f"fledge, {name}, packed"] = engine(model, dtype, prompts, new)
    if torch.float32 in precisions:
        runs["fledge, float32, the model that trains"] = engine(model, None, prompts, new)
    seconds = interleaved(runs, rounds)
    best = seconds[fastest(seconds, "transformers")]
    return [
        (
            f"{count(model) / 1e6:.1f} M",
            str(batch),
            name,
            tokens_per_second(batch * new, seconds[name]),
            f"{speedup(seconds[name], best):.2f}×",
            spread(seconds[name]),
        )
        for name in runs
    ]


def main() -> None:
    """Two models, several batch sizes."""
    quick, rounds = arguments(__doc__, rounds=5)
    warn_if_busy()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    prompt, new = (4, 8) if quick else (16, 128)
    both = (torch.bfloat16, torch.float32)
    demo = ModelConfig.sized(4, 4096, 512)
    if quick:
        small = SMOL.model_copy(update={"layers": 2, "vocab_size": 512})
        cases = [(small, (2,), both[:1]), (demo.model_copy(update={"vocab_size": 256}), (1, 8), both)]
    else:
        cases = [(demo, (1, 8, 64), both), (SMOL, (1, 8), both[:1])]
    columns = ("model", "batch", "what", "tokens/s", "× best transformers", "spread")
    for shape, batches, precisions in cases:
        torch.manual_seed(0)
        model = LanguageModel(shape).eval()
        for batch in batches:
            lines = measure(model, batch, precisions, prompt, new, not quick or shape.layers == 2, rounds)
            show(f"Decoding, {prompt} + {new} tokens, median of {rounds} rounds", columns, lines)


if __name__ == "__main__":
    main()
