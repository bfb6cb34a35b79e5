"""Half precision in the benchmarks, on a CPU without instructions for it."""

import pytest
import torch
from half_precision import HALF, RoundedProducts

functional = torch.nn.functional


def convolution(x):
    return functional.conv2d(x, x[:, :, :3, :3], x[0, :, 0, 0], padding=1)


def linear(x):
    return functional.linear(x, x[0, 0], x[0, 0, 0])


def attention(x):
    return functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("product", [convolution, linear, attention, lambda x: x @ x.mT])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_products_are_those_of_float32_rounded_once(product, dtype, context):
    x = torch.randn(8, 8, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with context():
        with RoundedProducts():
            found = product(x)
        exact, native = product(x.float()), product(x).float()
    assert found.dtype == dtype
    rounding = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5 * exact.abs().mean()  # and another order of sums
    assert ((found.float() - exact).abs() <= rounding).all()
    apart = (found.float() - native).abs() / native.abs().clamp(min=native.abs().mean())
    assert apart.max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_all_else_is_as_it_is(dtype):
    """Sums are rounded as the format has it, and float32 stays."""
    x = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)

    def others(x):
        return functional.group_norm(functional.silu(x + x[:1]), 2)

    with RoundedProducts():
        inside, product = others(x), linear(x)
    assert torch.equal(inside, others(x))
    assert product.dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(product, linear(x))
