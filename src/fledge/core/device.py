"""Where and in which precision to compute, seeds and random state, memory, and a description of the machine."""

import ctypes
import gc
import os
import platform
import re
import resource
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import metadata
from pathlib import Path

import psutil
import torch

from fledge.core.errors import FledgeError

LEAST_MEMORY = 200 << 20  # bytes: with less left, the kernel may end the process at any moment


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is the first GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise FledgeError(f"device '{name}' asked for, but torch sees no GPU", "use device=auto or device=cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise FledgeError(f"unknown device '{name}'", "use auto, cpu, cuda or cuda:N") from None


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute precision; `auto` is bfloat16 where the hardware multiplies it faster than float32."""
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise FledgeError(f"unknown dtype '{name}'", f"use auto, {' or '.join(known)}")
    return known[name]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 matrix instructions (AVX-512 BF16 or AMX on a CPU, Ampere and later GPUs)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision: matrix products in `dtype`, everything delicate in float32; nothing at all for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The precision that a matrix product with `x` has here: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def rng_state() -> dict[str, torch.Tensor]:
    """The state of torch's random generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Puts back what `rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def peak_memory() -> int:
    """The most memory this process has held since `reset_peak_memory`, in bytes: resident, plus a GPU's allocated."""
    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return resident_peak() + allocated


def resident_peak() -> int:
    """The high-water mark of resident memory, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def release_memory() -> None:
    """Gives freed memory back to the system: collected garbage, compiled code of models that are gone, the heap."""
    torch.compiler.reset()
    release_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def release_heap() -> None:
    """Gives back garbage and what the heap holds unused."""
    gc.collect()
    with suppress(OSError, AttributeError):  # malloc_trim is glibc's
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Starts a new measurement of peak memory; where the system cannot (not Linux), the old peak stays."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def free_memory(device: torch.device) -> int:
    """Memory that can still be taken on `device`, in bytes; in a container no more than that may have."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, container_memory())


def container_memory(place: Path = Path("/sys/fs/cgroup")) -> int:
    """What the container's limit leaves, in bytes: the file cache counts as free. Very much where there is none."""
    try:
        limit = int((place / "memory.max").read_text())
        cached = re.search(r"^inactive_file (\d+)", (place / "memory.stat").read_text(), re.MULTILINE)
        return limit - int((place / "memory.current").read_text()) + int(cached[1] if cached else 0)
    except (OSError, ValueError):
        return sys.maxsize


def memory_is_running_out(least: int = LEAST_MEMORY) -> str:
    """Says how little is left once it is less than `least` bytes, while there is still time to stop; else ''."""
    free = free_memory(torch.device("cpu"))
    return f"only {free / 2**20:,.0f} MiB of memory are free" if free < least else ""


def environment() -> dict[str, str]:
    """What a reader of the results needs to know about the machine and the versions."""
    packages = ("fledge", "torch", "tokenizers", "tiktoken", "safetensors", "daft", "numpy")
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        **gpu,
        **{name: metadata.version(name) for name in packages},
    }


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
