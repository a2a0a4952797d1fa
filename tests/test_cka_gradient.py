import pytest
import torch

from modalign.cka import cka, cka_matrix, hsic

# (n, d1, d2): Gram side, feature side, either side of one
SHAPES = [(5, 4, 6), (9, 2, 3), (6, 1, 9)]
KERNELS = {"linear": "linear", "rbf": "rbf", "callable": lambda z: (1 + z @ z.T) ** 2}

kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
biases = pytest.mark.parametrize("debiased", [False, True])


def draw(n, d1, d2, dtype=torch.float64):
    x = torch.randn(n, d1, dtype=dtype)
    y = torch.randn(n, d2, dtype=dtype) + x[:, :1]
    return x.requires_grad_(), y.requires_grad_()


@biases
@kernels
@shapes
@pytest.mark.parametrize("shift", [0, 3])
def test_gradcheck(shift, shape, kernel, debiased):
    inputs = [z.detach().add(shift).requires_grad_() for z in draw(*shape)]
    assert torch.autograd.gradcheck(
        lambda x, y: cka(x, y, kernel=kernel, debiased=debiased), inputs
    )


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradcheck_of_hsic(unbiased):
    x, y = draw(6, 3, 4)
    assert torch.autograd.gradcheck(lambda x, y: hsic(x @ x.T, y @ y.T, unbiased=unbiased), (x, y))


@biases
@shapes
def test_the_closed_form_is_what_autograd_finds(shape, debiased):
    x, y = draw(*shape)
    ours = torch.autograd.grad(cka(x, y, debiased=debiased), (x, y))
    by_autograd = cka(x, y, kernel=lambda z: z @ z.T, debiased=debiased)
    torch.testing.assert_close(ours, torch.autograd.grad(by_autograd, (x, y)), rtol=0, atol=1e-10)


@biases
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@shapes
def test_no_gradient_along_what_cka_is_blind_to(shape, kernel, debiased):
    inputs = draw(*shape)
    grads = torch.autograd.grad(cka(*inputs, kernel=kernel, debiased=debiased), inputs)
    for z, grad in zip(inputs, grads, strict=True):
        assert grad.abs().max() > 1e-3
        assert (z * grad).sum().abs() < 1e-12  # scale
        assert grad.sum(0).abs().max() < 1e-12  # shift
        turn = z.T @ grad
        torch.testing.assert_close(turn, turn.T, rtol=0, atol=1e-12)  # rotation


@biases
@kernels
@shapes
def test_one_input_may_be_fixed(shape, kernel, debiased):
    x, y = draw(*shape)
    x_grad, y_grad = torch.autograd.grad(cka(x, y, kernel=kernel, debiased=debiased), (x, y))
    value = cka(x, y.detach(), kernel=kernel, debiased=debiased)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], x_grad)
    value = cka(x.detach(), y, kernel=kernel, debiased=debiased)
    torch.testing.assert_close(torch.autograd.grad(value, y)[0], y_grad)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_fixed_input_from_inference_mode(kernel):
    x, y = draw(8, 3, 4)
    expected = torch.autograd.grad(cka(x, y, kernel=kernel), y)
    with torch.inference_mode():
        fixed = x.clone()
    torch.testing.assert_close(torch.autograd.grad(cka(fixed, y, kernel=kernel), y), expected)


@shapes
def test_the_gradient_is_scaled_by_what_comes_in(shape):
    x, y = draw(*shape)
    (once,) = torch.autograd.grad(cka(x, y), x)
    (thrice,) = torch.autograd.grad(1 - 3 * cka(x, y), x)
    torch.testing.assert_close(thrice, -3 * once)


def test_x_with_itself_has_no_gradient():
    x, _ = draw(9, 3, 3)
    assert torch.autograd.grad(cka(x, x), x)[0].abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1e-10, 1e15])
def test_float32_gradients_at_any_scale(scale):
    x, y = draw(20, 3, 4, dtype=torch.float32)
    expected = torch.autograd.grad(cka(x, y), x)[0]
    scaled = (x.detach() * scale + scale * 8).requires_grad_()
    found = torch.autograd.grad(cka(scaled, y), scaled)[0] * scale
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@biases
@pytest.mark.parametrize("shape", [(5, 4, 6), (9, 2, 3)], ids=str)
def test_float32_gradients_far_from_the_origin(shape, debiased):
    x, y = ((z.detach() + 300).requires_grad_() for z in draw(*shape, dtype=torch.float32))
    found = torch.autograd.grad(cka(x, y, debiased=debiased), (x, y))
    x, y = (z.detach().double().requires_grad_() for z in (x, y))
    exact = torch.autograd.grad(cka(x, y, debiased=debiased), (x, y))
    torch.testing.assert_close([z.double() for z in found], [*exact], rtol=1e-4, atol=1e-5)


@biases
@kernels
@shapes
def test_second_derivatives(shape, kernel, debiased):
    inputs = draw(*shape)
    assert torch.autograd.gradgradcheck(
        lambda x, y: cka(x, y, kernel=kernel, debiased=debiased), inputs
    )


