"""The start-up check: it catches a program that the compiler really gets wrong, and passes the right ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.training import program_check
from ryot_jax.training.parallel import stack
from ryot_jax.training.program_check import checked, checked_scan, worst_difference
from ryot_jax.training.rules import OPTIMIZERS
from ryot_jax.training.state import new_state

ROWS = 40_000


def miscompiled_loss(params, batch, key):
    """The last row of a vmapped matrix-vector product and sum over 40,000 rows (jax issue 39103).

    It weighs a loss, as a norm would that is not differentiated through: loss and gradient are both wrong.
    """
    rows_N3 = batch["rows"] * jnp.array([[1.0, 0.0, 0.0]])
    norms_N = jax.vmap(lambda row_3: jnp.sum((params["matrix"] @ row_3) ** 2))(rows_N3)
    return jax.lax.stop_gradient(norms_N)[-1] * 1e-9 * params["matrix"][0, 0], jnp.float32(1)


@pytest.fixture
def miscompiled(tiny):
    """A step with that loss, its state and its batch."""
    optimizer = tiny.optimizer()
    state = new_state({"matrix": jnp.eye(3)}, optimizer, 0)
    batch = {"rows": np.arange(ROWS, dtype=np.float32)[:, None]}
    return tiny.step_fn(optimizer, loss_fn=miscompiled_loss), state, batch


def test_a_miscompiled_reduction_is_caught_and_the_safe_program_returned(miscompiled):
    step_fn, state, batch = miscompiled
    correct = (ROWS - 1) ** 2 * 1e-9
    loss = jax.jit(step_fn)(jax.tree.map(jnp.copy, state), batch)[1]["loss"]
    if abs(loss / correct - 1) < 1e-5:
        pytest.skip("this jaxlib compiles the reduction right")
    program, check = checked(step_fn, state, batch)
    assert not check.ok and check.worst_error > 1e-3
    assert "FAILED" in str(check)
    assert "ynn_fusion" not in program.hlo_text()
    np.testing.assert_allclose(program(state, batch)[1]["loss"], correct, rtol=1e-6)


def test_without_the_check_the_wrong_loss_would_be_trained_on(miscompiled):
    """The programs differ in nothing but the option."""
    step_fn, state, batch = miscompiled
    assert without_ynn() is not None
    lowered = jax.jit(step_fn).lower(state, batch)
    default, safe = lowered.compile(), lowered.compile(compiler_options=without_ynn())
    assert "ynn_fusion" in default.as_text() and "ynn_fusion" not in safe.as_text()


def test_a_fault_in_one_gradient_is_caught_and_named(tiny, monkeypatch):
    """The same check with a compiler that gets one gradient wrong by 1 %, whatever jaxlib does."""
    first_call, programs = program_check._first_call, []

    def faulty(program, state, batch):
        result = jax.tree.map(np.array, first_call(program, state, batch))
        programs.append(program)
        if len(programs) == 1:
            result["opt_state"][1][0].mu["layer"]["kernel"][-1] *= 1.01
        return result

    monkeypatch.setattr(program_check, "_first_call", faulty)
    program, check = checked(tiny.step_fn(), tiny.state(), tiny.make_batch())
    assert not check.ok and check.worst_leaf.endswith("mu.layer.kernel")
    assert program is programs[1]


def test_a_fault_in_one_gradient_of_several_steps_a_call_is_caught_and_the_safe_program_returned(tiny, monkeypatch):
    batches = [tiny.make_batch(seed=i) for i in range(3)]
    step, _ = checked(tiny.step_fn(), tiny.state(), batches[0])
    first_call, compile_step, options = program_check._first_call, program_check.compile_step, []

    def faulty(program, state, batch):
        result = jax.tree.map(np.array, first_call(program, state, batch))
        result["opt_state"][1][0].mu["layer"]["kernel"][-1] *= 1.01
        return result

    def recorded(*arguments, compiler_options=None, **named):
        options.append(compiler_options)
        return compile_step(*arguments, compiler_options=compiler_options, **named)

    monkeypatch.setattr(program_check, "_first_call", faulty)
    monkeypatch.setattr(program_check, "compile_step", recorded)
    program, check = checked_scan(tiny.step_fn(), tiny.state(), batches, step=step)
    assert not check.ok and check.worst_leaf.endswith("mu.layer.kernel")
    assert options == [None, without_ynn()] and program.steps == 3
    assert str(check).startswith("program check of 3 steps a call FAILED")


def test_a_reduction_that_is_miscompiled_within_the_scan_is_caught(miscompiled):
    step_fn, state, batch = miscompiled
    step, single = checked(step_fn, state, batch)
    if single.ok:
        pytest.skip("this jaxlib compiles the reduction right")
    program, check = checked_scan(step_fn, state, [batch] * 2, step=step)
    assert not check.ok and "ynn_fusion" not in program.hlo_text()
    np.testing.assert_allclose(program(state, stack([batch] * 2))[1]["loss"][0], (ROWS - 1) ** 2 * 1e-9, rtol=1e-6)


@pytest.mark.parametrize("parallelism", ["jit", "shard_map"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_right_programs_of_several_steps_pass_and_the_state_survives(tiny, name, parallelism):
    """The loop's body is the step itself: far less differs than the rounding of another program's."""
    optimizer = tiny.optimizer(optimizer=name, schedule="constant" if name == "schedule_free" else "cosine")
    state, batches = tiny.state(optimizer), [tiny.make_batch(seed=i) for i in range(5)]
    step, _ = checked(tiny.step_fn(optimizer), state, batches[0], parallelism=parallelism)
    program, check = checked_scan(tiny.step_fn(optimizer), state, batches, step=step)
    assert check.ok and not check.skipped and check.steps == program.steps == 5
    assert check.worst_error < 1e-6 and program.parallelism == parallelism
    program(state, stack(batches))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_right_programs_pass_with_every_optimizer_and_the_state_survives(tiny, name):
    overrides = {"optimizer": name, "schedule": "constant" if name == "schedule_free" else "cosine"}
    optimizer = tiny.optimizer(**overrides)
    state = tiny.state(optimizer)
    program, check = checked(tiny.step_fn(optimizer), state, tiny.make_batch())
    assert check.ok and not check.skipped and check.worst_error < 1e-4 and "passed" in str(check)
    program(state, tiny.make_batch())


@pytest.mark.parametrize("name", ["adamw", "schedule_free"])
def test_the_transformer_passes_although_the_gradient_of_its_key_biases_is_rounding(tiny, name):
    cfg = ModelConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=2, d_ff=64, max_len=16)
    graphdef, params = functional.init(cfg, 0)
    tokens = np.random.default_rng(0).integers(0, 61, size=(8, 17), dtype=np.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

    def loss_fn(params, batch, key):
        return functional.loss(graphdef, params, batch, plan=KernelPlan())

    overrides = {"optimizer": name, "schedule": "constant" if name == "schedule_free" else "cosine"}
    optimizer = tiny.optimizer(**overrides)
    _, check = checked(tiny.step_fn(optimizer, loss_fn=loss_fn), new_state(params, optimizer, 0), batch)
    assert check.ok and check.worst_error < 1e-4


def test_elsewhere_than_on_a_cpu_nothing_is_checked_and_that_is_said():
    assert without_ynn("gpu") is None


def test_a_single_wrong_row_of_many_counts_in_full():
    reference = {"g": np.arange(ROWS, dtype=np.float32)}
    wrong = {"g": reference["g"].copy()}
    wrong["g"][-1] *= 1.008
    assert worst_difference(wrong, reference) == ("g", pytest.approx(0.008, rel=1e-3))


def test_what_is_not_finite_in_one_program_only_is_a_difference_without_bound():
    nan, one = {"g": np.array([1.0, np.nan])}, {"g": np.array([1.0, 1.0])}
    assert worst_difference(nan, one)[1] == worst_difference(one, nan)[1] == np.inf
    assert worst_difference(nan, nan)[1] == 0.0
