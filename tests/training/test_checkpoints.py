"""Checkpoints: bitwise round trips, which ones are kept, and how each kind of damage is reported."""

import json
import math
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.parallel import compile_step
from ryot_jax.training.rules import OPTIMIZERS
from ryot_jax.training.state import new_state

# Where a file is damaged, reads of others that are under way end after orbax has closed its event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = json.dumps({"name": "tiny"})
DATA = {"iterator": {"next_index": 3}}


@pytest.fixture
def open_checkpoints(tmp_path):
    """Opens the directory, again and again; closes all at the end."""
    opened = []

    def open_(keep_latest=1, keep_best=1, **kwargs):
        opened.append(Checkpoints(tmp_path / "checkpoints", keep_latest, keep_best, **kwargs))
        return opened[-1]

    yield open_
    for checkpoints in opened:
        checkpoints._manager.close()


def raw(state):
    """Host arrays of every leaf, the typed key as its words."""
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x),
        state,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_round_trip_is_bitwise_with_every_optimizer(tiny, open_checkpoints, name):
    overrides = {"optimizer": name, "schedule": "constant" if name == "schedule_free" else "cosine"}
    optimizer = tiny.optimizer(**overrides)
    compiled = compile_step(tiny.step_fn(optimizer), tiny.state(optimizer), tiny.make_batch())
    state, _ = compiled(tiny.state(optimizer), tiny.make_batch())
    open_checkpoints().save(1, state, DATA, 2.5, CONFIG, arm="baseline")

    like = compiled.place(tiny.state(optimizer, seed=9))
    restored, data_state = open_checkpoints().restore("latest", like)
    chex.assert_trees_all_equal(raw(restored), raw(state))
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    assert data_state == DATA
    assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True))


def test_a_key_of_another_kind_stays_of_its_kind(tiny, open_checkpoints):
    state = tiny.state()
    state = type(state)(state.params, state.opt_state, state.step, jax.random.key(7, impl="rbg"))
    checkpoints = open_checkpoints()
    checkpoints.save(1, state, DATA, 1.0, CONFIG)
    restored, _ = checkpoints.restore(1, state)
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(state.key)
    np.testing.assert_array_equal(jax.random.bits(restored.key), jax.random.bits(state.key))


def test_the_metadata_tell_what_was_saved(tiny, open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(3, tiny.state(), DATA, 2.5, CONFIG, arm="optimized")
    metadata = open_checkpoints(read_only=True).metadata("best")
    assert metadata["config"] == CONFIG
    assert (metadata["arm"], metadata["step"], metadata["heldout_loss"]) == ("optimized", 3, 2.5)
    assert len(metadata["config_hash"]) == 64
    assert metadata["leaves"]["params.layer.kernel"]["shape"] == [8, 8]


@pytest.mark.parametrize(
    ("losses", "kept", "best"),
    [
        ([3.0, 2.0, 2.5, 2.7], [2, 4], 2),  # the best and the latest, side by side
        ([3.0, 2.0, 1.0], [3], 3),
        ([0.5, math.nan, 1.0], [1, 3], 1),  # orbax alone would delete the first
        ([1.0, 0.5, math.nan], [2, 3], 2),  # orbax alone would call the third the best
        ([2.0, math.inf], [1, 2], 1),
        ([2.0, -math.inf, 3.0], [1, 3], 1),
        ([2.0, 2.0, 3.0], [2, 3], 2),
        ([math.nan, math.nan], [2], None),
    ],
)
def test_the_latest_and_the_best_are_kept(tiny, open_checkpoints, losses, kept, best):
    state = tiny.state()
    for step, loss in enumerate(losses, start=1):
        # A new process each time: what is known of the older checkpoints has to come from the disk.
        open_checkpoints().save(step, state, DATA, loss, CONFIG)
    checkpoints = open_checkpoints()
    assert (checkpoints.steps(), checkpoints.best_step(), checkpoints.latest_step()) == (
        kept,
        best,
        len(losses),
    )


def test_more_can_be_kept_and_none_of_the_best(tiny, open_checkpoints):
    checkpoints = open_checkpoints(keep_latest=2, keep_best=0)
    for step, loss in enumerate([1.0, 2.0, 3.0], start=1):
        checkpoints.save(step, tiny.state(), DATA, loss, CONFIG)
    assert checkpoints.steps() == [2, 3]


def test_a_directory_may_be_relative(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("some/where")
    checkpoints.save(1, tiny.state(), DATA, 1.0, CONFIG)
    checkpoints.close()
    assert (tmp_path / "some/where/1").is_dir()


def test_saving_leaves_the_state_able_to_give_its_memory_to_the_next_step(tiny, open_checkpoints):
    """A host view that outlived the save would keep it, and the next step would have to copy everything."""
    compiled = compile_step(tiny.step_fn(), tiny.state(), tiny.make_batch())
    state = compiled.place(tiny.state())
    open_checkpoints().save(1, state, DATA, 1.0, CONFIG)
    compiled(state, tiny.make_batch())
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)))


