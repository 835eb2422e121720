"""Moments of gradients against explicit gradients in float64, and the rise of the loss that they predict."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.calibration import Moments, as_matrix_shape, calibrate

# float32: gradients of about ten roundings (6e-8 each), whose squares are summed over some tens of examples.
TOLERANCE = 2e-5
N, ROWS, COLUMNS = 37, 7, 5


def squared(params, batch):
    y = batch["x"] @ params["w"] + params["b"][None]
    return 0.5 * jnp.mean(jnp.sum((y - batch["y"]) ** 2, axis=-1))


def softmax(params, batch):
    logits = batch["x"] @ params["w"] + params["b"][None]
    return -jnp.mean(jnp.sum(batch["y"] * jax.nn.log_softmax(logits), axis=-1))


def problem(loss, seed=0):
    """(params, batch); the targets of `softmax` are one-hot."""
    rng = np.random.default_rng(seed)
    w, b, x = rng.normal(size=(ROWS, COLUMNS)), rng.normal(size=COLUMNS), rng.normal(size=(N, ROWS))
    y = rng.normal(size=(N, COLUMNS)) if loss is squared else np.eye(COLUMNS)[rng.integers(0, COLUMNS, N)]
    return {"w": np.float32(w), "b": np.float32(b)}, {"x": np.float32(x), "y": np.float32(y)}


def gradients(loss, params, batch):
    """Of each example's loss by the logits, float64[N, COLUMNS], by hand; that of w is x times it."""
    x, y, w, b = (np.asarray(a, np.float64) for a in (batch["x"], batch["y"], params["w"], params["b"]))
    logits = x @ w + b
    if loss is squared:
        return logits - y
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True) - y


def parts(batch, *sizes):
    """The batch cut into batches of these sizes."""
    ends = np.cumsum(sizes)
    return [{name: array[end - n : end] for name, array in batch.items()} for end, n in zip(ends, sizes, strict=True)]


@pytest.mark.parametrize("loss", [squared, softmax])
def test_moments_match_explicit_gradients_in_float64(loss):
    params, batch = problem(loss)
    found = calibrate(loss, params, parts(batch, 20, 17))
    rows, columns = np.zeros((ROWS, ROWS)), np.zeros((COLUMNS, COLUMNS))
    of_b = gradients(loss, params, batch)
    for x, g in zip(np.float64(batch["x"]), of_b, strict=True):
        gradient = np.outer(x, g)
        rows += gradient @ gradient.T / N
        columns += gradient.T @ gradient / N
    assert set(found) == {"w", "b"}
    chex.assert_trees_all_close(found["w"].rows, rows, atol=TOLERANCE * rows.max())
    chex.assert_trees_all_close(found["w"].columns, columns, atol=TOLERANCE * columns.max())
    assert found["w"].trace == pytest.approx(np.trace(rows), rel=TOLERANCE)
    # A vector is one row, of which the diagonal is kept.
    chex.assert_trees_all_close(found["b"].columns, (of_b**2).mean(0), rtol=TOLERANCE)
    chex.assert_trees_all_close(found["b"].rows, (of_b**2).sum(-1).mean(keepdims=True), rtol=TOLERANCE)
    assert {m.dtype for moments in found.values() for m in (moments.rows, moments.columns)} == {np.dtype(np.float64)}


@pytest.mark.parametrize(("microbatch", "sizes"), [(1, (37,)), (5, (37,)), (64, (37,)), (16, (1, 30, 6))])
def test_how_the_examples_are_cut_into_batches_does_not_matter(microbatch, sizes):
    params, batch = problem(softmax)
    found = calibrate(softmax, params, parts(batch, *sizes), microbatch=microbatch)
    wanted = calibrate(softmax, params, [batch])
    for name, moments in wanted.items():
        # Sums of float32 in another order.
        chex.assert_trees_all_close(found[name].rows, moments.rows, atol=1e-5 * moments.trace)
        chex.assert_trees_all_close(found[name].columns, moments.columns, atol=1e-5 * moments.trace)


