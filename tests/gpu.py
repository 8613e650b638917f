"""A GPU that is not there: code for GPUs runs to its end on a machine without one, and slips as on a real one.

Its tensors say that they are on `cuda:0`, hold their values in this process's memory, and refuse what a GPU refuses:
operands on two devices, numpy, and their address. Autocast lowers and raises precisions as on a GPU. It shows that
nothing is mixed up, not that a kernel works or is fast: compilers, streams and memory are none of its.

torch takes them for tensors on `meta` (a CPU build has no stream, hence no backward pass, for `cuda`), Python for
tensors on `cuda:0`; so `meta` beside such a tensor means the GPU. Of one thread: another sees no GPU.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default}
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}  # fmt: skip
LOWERED = {
    F.linear, F.scaled_dot_product_attention, torch.matmul, torch.bmm, torch.mm, torch.addmm, torch.baddbmm,
    torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__,
}  # fmt: skip
RAISED = {
    F.softmax, F.log_softmax, F.cross_entropy, F.nll_loss, F.layer_norm, F.mse_loss, F.softplus, torch.softmax,
    torch.log_softmax, torch.logsumexp, torch.exp, torch.log, torch.pow, torch.rsqrt, torch.sum, torch.cumsum,
    torch.norm, Tensor.softmax, Tensor.log_softmax, Tensor.logsumexp, Tensor.exp, Tensor.log, Tensor.pow, Tensor.rsqrt,
    Tensor.sum, Tensor.cumsum,
}  # fmt: skip


class OnGPU(Tensor):
    """A tensor on the GPU; `values` is what it holds."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnGPU":
        with torch.inference_mode(False):
            shape = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
            made: OnGPU = Tensor._make_subclass(cls, shape, False, device_for_backend_keys=GPU)
        made.values = values
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *like: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def data_ptr(self) -> int:
        raise RuntimeError("an address in a GPU's memory is asked for")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __repr__(self, **how: Any) -> str:
        return f"OnGPU({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Operators(TorchDispatchMode):
    """Computes what makes tensors on the GPU, and what is done with them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operator gives; raises RuntimeError where a GPU does."""
    with _disable_current_modes():
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = any(isinstance(x, OnGPU) for x in tensors)
        if here:
            check_devices(func, args, tensors)
        there = here if kwargs.get("device") is None else makes_on_gpu(func, args, torch.device(kwargs["device"]), here)
        args_, kwargs_ = pytree.tree_map_only(OnGPU, lambda x: x.values, (args, kwargs))
        if there and "device" in kwargs_:
            kwargs_ = kwargs_ | {"device": torch.device("cpu")}
        found = func(*args_, **kwargs_)
        if not there:
            return found
        if func is aten.copy_.default:
            return args[0]
        if func is aten._pack_padded_sequence.default:  # how many rows a step has is for the CPU
            return OnGPU(found[0]), found[1]
        found = pytree.tree_map_only(Tensor, OnGPU, found)
        aliases = here and any(result.alias_info for result in func._schema.returns)
        return return_and_correct_aliasing(func, args, kwargs, found) if aliases else found


def check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Refuses operands on two devices; scalars may be anywhere, and so may indices into what is on the GPU."""
    if func in BETWEEN_DEVICES or func is aten._pack_padded_sequence.default:
        return
    if func in INDEXING:
        if not isinstance(args[0], OnGPU):
            raise RuntimeError(f"{func}: indices should be on the CPU, as what they index is")
        tensors = [args[0], *args[2:3]]
    if any(isinstance(x, Tensor) and not isinstance(x, OnGPU) and x.ndim for x in tensors):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu")


def makes_on_gpu(func: Any, args: Any, device: torch.device, here: bool) -> bool:
    """Whether a result asked for on `device` is to be on the GPU. A lone number on `meta` is one that torch itself puts
    there: to fill a part of a tensor with, or where it has asked a tensor for its device."""
    if device.type != "meta" or here:
        return device.type in ("cuda", "meta")
    if func is aten._to_copy.default:
        return args[0].ndim == 0
    return func is aten.scalar_tensor.default or (
        func in (aten.full.default, aten.empty.memory_format) and len(args[0]) == 0
    )


class Calls(TorchFunctionMode):
    """What happens above the operators: devices get their number, lists that index become tensors, and autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        args = tuple(numbered(x) for x in args)
        if "device" in kwargs:
            kwargs["device"] = numbered(kwargs["device"])
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnGPU):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part).to(GPU) if isinstance(part, list) else part for part in index)
            args = (args[0], index, *args[2:])
        if func in LOWERED | RAISED and torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda") if func in LOWERED else torch.float32

            def cast(x: Tensor) -> Tensor:
                return x.to(dtype) if x.is_cuda and x.dtype in (torch.float32, torch.bfloat16) else x

            with torch.autocast("cuda", enabled=False):
                args, kwargs = pytree.tree_map_only(Tensor, cast, (args, kwargs))
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def numbered(x: Any) -> Any:
    """A device `cuda` is `cuda:0`."""
    return GPU if isinstance(x, str | torch.device) and str(x) == "cuda" else x


ANSWERS = {
    "is_available": lambda: True,
    "_lazy_init": lambda: None,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "a GPU that is not there",
    "is_bf16_supported": lambda including_emulation=True: True,
    "get_rng_state": lambda device="cuda": torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda state, device="cuda": None,
    "mem_get_info": lambda device=None: (80 << 30, 80 << 30),
    "max_memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "empty_cache": lambda: None,
}


@contextmanager
def gpu() -> Iterator[torch.device]:
    """While it lasts there is one."""
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # for tensors this small; beside another process threads would wait for each other
        for name, answer in ANSWERS.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        devices = "torch.utils._foreach_utils._get_foreach_kernels_supported_devices"
        stack.enter_context(patch(devices, lambda: ["cuda", "meta"]))
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(Operators())
        stack.enter_context(Calls())
        yield GPU
