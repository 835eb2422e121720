"""The paired protocol: order, resuming, and the faults that it must not let pass."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.comparison import protocol
from ryot_jax.comparison.interleaving import there_and_back
from ryot_jax.comparison.record import Record
from ryot_jax.runtime.errors import CheckpointError, RyotError


def test_both_arms_run_every_block_and_are_evaluated_at_each_epochs_end(make_arms, run, schedule):
    arms = make_arms()
    record = run(arms)
    assert record.step == schedule.total_steps == 100
    assert [block.steps for block in record.blocks] == [10, 10, 5] * 4
    assert [(e.step, e.epoch) for e in record.heldout] == [(0, 0), (25, 1), (50, 2), (75, 3), (100, 4)]
    epoch = ["run 5", "run 5", "run 5", "run 5", "run 3", "run 2", "evaluate"]  # there and back
    assert all(arm.calls == ["warm_up", "evaluate", *epoch * 4] for arm in arms)
    assert record.blocks[0].first_loss == {"baseline": 7.0, "optimized": 7.0}


def test_the_order_inside_a_pair_is_random_and_a_function_of_seed_and_position(schedule):
    names = ("baseline", "optimized")
    orders = [schedule.order(i, names) for i in range(200)]
    assert orders == [schedule.order(i, names) for i in range(200)]
    # 200 fair draws: 70 to 130 is more than four standard deviations either way.
    assert 70 <= sum(order[0] == "baseline" for order in orders) <= 130
    other = dataclasses.replace(schedule, seed=1)
    assert orders != [other.order(i, names) for i in range(200)]


def test_the_recorded_order_is_the_one_that_ran(make_arms, run):
    ran = []
    observer = protocol.Observer(block=lambda name, block, result: ran.append((block.index, name)))
    record = run(make_arms(), observer=observer)
    assert ran == [(block.index, name) for block in record.blocks for name in (*block.order, *block.order[::-1])]


def test_arms_go_there_and_back_with_the_steps_of_a_block():
    steps = {"a": 5, "b": 1}
    assert there_and_back(("a", "b"), steps) == (("a", 3), ("b", 1), ("a", 2))
    assert there_and_back(("b", "a"), dict.fromkeys("ab", 4)) == (("b", 2), ("a", 2), ("a", 2), ("b", 2))


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_run_resumed_from_its_json_record_equals_the_uninterrupted_one(make_arms, run, stop_after):
    whole = run(make_arms())
    saved = {}

    class Stop(Exception):
        pass

    def stop(record, block):
        if block.index == stop_after:
            saved["record"] = json.dumps(record.to_json())
            raise Stop

    first = make_arms()
    with pytest.raises(Stop):
        run(first, observer=protocol.Observer(pair=stop))
    resumed = [dataclasses.replace(arm, calls=[]) for arm in first]
    record = run(resumed, record=Record.from_json(json.loads(saved["record"])))
    assert record == whole
    assert all(arm.calls[0] == "warm_up" for arm in resumed)


def test_different_initial_weights_are_an_error(make_arms, run):
    with pytest.raises(RyotError, match="same initial weights"):
        run(make_arms(weights="other"))


def test_different_batches_are_an_error(make_arms, run):
    with pytest.raises(RyotError, match="same batches"):
        run(make_arms(data="other"))


def test_samples_counted_as_tokens_are_an_error(make_arms, run):
    with pytest.raises(RyotError, match="throughput would be wrong"):
        run(make_arms(tokens_per_step=2))


def test_two_arms_of_one_name_are_an_error(make_arms, run):
    baseline, _ = make_arms()
    with pytest.raises(RyotError, match="different names"):
        run((baseline, baseline))


def test_a_record_that_does_not_fit_is_refused(make_arms, run, schedule):
    record = run(make_arms())
    with pytest.raises(CheckpointError, match="stands at step 100"):
        run(make_arms(), record=record)
    with pytest.raises(CheckpointError, match="not those of this config"):
        run(make_arms(), dataclasses.replace(schedule, block_steps=5), record=record)
    with pytest.raises(CheckpointError, match="arms"):
        run(make_arms()[:1], record=record)
    with pytest.raises(CheckpointError, match="damaged"):
        Record.from_json({"arms": ["baseline"]})


def test_one_arm_alone_runs(make_arms, run):
    assert run(make_arms()[:1]).blocks[0].order == ("baseline",)


def test_tree_hash_sees_values_shapes_dtypes_and_names():
    trees = [
        {"a": jnp.zeros((2, 3))},
        {"a": jnp.zeros((3, 2))},
        {"a": jnp.zeros((2, 3), jnp.int32)},
        {"b": jnp.zeros((2, 3))},
        {"a": jnp.zeros((2, 3)).at[1, 1].set(1e-30)},
    ]
    assert len({protocol.tree_hash(tree) for tree in trees}) == len(trees)
    assert protocol.tree_hash(trees[0]) == protocol.tree_hash({"a": np.zeros((2, 3), np.float32)})
