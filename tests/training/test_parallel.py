"""One step on one device and spread over eight in three ways: other programs, the same numbers."""

import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.parallel import compile_step, stack

WAYS = ("jit", "shard_map", "pmap")
SCANNED_WAYS = ("jit", "shard_map")


@pytest.fixture(scope="module")
def eight_devices(run_python):
    """What `eight_devices.py` prints: simulated devices must be asked for before JAX starts."""
    script = str(Path(__file__).with_name("eight_devices.py"))
    done = run_python(f"import runpy; runpy.run_path({script!r}, run_name='__main__')", devices=8)
    return json.loads(done.stdout)


def test_the_devices_have_different_numbers_of_targets(eight_devices):
    """Else a mean of the devices' means would pass for the mean over all targets."""
    assert eight_devices["device_count"] == 8
    assert len(set(eight_devices["targets_per_device"])) > 3


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_those_of_one_device(eight_devices, way, accumulation):
    """float32 sums in another order: a few units in the seventh digit, a few more after Adam's division."""
    many, one = eight_devices[f"{way} {accumulation}"], eight_devices[f"one {accumulation}"]
    for a, b in zip(many["metrics"], one["metrics"], strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-5)
    for a, b in zip(many["state"], one["state"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_rounded_alike_on_every_device(eight_devices, way):
    """From the second of three steps on; the same rounding of sums as above, which moves no weight over a boundary."""
    many, one, plain = eight_devices[f"{way} rounded"], eight_devices["one rounded"], eight_devices["one 2"]
    assert many["devices"] == 8 and many["all_reduce"] and many["placed"] and many["compiles"] == 0
    for a, b in zip(many["metrics"], one["metrics"], strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-5)
    for a, b in zip(many["state"], one["state"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    differs = [a["loss"] != b["loss"] for a, b in zip(one["metrics"], plain["metrics"], strict=True)]
    assert differs == [False, True, True]


@pytest.mark.parametrize("way", WAYS)
def test_the_step_really_runs_on_eight_devices(eight_devices, way):
    many, one = eight_devices[f"{way} 1"], eight_devices["one 1"]
    assert (many["devices"], one["devices"]) == (8, 1)
    assert (many["all_reduce"], one["all_reduce"]) == (True, False)


@pytest.mark.parametrize("way", WAYS)
def test_the_state_has_no_device_axis_and_lies_where_the_program_wants_it(eight_devices, way):
    assert eight_devices[f"{way} 1"]["placed"]
    assert eight_devices[f"{way} 1"]["shapes"] == eight_devices["one 1"]["shapes"]


@pytest.mark.parametrize("way", WAYS)
def test_steps_compile_nothing(eight_devices, way):
    assert eight_devices[f"{way} 1"]["compiles"] == 0


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("way", SCANNED_WAYS)
def test_three_steps_in_one_call_are_three_calls_on_eight_devices(eight_devices, way, accumulation):
    scanned, one_by_one = (eight_devices[f"{way} {accumulation}{suffix}"] for suffix in (" scan", ""))
    assert scanned["devices"] == 8 and scanned["all_reduce"] and scanned["placed"] and scanned["compiles"] == 0
    # The devices' sums may be added up in another order.
    for a, b in zip(scanned["metrics"], one_by_one["metrics"], strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-5)
    for a, b in zip(scanned["state"], one_by_one["state"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_it_is_the_rows_that_are_shared_out_and_not_the_steps(eight_devices):
    """Three steps went over eight devices above; eight steps of 30 rows do not."""
    assert "training.batch_size = 30 cannot be divided over 8 devices" in eight_devices["refused"]


def test_the_program_check_works_on_eight_devices(eight_devices):
    ok, worst_error, skipped = eight_devices["check"]
    assert ok and not skipped and worst_error < 1e-3


def test_heldout_loss_is_the_same_wherever_it_is_computed(eight_devices):
    np.testing.assert_allclose(eight_devices["heldout"], eight_devices["heldout"][0], rtol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_times_are_apart_and_memory_is_counted(tiny, way):
    compiled = compile_step(tiny.step_fn(), tiny.state(), tiny.make_batch(), parallelism=way)
    assert set(compiled.seconds) == {"trace", "lower", "compile"}
    assert compiled.seconds["lower"] > 0 and compiled.seconds["compile"] > 0
    assert (compiled.seconds["trace"] > 0) == (way != "pmap")
    state_bytes = sum(x.nbytes for x in jax.tree.leaves((tiny.state().params, tiny.state().opt_state)))
    assert compiled.memory_bytes > state_bytes


@pytest.mark.parametrize("way", WAYS)
def test_the_old_state_is_consumed_only_if_donated(tiny, way):
    for donate, steps in ((True, 1), (False, 1), (True, 5), (False, 5)):
        if steps > 1 and way not in SCANNED_WAYS:
            continue
        batch = tiny.make_batch() if steps == 1 else stack([tiny.make_batch()] * steps)
        compiled = compile_step(tiny.step_fn(), tiny.state(), batch, steps=steps, parallelism=way, donate=donate)
        state = compiled.place(tiny.state())
        compiled(state, batch)
        assert state.params["embedding"].is_deleted() == donate


@pytest.mark.parametrize("way", SCANNED_WAYS)
def test_several_steps_in_one_call_give_the_bits_of_as_many_calls(tiny, way):
    """Two programs, of which one holds a loop; its body is compiled to the arithmetic of the other."""
    batches = [tiny.make_batch(seed=i) for i in range(5)]
    single = compile_step(tiny.step_fn(), tiny.state(), batches[0], parallelism=way)
    scanned = compile_step(tiny.step_fn(), tiny.state(), stack(batches), steps=5, parallelism=way)
    assert (single.steps, scanned.steps) == (1, 5)
    assert [program.hlo_text().count(" while(") for program in (single, scanned)] == [0, 1]

    want, rows = tiny.state(), []
    for batch in batches:
        want, metrics = single(want, batch)
        rows.append(metrics)
    found, stacked = scanned(tiny.state(), stack(batches))
    assert int(found.step) == 5
    chex.assert_trees_all_equal(found, want)
    chex.assert_trees_all_equal(stacked, jax.tree.map(lambda *x: np.stack(x), *rows))
    assert len(set(stacked["loss"].tolist())) == 5, "each step has its own batch"


@pytest.mark.parametrize("steps", [4, 6])
def test_a_stack_of_other_than_the_steps_is_refused(tiny, steps):
    with pytest.raises(ValueError, match="length"):
        compile_step(tiny.step_fn(), tiny.state(), stack([tiny.make_batch()] * 5), steps=steps)


def test_pmap_takes_one_step_a_call(tiny):
    with pytest.raises(ConfigError, match=r"'pmap': pmap takes one step a call; set optimizations.dispatch = 'off'"):
        compile_step(tiny.step_fn(), tiny.state(), stack([tiny.make_batch()] * 5), steps=5, parallelism="pmap")


def test_a_batch_of_another_shape_is_refused_and_not_compiled_for(tiny):
    compiled = compile_step(tiny.step_fn(), tiny.state(), tiny.make_batch())
    with pytest.raises(TypeError):
        compiled(tiny.state(), tiny.make_batch(rows=4))


def test_unknown_ways_are_refused_by_name(tiny):
    with pytest.raises(ConfigError, match=r"training.parallelism = 'tpu'"):
        compile_step(tiny.step_fn(), tiny.state(), tiny.make_batch(), parallelism="tpu")