def test_targets_make_up_for_the_mean_over_an_examples_likelihoods():
    params, batch = problem(softmax)
    one, three = (calibrate(softmax, params, [batch], targets=n)["w"] for n in (1, 3))
    chex.assert_trees_all_close((three.rows, three.columns), (3 * one.rows, 3 * one.columns), rtol=1e-12)

    def of_three(params, batch):  # examples of three likelihoods each
        return softmax(params, {name: array.reshape(-1, array.shape[-1]) for name, array in batch.items()})

    # Uncorrelated gradients, as at a good model: labels are drawn from the predictions.
    rng = np.random.default_rng(1)
    x = np.float32(rng.normal(size=(3000, ROWS)))
    logits = x @ params["w"] + params["b"]
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
    batch = {"x": x, "y": np.eye(COLUMNS, dtype=np.float32)[labels]}
    single = calibrate(softmax, params, [batch], microbatch=1000)["w"].trace
    grouped = {name: array.reshape(1000, 3, -1) for name, array in batch.items()}
    mean_of_three = calibrate(of_three, params, [grouped], targets=3, microbatch=1000)["w"].trace
    assert mean_of_three == pytest.approx(single, rel=0.1)  # 1000 squares of about their own size: 3 % each


@pytest.mark.parametrize(
    ("max_factor", "axes"), [(COLUMNS - 1, (1, 1)), (COLUMNS, (1, 2)), (ROWS - 1, (1, 2)), (ROWS, (2, 2))]
)
def test_sides_that_are_too_long_keep_their_diagonals(max_factor, axes):
    params, batch = problem(squared)
    found = calibrate(squared, params, [batch], max_factor=max_factor)["w"]
    full = calibrate(squared, params, [batch])["w"]
    assert (found.rows.ndim, found.columns.ndim) == axes
    for part, whole in ((found.rows, full.rows), (found.columns, full.columns)):
        wanted = whole if part.ndim == 2 else np.diag(whole)
        chex.assert_trees_all_close(part, wanted, atol=1e-5 * full.trace)  # another order of float32 sums
    assert found.trace == pytest.approx(full.trace, rel=1e-5)


def test_an_array_of_more_axes_is_a_matrix_of_its_last():
    params, batch = problem(squared)
    cube = {"w": params["w"][:6].reshape(2, 3, COLUMNS), "b": params["b"]}
    batch = {"x": batch["x"][:, :6], "y": batch["y"]}

    def loss(params, batch):
        return squared({"w": params["w"].reshape(6, COLUMNS), "b": params["b"]}, batch)

    found = calibrate(loss, cube, [batch])["w"]
    wanted = calibrate(squared, {"w": params["w"][:6], "b": params["b"]}, [batch])["w"]
    chex.assert_trees_all_close((found.rows, found.columns), (wanted.rows, wanted.columns), rtol=1e-5)
    error = np.random.default_rng(0).normal(size=(2, 3, COLUMNS))
    assert found.rise(error) == pytest.approx(wanted.rise(error.reshape(6, COLUMNS)), rel=1e-5)
    assert [as_matrix_shape(shape) for shape in ((2, 3, 5), (2, 3), (4,), ())] == [(6, 5), (2, 3), (1, 4), (1, 1)]


def test_paths_are_dotted_and_numbers_and_absent_arrays_may_be_in_the_tree():
    params = {"layers": [{"w": jnp.ones((2, 3))}, {"w": jnp.ones(3), "absent": None}], "scale": jnp.float32(2.0)}

    def loss(params, batch):
        y = batch["x"] @ params["layers"][0]["w"] * params["layers"][1]["w"][None]
        return jnp.mean(params["scale"] * y)

    found = calibrate(loss, params, [{"x": np.ones((4, 2), np.float32)}])
    assert set(found) == {"layers.0.w", "layers.1.w", "scale"}
    # y is 2 everywhere: that is the derivative by the scale.
    chex.assert_trees_all_close((found["scale"].rows, found["scale"].columns), (np.full(1, 4.0),) * 2, rtol=1e-6)


def test_calibration_without_batches_is_refused():
    params, _ = problem(squared)
    with pytest.raises(ValueError, match="no batches"):
        calibrate(squared, params, [])


def test_the_predicted_rise_is_exact_for_one_rank_one_gradient():
    rng = np.random.default_rng(0)
    x, g, error = rng.normal(size=ROWS), rng.normal(size=COLUMNS), rng.normal(size=(ROWS, COLUMNS))
    gradient = np.outer(x, g)
    moments = Moments(gradient @ gradient.T, gradient.T @ gradient)
    assert moments.rise(error) == pytest.approx(0.5 * np.sum(gradient * error) ** 2, rel=1e-12)