@biases
@pytest.mark.parametrize("scale", [1e-25, 1, 1e25])
def test_second_derivatives_at_any_scale(scale, debiased):
    x, y = draw(9, 3, 4, dtype=torch.float32)

    def hessian_product(x, y, direction):
        (grad,) = torch.autograd.grad(cka(x, y, debiased=debiased), x, create_graph=True)
        return torch.autograd.grad((grad * direction).sum(), x)[0]

    direction = torch.randn(9, 3)
    expected = hessian_product(x, y, direction)
    scaled = (x.detach() * scale).requires_grad_()
    found = hessian_product(scaled, y, direction * scale) * scale
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@biases
def test_second_derivatives_of_one_tensor_in_both_places(debiased):
    x, _ = draw(9, 3, 3)

    def penalty(other):
        value = cka(x, x.square() if other is None else other, debiased=debiased)
        return torch.autograd.grad(value, x, create_graph=True)[0].square().sum()

    (grad,) = torch.autograd.grad(penalty(x.detach().square()) * 0 + penalty(None), x)
    assert grad.abs().max() > 1e-3
    (value,) = torch.autograd.grad(cka(x, x, debiased=debiased), x, create_graph=True)
    assert value.abs().max() < 1e-12


@biases
@kernels
def test_torch_func_finds_the_same_gradient(kernel, debiased):
    x, y = draw(9, 3, 4)
    expected = torch.autograd.grad(cka(x, y, kernel=kernel, debiased=debiased), x)[0]
    found = torch.func.grad(lambda z: cka(z, y.detach(), kernel=kernel, debiased=debiased))(
        x.detach()
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_vmap_is_refused():
    with pytest.raises(ValueError, match=r"torch\.vmap is not supported"):
        torch.func.vmap(cka)(torch.randn(2, 8, 3), torch.randn(2, 8, 3))


@biases
@kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_compiled_call_gives_the_same_bits(dtype, kernel, debiased):
    x, y = (z.detach().to(dtype).requires_grad_() for z in draw(20, 3, 4))

    def loss(x, y):
        return 1 - cka(x * 2, y, kernel=kernel, debiased=debiased)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = loss(x, y)
        torch.compiler.reset()
        found = torch.compile(loss, backend="aot_eager")(x, y)
    assert torch.equal(found, expected)
    grads = torch.autograd.grad(expected, (x, y))
    torch.testing.assert_close(torch.autograd.grad(found, (x, y)), grads, rtol=0, atol=0)


def test_a_compiled_call_is_checked():
    with pytest.raises(ValueError, match="x: expected finite values, got NaN in row 0"):
        torch.compile(cka, backend="eager")(torch.full((8, 3), torch.nan), torch.randn(8, 2))
    with pytest.raises(ValueError, match="one letter is one size"):
        torch.compile(cka, backend="eager")(torch.randn(8, 3), torch.randn(7, 2))


@biases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_kernel_in_half_precision_is_centred_in_float32(dtype, debiased):
    x, y = (z.detach() for z in draw(20, 3, 4, dtype=torch.float32))

    def half(z):
        return (z @ z.T).to(dtype)

    exact = cka(x, y, kernel=lambda z: half(z).double(), debiased=debiased)
    found = cka(x, y, kernel=half, debiased=debiased)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), abs=1e-5)


@kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, kernel):
    x, y = (z.detach().to(dtype).requires_grad_() for z in draw(20, 3, 4))
    value = cka(x, y, kernel=kernel)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(
        cka(x.double(), y.double(), kernel=kernel).item(), abs=1e-5
    )
    assert [grad.dtype for grad in torch.autograd.grad(value, (x, y))] == [dtype, dtype]
    assert hsic(x @ x.T, x @ x.T).dtype == cka_matrix([x, y]).dtype == torch.float32


def test_each_gradient_has_the_type_of_its_input():
    x, y = draw(9, 3, 4)
    narrow = x.detach().float().requires_grad_()
    value = cka(narrow, y)
    assert value.dtype == torch.float64
    assert [grad.dtype for grad in torch.autograd.grad(value, (narrow, y))] == [
        torch.float32,
        torch.float64,
    ]


@biases
@kernels
@shapes
def test_autocast_changes_nothing(shape, kernel, debiased):
    x, y = draw(*shape, dtype=torch.float32)
    value = cka(x, y, kernel=kernel, debiased=debiased)
    grads = torch.autograd.grad(value, (x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = cka(x, y, kernel=kernel, debiased=debiased)
    assert torch.equal(cast, value)
    torch.testing.assert_close(torch.autograd.grad(cast, (x, y)), grads, rtol=0, atol=0)


@biases
@shapes
def test_a_backward_pass_under_autocast(shape, debiased):
    x, y = draw(*shape, dtype=torch.float32)
    grads = torch.autograd.grad(cka(x, y, debiased=debiased), (x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = torch.autograd.grad(cka(x, y, debiased=debiased), (x, y))
    torch.testing.assert_close(cast, grads, rtol=0, atol=0)


def test_autocast_does_not_change_a_map_or_hsic():
    x, y = (z.detach() for z in draw(9, 3, 4, dtype=torch.float32))
    k, l = x @ x.T, y @ y.T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cka_matrix([x, y]), hsic(k, l)
    torch.testing.assert_close(found, (cka_matrix([x, y]), hsic(k, l)), rtol=0, atol=0)


@kernels
def test_two_backward_passes_give_the_same_bits(kernel):
    x, y = draw(9, 3, 4, dtype=torch.float32)
    first = torch.autograd.grad(cka(x, y, kernel=kernel), (x, y))
    second = torch.autograd.grad(cka(x, y, kernel=kernel), (x, y))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
