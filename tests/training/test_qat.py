"""Training on rounded weights: what is rounded, from which step on, and that nothing changes before it."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.training.parallel import compile_step, stack
from ryot_jax.training.program_check import checked, checked_scan
from ryot_jax.training.qat import rounded, rounded_from

SGD = optax.sgd(1.0)  # the update is minus the gradient
BITS, FIRST = 3, 2
BEST_STEP = {3: 0.5860, 4: 0.3352}  # of Max's uniform quantizer, in standard deviations
OPTIMIZERS = ({"optimizer": "muon"}, {"optimizer": "lion"}, {"optimizer": "schedule_free", "schedule": "constant"})


def rounded_by_hand(w, bits):
    """A grid for each row or column along the shorter side, its step a power of 2^(1/8); float64."""
    w = np.asarray(w, np.float64)
    axis = int(np.argmin(w.shape[-2:])) - 2
    step = BEST_STEP[bits] * np.sqrt(np.mean(w**2, axis, keepdims=True))
    step = 2.0 ** (np.round(8 * np.log2(step)) / 8)
    offset = (2**bits - 1) / 2
    return (np.clip(np.round(w / step + offset), 0, 2**bits - 1) - offset) * step


def tree_rounded_by_hand(params, bits):
    kernel, bias = params["layer"]["kernel"], params["layer"]["bias"]
    hand = {"embedding": rounded_by_hand(params["embedding"], bits), "layer": {"kernel": rounded_by_hand(kernel, bits)}}
    hand["layer"]["bias"] = np.asarray(bias)
    return jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), hand)


def after_step(tiny, step, params_fn, **options):
    """State and metrics after step number `step` from fresh weights with a bias, compiled."""
    optimizer = options.pop("optimizer", SGD)
    step_fn = tiny.step_fn(optimizer, params_fn=params_fn, accumulation=options.pop("accumulation", 1))
    program = compile_step(step_fn, numbered(tiny, step, optimizer), tiny.make_batch(), **options)
    return program(numbered(tiny, step, optimizer), tiny.make_batch())


def numbered(tiny, step, optimizer=SGD):
    state = tiny.state(optimizer)
    state.params["layer"]["bias"] += 0.3
    return dataclasses.replace(state, step=jnp.int32(step))


@pytest.mark.parametrize("bits", BEST_STEP)
def test_matrices_are_rounded_as_by_hand_and_vectors_are_not(tiny, bits):
    params = numbered(tiny, 0).params
    found = jax.jit(functools.partial(rounded, bits=bits))(params)
    # The scales are stored in 16 bits.
    chex.assert_trees_all_close(found, tree_rounded_by_hand(params, bits), rtol=2**-15)
    np.testing.assert_array_equal(found["layer"]["bias"], params["layer"]["bias"])
    assert all(len(np.unique(row)) <= 2**bits for row in np.asarray(found["embedding"]))
    assert len(np.unique(np.abs(found["embedding"]).max(1))) > 1, "rows have scales of their own"


@pytest.mark.parametrize("tied", [True, False])
def test_layers_that_a_scan_has_stacked_are_rounded_as_single_ones(tied):
    cfg = ModelConfig(
        vocab_size=11, d_model=8, n_layers=3, n_heads=2, d_ff=12, max_len=6, tie_embeddings=tied, scan_layers=True
    )
    _, params = functional.init(cfg, 0)
    # Layers of other sizes, so that a scale that they share would be found, and vectors that no grid has as they are.
    layers_L = 1.0 + jnp.arange(3.0)
    params["blocks"] = jax.tree.map(
        lambda x: (x + 0.01) * layers_L.reshape((3,) + (1,) * (x.ndim - 1)), params["blocks"]
    )
    found = rounded(params, BITS)
    single_cfg, single = functional.unstack_layers(cfg, params)
    want = functional.stack_layers(single_cfg, rounded(single, BITS))[1]
    chex.assert_trees_all_equal(found, want)
    same = jax.tree.map(lambda x, y: bool((x == y).all()), params, found)
    paths = jax.tree.leaves_with_path(same)
    same_by_name = {jax.tree_util.keystr(path[-1:], simple=True): each for path, each in paths}
    kinds = {"scale": True, "bias": True, "kernel": False, "embedding": False, "positions": False}
    assert same_by_name == kinds | ({} if tied else {"head": False})


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("step", [FIRST - 1, FIRST, FIRST + 1])
def test_the_loss_and_its_gradient_are_those_of_rounded_weights_from_the_first_step_on(tiny, step, accumulation):
    """Straight through: the gradient at the rounded weights is taken off the float ones."""
    params, batch = numbered(tiny, 0).params, tiny.make_batch()
    seen = params if step < FIRST else tree_rounded_by_hand(params, BITS)

    def mean_loss(params):
        loss_sum, n_targets = tiny.loss_fn(params, batch, None)
        return loss_sum / n_targets

    loss, grads = jax.value_and_grad(mean_loss)(seen)
    after, metrics = after_step(tiny, step, rounded_from(FIRST, BITS), accumulation=accumulation)
    # float32 sums in another order, and scales of 16 bits.
    tolerance = 2e-6 if step < FIRST else 4e-5
    np.testing.assert_allclose(metrics["loss"], loss, rtol=tolerance)
    chex.assert_trees_all_close(jax.tree.map(jnp.subtract, params, after.params), grads, atol=tolerance)
    other = jax.value_and_grad(mean_loss)(tree_rounded_by_hand(params, BITS) if step < FIRST else params)[0]
    assert abs(float(other - loss)) > 1e-3, "the two losses can be told apart"


@pytest.mark.parametrize(
    ("way", "kind"),
    [("jit", {}), ("shard_map", {}), ("pmap", {}), *(("jit", kind) for kind in OPTIMIZERS)],
    ids=lambda value: value if isinstance(value, str) else value.get("optimizer", "adamw"),
)
def test_a_step_before_it_has_the_bits_of_a_step_without_it(tiny, way, kind):
    optimizer = tiny.optimizer(**kind)
    found = after_step(tiny, FIRST - 1, rounded_from(FIRST, BITS), optimizer=optimizer, parallelism=way)
    want = after_step(tiny, FIRST - 1, None, optimizer=optimizer, parallelism=way)
    chex.assert_trees_all_equal(found, want)
    first = after_step(tiny, FIRST, rounded_from(FIRST, BITS), optimizer=optimizer, parallelism=way)
    assert float(first[1]["loss"]) != float(want[1]["loss"])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_several_steps_a_call_go_over_the_first_step_as_single_ones(tiny, accumulation):
    step_fn = tiny.step_fn(params_fn=rounded_from(FIRST, BITS), accumulation=accumulation)
    plain_fn = tiny.step_fn(accumulation=accumulation)
    batches = [tiny.make_batch(seed=i) for i in range(5)]
    single, plain = (compile_step(fn, tiny.state(), batches[0]) for fn in (step_fn, plain_fn))
    scanned = compile_step(step_fn, tiny.state(), stack(batches), steps=5)
    one_by_one, without, losses = tiny.state(), tiny.state(), []
    for batch in batches:
        one_by_one, metrics = single(one_by_one, batch)
        without, other = plain(without, batch)
        losses.append((float(metrics["loss"]), float(other["loss"])))
    found, stacked = scanned(tiny.state(), stack(batches))
    chex.assert_trees_all_equal(found, one_by_one)
    assert stacked["loss"].tolist() == [loss for loss, _ in losses]
    assert [a == b for a, b in losses] == [True] * FIRST + [False] * (5 - FIRST)


def test_going_on_from_a_stored_state_in_the_rounded_part_gives_the_same_bits(tiny):
    """Nothing but the state's step says where training stands."""
    step_fn = tiny.step_fn(params_fn=rounded_from(FIRST, BITS))
    batches = [tiny.make_batch(seed=i) for i in range(6)]

    def trained(state, batches):
        program = compile_step(step_fn, tiny.state(), batches[0])
        for batch in batches:
            state, _ = program(state, batch)
        return state

    halfway = jax.tree.map(jnp.array, trained(tiny.state(), batches[: FIRST + 2]))
    chex.assert_trees_all_equal(trained(halfway, batches[FIRST + 2 :]), trained(tiny.state(), batches))