def wider(params):
    return params | {"layer": params["layer"] | {"bias": jnp.zeros(9)}}


def longer(params):
    return params | {"head": jnp.zeros((2, 2))}


def shorter(params):
    return {"embedding": params["embedding"]}


@pytest.mark.parametrize(
    ("change", "leaf"),
    [(wider, "params.layer.bias"), (longer, "params.head"), (shorter, "params.layer")],
)
def test_another_model_is_refused_and_the_leaf_named(tiny, open_checkpoints, change, leaf):
    checkpoints, optimizer = open_checkpoints(), tiny.optimizer()
    checkpoints.save(1, tiny.state(optimizer), DATA, 1.0, CONFIG)
    other = new_state(change(tiny.init_params()), optimizer, 0)
    with pytest.raises(CheckpointError, match=rf"another model or optimizer: {leaf}\S* is (absent|float32\S+) there"):
        checkpoints.restore("latest", other)


def test_another_optimizer_is_refused_and_the_leaf_named(tiny, open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(1, tiny.state(), DATA, 1.0, CONFIG)
    with pytest.raises(CheckpointError, match=r"opt_state\S+nu\S+ is float32\[13, 8\] there and absent here"):
        checkpoints.restore("latest", tiny.state(tiny.optimizer(optimizer="lion")))


@pytest.mark.parametrize("which", ["latest", "best", 7])
def test_a_checkpoint_that_is_not_there_is_said_to_be_missing(tiny, open_checkpoints, which):
    with pytest.raises(CheckpointError, match=r"no checkpoint .* there are none"):
        open_checkpoints().restore(which, tiny.state())


def test_a_directory_that_is_not_there_is_not_made_for_reading(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_steps_only_go_up(tiny, open_checkpoints):
    """Else the policy would take the new one for the oldest and delete it."""
    checkpoints = open_checkpoints()
    checkpoints.save(5, tiny.state(), DATA, 1.0, CONFIG)
    for step in (5, 4):
        with pytest.raises(CheckpointError, match="already holds step 5"):
            checkpoints.save(step, tiny.state(), DATA, 1.0, CONFIG)


def data_files(directory, step):
    """The files that hold arrays, largest first."""
    files = [f for f in Path(directory, str(step), "state").rglob("*") if f.is_file() and f.parent.name == "d"]
    return sorted(files, key=lambda f: -f.stat().st_size)


def big_state(tiny):
    """A state with one leaf that no compression hides a flipped bit of."""
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.float32)}
    return new_state(params, tiny.optimizer(), 0)


def test_a_flipped_bit_is_noticed(tiny, open_checkpoints):
    checkpoints, state = open_checkpoints(), big_state(tiny)
    checkpoints.save(1, state, DATA, 1.0, CONFIG)
    noticed = 0
    for file in data_files(checkpoints.directory, 1):
        content = bytearray(file.read_bytes())
        if len(content) < 4096:
            continue
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"params\.kernel is damaged|cannot be read"):
            open_checkpoints().restore(1, state)
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        noticed += 1
    assert noticed > 0
    chex.assert_trees_all_equal(raw(open_checkpoints().restore(1, state)[0]), raw(state))


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_a_damaged_file_is_an_error_that_names_the_step_and_the_others(tiny, open_checkpoints, damage):
    checkpoints, state = open_checkpoints(keep_latest=2), big_state(tiny)
    for step in (1, 2):
        checkpoints.save(step, state, DATA, 1.0, CONFIG)
    for file in data_files(checkpoints.directory, 2):
        file.unlink() if damage == "deleted" else file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"step 2 .* there are \[1"):
        open_checkpoints(keep_latest=2).restore("latest", state)
    chex.assert_trees_all_equal(raw(open_checkpoints(keep_latest=2).restore(1, state)[0]), raw(state))


def test_a_save_that_fails_says_so_at_once_and_is_not_the_latest(tiny, open_checkpoints):
    checkpoints = open_checkpoints()
    shutil.rmtree(checkpoints.directory)
    Path(checkpoints.directory).write_text("in the way")
    with pytest.raises(CheckpointError, match="step 1 could not be written"):
        checkpoints.save(1, tiny.state(), DATA, 1.0, CONFIG)
    assert checkpoints.latest_step() is None


def test_what_an_interrupted_save_left_behind_is_cleaned_up_but_not_by_a_reader(tiny, open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(1, tiny.state(), DATA, 1.0, CONFIG)
    left = Path(checkpoints.directory, "2.orbax-checkpoint-tmp")
    left.mkdir()
    assert open_checkpoints(read_only=True).steps() == [1] and left.exists()
    writer = open_checkpoints()
    writer.save(2, tiny.state(), DATA, 1.0, CONFIG)
    assert writer.steps() == [2] and not left.exists()


@pytest.mark.parametrize(("keep", "field"), [((0, 1), "keep_latest"), ((1, -1), "keep_best")])
def test_numbers_to_keep_that_make_no_sense_are_refused(tmp_path, keep, field):
    with pytest.raises(ConfigError, match=f"checkpoint.{field}"):
        Checkpoints(tmp_path, *keep)
