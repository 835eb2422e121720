"""Products of 8-bit floats: those of the rounded operands, in the op, in a model, and where they are refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ryot_jax.config import get_default
from ryot_jax.kernels import Spec, dense
from ryot_jax.kernels.ops.dense import _fp8_product as fp8
from ryot_jax.kernels.resolution import supported, tunable
from ryot_jax.model import functional
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import BY_NAME, KernelPlan, resolve
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.state import init_state

SIZES = [((1,), 1, 1), ((2, 3), 7, 5), ((131,), 70, 33)]
GPU = Spec(
    platform="gpu",
    n_devices=1,
    compute_dtype="bfloat16",
    rows=4096,
    d_model=128,
    d_ff=512,
    vocab_size=2048,
    seq_len=128,
    n_heads=4,
    compute_capability="9.0",
)


def _operands(leading, d, f, dtype="float32"):
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=shape) for shape in ((*leading, d), (d, f), (*leading, f)))
    return jnp.asarray(x, dtype), jnp.asarray(w, jnp.float32), jnp.asarray(dy, dtype)


def _rounded(x, dtype):
    """The same rounding in NumPy and float64."""
    x, limit = np.asarray(x, np.float64), float(ml_dtypes.finfo(dtype).max)
    scale = max(np.abs(x).max(), 1e-30) / limit
    return (x / scale).astype(np.float32).astype(dtype).astype(np.float64) * scale


def _with_gradients(x, w_DF, dy):
    y, back = jax.vjp(fp8.product, x, w_DF)
    return y, *back(dy)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_those_of_the_rounded_operands(sizes, dtype):
    x, w_DF, dy = _operands(*sizes, dtype)
    y, dx, dw_DF = jax.jit(_with_gradients)(x, w_DF, dy)
    x8, w8, dy8 = _rounded(x, fp8.FORWARD), _rounded(w_DF, fp8.FORWARD), _rounded(dy, fp8.BACKWARD)
    rows = x8.reshape(-1, sizes[1]), dy8.reshape(-1, sizes[2])
    # Sums in float32, rounded to bfloat16 before the scale and after it where that is the outcome; a quotient next to a
    # tie may be rounded the other way.
    tolerance = {"float32": 1e-4, "bfloat16": 2**-8}
    for got, want in ((y, x8 @ w8), (dx, dy8 @ w8.T), (dw_DF, rows[0].T @ rows[1])):
        error = np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()
        assert error < tolerance[str(got.dtype)], error
    assert (y.dtype, dx.dtype, dw_DF.dtype) == (x.dtype, x.dtype, jnp.float32)


def test_the_rounding_is_that_of_8_bits():
    # Uniform within a binade, a rounding to m bits has a root mean square of 2^-(m+1) / sqrt(3) / 0.72 of the number:
    # 2.5 % for E4M3, 5 % for E5M2, and two operands add up.
    x, w_DF, dy = _operands((500,), 300, 200)
    y, dx, dw_DF = _with_gradients(x, w_DF, dy)
    x, w, dy = (np.asarray(array, np.float64) for array in (x, w_DF, dy))
    for got, want, expected in ((y, x @ w, 0.036), (dx, dy @ w.T, 0.056), (dw_DF, x.T @ dy, 0.056)):
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert 0.8 * expected < error < 1.2 * expected, error


def test_a_scale_of_the_array_makes_its_size_no_matter():
    x, w_DF, dy = _operands((33,), 20, 10)
    plain = _with_gradients(x, w_DF, dy)
    # Powers of two, so that nothing else changes.
    large, small = 2.0**90, 2.0**-90
    y, dx, dw_DF = _with_gradients(x * large, w_DF, dy * small)
    chex.assert_trees_all_equal((y * small, dx * large, dw_DF), plain)


def test_nothing_and_zeros_give_zeros():
    for x in (jnp.zeros((0, 4)), jnp.zeros((3, 4))):
        y, dx, dw_DF = _with_gradients(x, jnp.zeros((4, 2)), jnp.zeros((x.shape[0], 2)))
        chex.assert_trees_all_equal((y, dx, dw_DF), (jnp.zeros((x.shape[0], 2)), x, jnp.zeros((4, 2))))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_shows(bad):
    x, w_DF, dy = _operands((5,), 4, 3)
    assert np.isnan(fp8.product(x.at[2, 1].set(bad), w_DF)).all()
    y, dx, dw_DF = _with_gradients(x, w_DF, dy.at[2, 1].set(bad))
    assert np.isfinite(y).all() and np.isnan(dx).all() and np.isnan(dw_DF).all()


@pytest.mark.parametrize("activation", ["none", "gelu", "swiglu"])
def test_the_op_adds_bias_activation_and_residual(activation):
    x, w_DF, dy = _operands((2, 67), 70, 34, "bfloat16")
    b_F = jnp.linspace(-1, 1, 34)
    residual = dy[..., :17] if activation == "swiglu" else dy

    def both(implementation):
        def run(x, w, b, residual):
            return dense(x, w / 8, b, activation=activation, residual=residual, implementation=implementation)

        y, back = jax.vjp(run, x, w_DF, b_F, residual)
        return y, *back(jnp.ones_like(y))

    for got, want in zip(both("fp8"), both("reference"), strict=True):
        assert got.dtype == want.dtype
        got, want = (np.asarray(array, np.float64) for array in (got, want))
        assert np.linalg.norm(got - want) < 0.08 * np.linalg.norm(want)  # as two roundings above, and what follows
    assert not np.array_equal(*(np.asarray(both(name)[0], np.float64) for name in ("fp8", "reference")))


def test_transformations_change_nothing():
    x, w_DF, dy = _operands((3, 16), 20, 10)
    one_by_one = [_with_gradients(x[i], w_DF, dy[i]) for i in range(3)]
    together = jax.vmap(_with_gradients, (0, None, 0))(x, w_DF, dy)
    # Products in another order: a float32 sum of 20 terms.
    chex.assert_trees_all_close(together, jax.tree.map(lambda *parts: jnp.stack(parts), *one_by_one), rtol=1e-5)

    def loss(product):
        return lambda w_DF: jnp.sum(jnp.sin(product(x, w_DF)))

    plain = jax.grad(loss(fp8.product))(w_DF)
    chex.assert_trees_all_close(jax.grad(loss(jax.checkpoint(fp8.product)))(w_DF), plain, rtol=1e-6)


def test_a_model_trains_with_them_as_without():
    config = get_default()
    config.model.update(vocab_size=64, d_model=32, d_ff=96, n_layers=2, n_heads=2, max_len=32, compute_dtype="bfloat16")
    config.training.update(warmup_steps=5, learning_rate=3e-3)
    model = from_config(config.model, "cpu")
    rng = np.random.default_rng(0)
    # Every token is followed by one of two.
    tokens = np.zeros((8, 33), np.int32)
    for t in range(32):
        tokens[:, t + 1] = (3 * tokens[:, t] + rng.integers(1, 3, 8)) % 64
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

    def trained(plan):
        optimizer = make_optimizer(config.training, 40)
        graphdef, state = init_state(model, optimizer, 0)

        def loss(params):
            total, n_targets = functional.loss(graphdef, params, batch, plan=plan)
            return total / n_targets

        @jax.jit
        def step(params, opt_state):
            value, gradients = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return jax.tree.map(jnp.add, params, updates), opt_state, value

        params, opt_state = state.params, state.opt_state
        losses = []
        for _ in range(40):
            params, opt_state, value = step(params, opt_state)
            losses.append(float(value))
        return losses

    plain, narrow = trained(KernelPlan()), trained(KernelPlan(dense="fp8"))
    assert plain != narrow
    assert abs(plain[0] - narrow[0]) < 0.02  # nats: fresh logits are close to uniform
    assert plain[-1] < plain[0] - 1
    assert abs(plain[-1] - narrow[-1]) < 0.1 * (plain[0] - plain[-1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"platform": "cpu"}, "run on NVIDIA GPUs, not on cpu"),
        ({"compute_capability": "8.0"}, "need compute capability 8.9"),
        ({"compute_capability": ""}, "is not known"),
        ({"compute_dtype": "float32"}, "compute in 16 bits, not in float32"),
        ({"d_ff": 500}, "multiples of 16, not d_ff = 500"),
        ({"rows": 4097, "seq_len": 17}, "multiples of 16, not rows = 4097"),
        ({"rows": 64, "n_devices": 8}, "multiples of 16, not rows = 8"),
    ],
)
def test_a_plan_says_why_it_cannot_have_them(changes, reason):
    with pytest.raises(ConfigError, match=f"optimizations.dense = 'fp8'.*{reason}"):
        resolve({"dense": "fp8"}, spec=dataclasses.replace(GPU, **changes))


@pytest.mark.parametrize("capability", ["8.9", "9.0", "10.0"])
def test_a_plan_takes_them_when_asked_and_never_by_itself(capability):
    spec = dataclasses.replace(GPU, compute_capability=capability)
    assert resolve({"dense": "fp8"}, spec=spec).plan["dense"] == "fp8"
    assert supported(BY_NAME["dense"], spec) == ["reference", "fp8"] and tunable(BY_NAME["dense"], spec) == [
        "reference"
    ]
    automatic = resolve({"dense": "auto"}, spec=spec)
    assert automatic.plan["dense"] == "reference" and "not fp8: 3 bits" in automatic.reasons["dense"]
