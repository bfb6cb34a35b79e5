"""Half precision on a CPU without instructions for it: products are computed in float32 and rounded once.

That is what instructions for it do, too; only the order of the sums is another. Without it such a CPU takes several
times as long.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

HALF = (torch.bfloat16, torch.float16)
aten = torch.ops.aten
PRODUCTS = {
    aten.convolution.default, aten.conv2d.default, aten.linear.default, aten.matmul.default, aten.mm.default,
    aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}


class RoundedProducts(TorchDispatchMode):
    """Computes convolutions, matrix products and attention of half precision in float32, and rounds what they give."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        dtype = next((value.dtype for value in arguments if isinstance(value, torch.Tensor)), None)
        if function not in PRODUCTS or dtype not in HALF:
            return function(*arguments, **(named or {}))
        values, options = tree_map_only(torch.Tensor, torch.Tensor.float, (arguments, named or {}))
        answer = function(*values, **options)
        return tree_map_only(torch.Tensor, lambda value: value.to(dtype), answer)


def fast_half_precision():
    """A context in which half precision is as fast on this machine as it can be."""
    has_instructions = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return contextlib.nullcontext() if torch.cuda.is_available() or has_instructions else RoundedProducts()
