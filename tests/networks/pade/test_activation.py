"""PadeActivation."""

import numpy as np
import pytest
import torch

from custom_nets.networks import PadeActivation
from custom_nets.networks.pade import activation as pade_module


def published_formula(x: torch.Tensor, n: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """The formula of the paper, power by power, differentiable by autograd (away from 0)."""
    top = sum(n[i] * x**i for i in range(6))
    return top / (1 + sum(d[j].abs() * x.abs() ** (j + 1) for j in range(4)))


def test_golden_values_and_gradients(golden_dir):
    golden = np.load(golden_dir / "golden_pau.npz")
    activation = PadeActivation()
    x = torch.from_numpy(golden["x"]).requires_grad_()
    y = activation(x)
    y.sum().backward()
    np.testing.assert_allclose(activation.numerator.detach(), golden["n0"])
    np.testing.assert_allclose(y.detach(), golden["y_float64"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(x.grad, golden["dx"], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(activation.numerator.grad, golden["dn"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(activation.denominator.grad, golden["dd"], rtol=1e-4)


def test_gradients_equal_autograd_of_the_formula():
    torch.manual_seed(0)
    x = torch.randn(500, dtype=torch.float64, requires_grad=True)
    activation = PadeActivation().double()
    with torch.no_grad():
        activation.denominator[1] = -2.0
    weights = torch.randn(500, dtype=torch.float64)
    (activation(x) * weights).sum().backward()
    ours = [x.grad, activation.numerator.grad, activation.denominator.grad]
    expected = torch.autograd.grad(
        (published_formula(x, activation.numerator, activation.denominator) * weights).sum(),
        [x, activation.numerator, activation.denominator],
    )
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_sign_of_zero_counts_as_plus():
    activation = PadeActivation()
    with torch.no_grad():
        activation.denominator.zero_()
    x = torch.tensor([2.0], requires_grad=True)
    activation(x).backward()
    y = published_formula(x, activation.numerator, activation.denominator).detach()
    # d/dd_j of P / (1 + sum |d_j||x|^j) at d = 0 with slope +1 of |d_j|
    expected = torch.stack([-y[0] * 2.0**j for j in range(1, 5)])
    torch.testing.assert_close(activation.denominator.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    activation = PadeActivation()
    x = torch.tensor([-300.0, -3.0, 0.5, 3.0, 300.0], dtype=dtype, requires_grad=True)
    y = activation(x)
    y.float().sum().backward()
    reference = activation(x.detach().float())
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), reference, rtol=8e-3, atol=1e-3)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_no_overflow_at_1e4():
    activation = PadeActivation()
    x = torch.tensor([-1e4, 1e4], requires_grad=True)
    y = activation(x)
    y.sum().backward()
    expected = published_formula(x.detach().double(), activation.numerator.double(), activation.denominator.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=0)
    for gradient in (x.grad, activation.numerator.grad, activation.denominator.grad):
        assert torch.isfinite(gradient).all()


def test_saves_its_input_alone_for_backward():
    saved: list[torch.Tensor] = []
    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        PadeActivation()(x)
    assert sum(t.numel() for t in saved) == 1000 + 6 + 4


def test_scripted_equals_eager():
    activation = PadeActivation()
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(torch.jit.script(activation)(x), activation(x))


def test_compiled_kernels_equal_the_eager_form(monkeypatch):
    kernels = pade_module._kernels("cpu", True)
    if not kernels.works:
        pytest.skip("no compiler here")
    activation = PadeActivation()
    results = []
    for least in (0, 1 << 60):
        monkeypatch.setattr(kernels, "_least", least)
        activation.zero_grad()
        x = torch.linspace(-4, 4, 3 * 5 * 7).reshape(3, 5, 7).requires_grad_()
        y = activation(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, activation.numerator.grad, activation.denominator.grad))
    assert kernels.works
    for compiled, eager in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


def test_falls_back_to_the_eager_form_when_compilation_fails(monkeypatch, caplog):
    kernels = pade_module._Kernels("cpu", compiled=True)
    kernels.works = True

    def broken(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(kernels, "_forward", broken)
    monkeypatch.setattr(kernels, "_least", 0)
    activation = PadeActivation()
    x = torch.randn(10)
    result = kernels.forward(x, activation.numerator, activation.denominator)
    torch.testing.assert_close(result, published_formula(x, activation.numerator, activation.denominator))
    assert "slower eager form" in caplog.text
    assert not kernels.works


def test_memory_that_runs_out_is_no_missing_compiler(monkeypatch):
    kernels = pade_module._Kernels("cpu", compiled=True)
    kernels.works = True

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(kernels, "_forward", full)
    monkeypatch.setattr(kernels, "_least", 0)
    activation = PadeActivation()
    with pytest.raises(torch.OutOfMemoryError):
        kernels.forward(torch.randn(10), activation.numerator, activation.denominator)
    assert kernels.works


def test_whole_graph_compiles_through_it():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), PadeActivation())
    x = torch.randn(8, 4)
    torch.testing.assert_close(torch.compile(net, backend="aot_eager")(x), net(x))


def test_blocks_of_the_eager_form_change_nothing(monkeypatch):
    results = []
    for block in (7, 1 << 30):
        monkeypatch.setattr(pade_module, "_EAGER_BLOCK", block)
        activation = PadeActivation().double()
        x = torch.linspace(-4, 4, 60, dtype=torch.float64).reshape(3, 4, 5).requires_grad_()
        y = activation(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, activation.numerator.grad, activation.denominator.grad))
    for small, whole in zip(*results, strict=True):
        torch.testing.assert_close(small, whole)


def test_empty_inputs_are_allowed():
    assert PadeActivation()(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 1000, 3 * 1024 * 16 + 5])
def test_triton_kernels_equal_the_eager_form(dtype, size):
    generator = torch.Generator("cuda").manual_seed(0)
    x = (3 * torch.randn(size, device="cuda", generator=generator)).to(dtype)
    grad = torch.randn(size, device="cuda", generator=generator).to(dtype)
    numerator = torch.tensor(pade_module.LEAKY_RELU_NUMERATOR, device="cuda")
    denominator = torch.tensor(pade_module.LEAKY_RELU_DENOMINATOR, device="cuda") * torch.tensor(
        [1.0, -1, 1, -1], device="cuda"
    )
    kernels = pade_module._kernels("cuda", True)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    expected = pade_module._eager_forward(x, numerator, denominator)
    torch.testing.assert_close(kernels.forward(x, numerator, denominator), expected, **tolerance)
    found = kernels.backward(grad, x, numerator, denominator)
    expected = pade_module._eager_backward(grad, x, numerator, denominator)
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    scale = expected[1].abs().max()
    torch.testing.assert_close(found[1] / scale, expected[1] / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2] / scale, expected[2] / scale, rtol=1e-4, atol=1e-5)
    assert kernels.works


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_sign_of_zero_counts_on_a_gpu():
    numerator = torch.tensor(pade_module.LEAKY_RELU_NUMERATOR, device="cuda")
    denominator = torch.tensor(pade_module.LEAKY_RELU_DENOMINATOR, device="cuda")
    zeros, ones = torch.tensor([0.0, -0.0], device="cuda"), torch.ones(2, device="cuda")
    found = pade_module._kernels("cuda", True).backward(ones, zeros, numerator, denominator)[0]
    expected = pade_module._eager_backward(ones, zeros, numerator, denominator)[0]
    torch.testing.assert_close(found, expected)
    assert found[0] != found[1]