def test_the_predicted_rise_is_exact_where_moments_are_kronecker_products():
    rng = np.random.default_rng(1)
    xs, gs, error = rng.normal(size=(4, ROWS)), rng.normal(size=(3, COLUMNS)), rng.normal(size=(ROWS, COLUMNS))
    pairs = [np.outer(x, g) for x in xs for g in gs]  # every input with every output: they are independent
    moments = Moments(np.mean([p @ p.T for p in pairs], 0), np.mean([p.T @ p for p in pairs], 0))
    wanted = 0.5 * np.mean([np.sum(p * error) ** 2 for p in pairs])
    assert moments.rise(error) == pytest.approx(wanted, rel=1e-12)


def test_diagonals_are_matrices_without_anything_else():
    rng = np.random.default_rng(2)
    rows, columns, error = rng.uniform(1, 2, 4), rng.uniform(1, 2, 6), rng.normal(size=(4, 6))
    columns *= rows.sum() / columns.sum()
    wanted = 0.5 * (rows[:, None] * columns * error**2).sum() / rows.sum()
    for r in (rows, np.diag(rows)):
        for c in (columns, np.diag(columns)):
            assert Moments(r, c).rise(error) == pytest.approx(wanted, rel=1e-12)
            assert Moments(r, c).trace == pytest.approx(rows.sum(), rel=1e-12)


def test_sensitivity_is_the_second_derivative_of_the_rise_by_each_element(correlated):
    moments = correlated(4, 3)
    for m in (moments, Moments(np.diag(moments.rows), np.diag(moments.columns))):
        wanted = np.empty((4, 3))
        for i, j in np.ndindex(4, 3):
            error = np.zeros((4, 3))
            error[i, j] = 1.0
            wanted[i, j] = 2 * m.rise(error)
        chex.assert_trees_all_close(m.sensitivity(), wanted, rtol=1e-12)


def test_moments_of_no_gradient_predict_no_rise():
    nothing = Moments(np.zeros(2), np.zeros((3, 3)))
    assert nothing.rise(np.ones((2, 3))) == 0.0
    chex.assert_trees_all_equal(nothing.sensitivity(), np.zeros((2, 3)))


@pytest.fixture(scope="module")
def regression():
    """(moments of w, mean loss of w in float64, w): softmax regression with labels drawn from its own predictions."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20_000, ROWS)) @ rng.normal(size=(ROWS, ROWS)) / ROWS**0.5
    w = rng.normal(size=(ROWS, COLUMNS)) / 2
    labels = (x @ w + rng.gumbel(size=(len(x), COLUMNS))).argmax(-1)
    y = np.eye(COLUMNS)[labels]
    params = {"w": np.float32(w), "b": np.zeros(COLUMNS, np.float32)}
    batches = [{"x": np.float32(x[i : i + 2000]), "y": np.float32(y[i : i + 2000])} for i in range(0, len(x), 2000)]
    moments = calibrate(softmax, params, batches, microbatch=2000)["w"]

    def loss(w):
        logits = x @ w
        return np.mean(np.log(np.exp(logits).sum(-1)) - (y * logits).sum(-1))

    return moments, loss, w


def measured_rise(loss, w, error):
    """Of the error and its negative, as the gradient of a finite number of examples is not zero."""
    return (loss(w + error) + loss(w - error)) / 2 - loss(w)


def test_the_predicted_rise_of_random_errors_is_near_the_measured_one(regression):
    moments, loss, w = regression
    rng = np.random.default_rng(4)
    ratios = [moments.rise(e) / measured_rise(loss, w, e) for e in 0.03 * rng.normal(size=(40, ROWS, COLUMNS))]
    # The mean over random errors asks for the trace alone, and 40 of them leave a per cent. Any single
    # error sees that inputs and outputs are not independent, as the Kronecker approximation has them.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)
    assert max(abs(np.log(ratios))) < np.log(1.3)


def test_the_prediction_knows_which_directions_cost(regression):
    moments, loss, w = regression
    (_, rows), (_, columns) = np.linalg.eigh(moments.rows), np.linalg.eigh(moments.columns)
    # The column of least cost is a constant added to all logits, which costs nothing at all.
    cheap, dear = (0.1 * np.outer(rows[:, i], columns[:, max(i, -COLUMNS + 1)]) for i in (-ROWS + 1, -1))
    for error in (cheap, dear):
        assert moments.rise(error) == pytest.approx(measured_rise(loss, w, error), rel=0.5)
    assert moments.rise(dear) > 5 * moments.rise(cheap)
    constant = 0.1 * np.outer(rows[:, -1], np.ones(COLUMNS) / COLUMNS**0.5)
    assert moments.rise(constant) < 1e-3 * moments.rise(dear)
