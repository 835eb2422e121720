import chex
import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_jax.data import batches
from ryot_jax.runtime.errors import ConfigError, DataError

TRAIN = np.arange(1000, dtype=np.uint16)  # each id tells its place


def dataset(train=TRAIN, seq_len=8, batch_size=4, seed=0, **processes):
    return batches.training_dataset(train, seq_len=seq_len, batch_size=batch_size, seed=seed, **processes)


def starts(ds, steps):
    return np.concatenate([ds[step]["inputs"][:, 0] for step in steps])


def test_batches_have_the_promised_shapes_and_types():
    batch = dataset()[3]
    chex.assert_shape([batch["inputs"], batch["targets"]], (4, 8))
    chex.assert_type([batch["inputs"], batch["targets"]], np.int32)


def test_targets_are_the_inputs_successors():
    for step in range(20):
        batch = dataset()[step]
        chex.assert_trees_all_equal(batch["targets"], batch["inputs"] + 1)


@settings(max_examples=25)
@given(
    length=st.integers(9, 120),
    seq_len=st.integers(1, 8),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 2**40),
)
def test_each_pass_takes_each_window_once_and_windows_do_not_overlap(length, seq_len, batch_size, seed):
    window = seq_len + 1
    n_windows = max(1, (length - seq_len) // window)
    ds = dataset(TRAIN[:length], seq_len, batch_size, seed)
    found = starts(ds, range(3 * n_windows // batch_size + 1))
    for epoch in range(3):
        first = found[epoch * n_windows : (epoch + 1) * n_windows]
        offset = first.min()
        assert sorted(first) == [offset + n * window for n in range(n_windows)]
        assert 0 <= offset <= seq_len
        assert first.max() + window <= length


def test_passes_differ_in_order_and_offset():
    n_windows = (1000 - 8) // 9
    ds = dataset(batch_size=1)
    passes = [starts(ds, range(n * n_windows, (n + 1) * n_windows)) for n in range(6)]
    assert len({tuple(found - found.min()) for found in passes}) == 6
    assert len({found.min() for found in passes}) > 2


def test_batches_depend_on_seed_and_step_alone():
    ds, again, other = dataset(seed=5), dataset(seed=5), dataset(seed=6)
    order = [7, 0, 300, 7]
    chex.assert_trees_all_equal([ds[n] for n in order], [again[n] for n in order])
    assert not np.array_equal(starts(ds, range(20)), starts(other, range(20)))


def test_a_seed_is_not_its_neighbour_one_pass_later():
    n_windows = (1000 - 8) // 9
    zero, one = dataset(batch_size=1, seed=0), dataset(batch_size=1, seed=1)
    later = starts(zero, range(n_windows, 2 * n_windows))
    first = starts(one, range(n_windows))
    assert not np.array_equal(later - later.min(), first - first.min())


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_processes_batches_in_a_row_are_the_batch_of_one(process_count):
    whole = dataset(batch_size=8)
    parts = [dataset(batch_size=8, process_index=p, process_count=process_count) for p in range(process_count)]
    for step in (0, 1, 40):
        rows = [part[step] for part in parts]
        chex.assert_shape(rows[0]["inputs"], (8 // process_count, 8))
        joined = {name: np.concatenate([row[name] for row in rows]) for name in ("inputs", "targets")}
        chex.assert_trees_all_equal(joined, whole[step])
        assert len(set(joined["inputs"][:, 0])) == 8


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"training\.batch_size = 4 cannot be shared by 3 processes"):
        dataset(process_index=0, process_count=3)


def test_iterating_gives_the_dataset_from_the_start_step_on():
    ds = dataset()
    iterator = batches.training_iterator(ds, start_step=50)
    for step in range(50, 60):
        chex.assert_trees_all_equal(next(iterator), ds[step])


def test_a_saved_state_resumes_at_the_very_batch():
    iterator = batches.training_iterator(dataset())
    for _ in range(33):
        next(iterator)
    state = iterator.get_state()
    wanted = [next(iterator) for _ in range(5)]
    fresh = batches.training_iterator(dataset())
    fresh.set_state(state)
    chex.assert_trees_all_equal([next(fresh) for _ in range(5)], wanted)


def test_grains_own_check_of_saved_states_holds():
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    grain.experimental.assert_equal_output_after_checkpoint(dataset()[:12].to_iter_dataset(options))


def test_heldout_windows_are_spread_evenly_and_do_not_overlap():
    out = batches.heldout_batches(TRAIN, seq_len=9, batch_size=4, sequences=20)
    chex.assert_shape([out["inputs"], out["targets"]], (5, 4, 9))
    chex.assert_type([out["inputs"], out["targets"]], np.int32)
    chex.assert_trees_all_equal(out["inputs"][..., 0].ravel(), np.arange(0, 1000, 50, dtype=np.int32))
    chex.assert_trees_all_equal(out["targets"], out["inputs"] + 1)


def test_heldout_rows_that_fill_up_do_not_count():
    out = batches.heldout_batches(TRAIN, seq_len=9, batch_size=8, sequences=20)
    assert out["inputs"].shape == (3, 8, 9)
    assert (out["targets"] >= 0).all(axis=-1).sum() == 20
    assert (out["targets"][-1, 4:] == batches.IGNORED).all()
    assert (out["inputs"][-1, 4:] == 0).all()
    whole = batches.heldout_batches(TRAIN, seq_len=9, batch_size=4, sequences=20)
    chex.assert_trees_all_equal(out["inputs"].reshape(-1, 9)[:20], whole["inputs"].reshape(-1, 9))


def test_heldout_windows_are_no_more_than_there_are():
    out = batches.heldout_batches(TRAIN[:95], seq_len=9, batch_size=4, sequences=512)
    assert out["inputs"].shape == (3, 4, 9)
    assert (out["targets"] >= 0).all(axis=-1).sum() == 9


def test_less_than_one_window_is_refused():
    message = r"has 8 tokens, but one window needs training\.seq_len \+ 1 = 9; give more text"
    with pytest.raises(DataError, match="the training part " + message):
        dataset(TRAIN[:8])
    with pytest.raises(DataError, match="the held-out part " + message):
        batches.heldout_batches(TRAIN[:8], seq_len=8, batch_size=4, sequences=4)
    assert dataset(TRAIN[:9])[0]["inputs"].shape == (4, 8)