def test_it_is_a_branch_of_the_program_and_not_a_choice_between_two_results(tiny):
    """Also within the loop of several steps: everything that rounds is in what the conditional calls."""
    step_fn = tiny.step_fn(params_fn=rounded_from(FIRST, BITS))
    for steps in (1, 5):
        batch = tiny.make_batch() if steps == 1 else stack([tiny.make_batch()] * steps)
        text = compile_step(step_fn, tiny.state(), batch, steps=steps).hlo_text()
        bodies, entry = computations(text)
        rounding = {name for name, body in bodies.items() if " round-nearest-even(" in body}
        (conditional,) = (line for line in text.splitlines() if " conditional(" in line)
        without = {name: body.replace(conditional, "") for name, body in bodies.items()}
        assert rounding and rounding <= called_by(entry, bodies)
        assert not rounding & called_by(entry, without)


def computations(text):
    """Body by name of an HLO text's computations, and the name of the one that is entered first."""
    found = re.findall(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return {name: body for _, name, body in found}, next(name for entry, name, _ in found if entry)


def called_by(name, bodies):
    """The computation and all that it calls, directly or not."""
    found, todo = set(), [name]
    while todo:
        found.add(name := todo.pop())
        todo += set(re.findall(r"%([\w.\-]+)", bodies[name])) & set(bodies) - found
    return found


def test_the_start_up_check_sees_the_rounding_where_the_state_is_in_that_part(tiny):
    batches, state = [tiny.make_batch(seed=i) for i in range(5)], tiny.state()
    state = dataclasses.replace(state, step=jnp.int32(FIRST))
    step_fn = tiny.step_fn(params_fn=rounded_from(FIRST, BITS))
    program, check = checked(step_fn, state, batches[0])
    assert check.ok and check.worst_error < 1e-4
    assert checked_scan(step_fn, state, batches, step=program)[1].worst_error < 1e-4
    other = tiny.step_fn(params_fn=rounded_from(FIRST, BITS + 1))
    assert not checked_scan(other, state, batches, step=program)[1].ok, "a program that rounds otherwise is found"
