"""Batches of token windows: a shuffled, endless, resumable stream for training, a fixed set for evaluation.

Pure functions of the ids and the seed; `training` places batches on devices.
"""

import functools
import sys
from collections.abc import Callable

import grain
import numpy as np

from ryot_jax.runtime.errors import ConfigError, DataError

IGNORED = -1  # a target that is ignored


def training_dataset(
    train: np.ndarray,
    *,
    seq_len: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Endless batches with random access by step: `ds[step]` depends on the arguments and the step only.

    A pass over the data cuts it into windows of `seq_len + 1` ids that do not overlap, from an offset that
    the seed and the pass decide, and takes each once, in an order that they decide too. A batch may hold the
    end of one pass and the start of the next. The processes' batches, one after the other, are the batch of
    a single process.

    Args:
      train: uint16[n] token ids.
      seq_len: T, ids that the model sees.
      batch_size: windows in a batch over all processes.
      seed: any non-negative integer.
      process_index: which part of each batch to make.
      process_count: number of such parts.

    Returns:
      Dataset of {'inputs': int32[B, T], 'targets': int32[B, T]} with B = batch_size // process_count;
      targets are the inputs' successors.

    Raises:
      DataError: fewer than `seq_len + 1` ids.
      ConfigError: `process_count` does not divide `batch_size`.
    """
    if batch_size % process_count:
        raise ConfigError(
            f"training.batch_size = {batch_size} cannot be shared by {process_count} processes; "
            f"set it to a multiple of {process_count}"
        )
    local, rows_of = batch_size // process_count, training_rows(train, seq_len, seed)

    def batch_of(step: int) -> dict[str, np.ndarray]:
        return rows_of(step * batch_size + process_index * local, local)

    return grain.MapDataset.range(sys.maxsize // batch_size).map(batch_of)


def training_rows(train: np.ndarray, seq_len: int, seed: int) -> Callable[[int, int], dict[str, np.ndarray]]:
    """A function (first, count) -> `count` windows from number `first` on, of endless passes over the data.

    See `training_dataset`.

    Raises:
      DataError: fewer than `seq_len + 1` ids.
    """
    _check_length("training", len(train), seq_len)
    window = seq_len + 1
    # An offset of up to seq_len must fit beside the windows, unless there is room for one window only.
    n_windows = max(1, (len(train) - seq_len) // window)
    n_offsets = min(seq_len, len(train) - n_windows * window) + 1

    # grain shuffles pass p by seed + p: mixed, so that seed 1 is not seed 0 one pass later.
    shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    # The index that reaches `start_of` tells the pass too, as `repeat` counts on through the passes.
    start_of = functools.partial(_window_start, seed=seed, n_windows=n_windows, window=window, n_offsets=n_offsets)
    starts = grain.MapDataset.range(n_windows).map_with_index(start_of).shuffle(seed=shuffle_seed).repeat()
    return lambda first, count: _windows(train, [starts[first + row] for row in range(count)], seq_len)


def training_iterator(dataset: grain.MapDataset, start_step: int = 0) -> grain.DatasetIterator:
    """Iterates over `dataset` from `start_step` on, in this thread; `get_state` and `set_state` store the position."""
    # The ids are in memory or in the page cache: threads would only fight for the interpreter lock.
    iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
    grain.experimental.set_next_index(iterator, start_step)
    return iterator


def heldout_batches(heldout: np.ndarray, *, seq_len: int, batch_size: int, sequences: int) -> dict[str, np.ndarray]:
    """A fixed set of windows, evenly spread over the held-out ids, that do not overlap.

    Args:
      heldout: uint16[m] token ids.
      seq_len: T.
      batch_size: B.
      sequences: number of windows; fewer are taken where `heldout` has no more.

    Returns:
      {'inputs': int32[n, B, T], 'targets': int32[n, B, T]}; rows that fill up the last batch have inputs 0
      and targets -1.

    Raises:
      DataError: fewer than `seq_len + 1` ids.
    """
    _check_length("held-out", len(heldout), seq_len)
    window = seq_len + 1
    n_windows = len(heldout) // window
    taken = min(sequences, n_windows)
    starts = np.arange(taken) * n_windows // taken * window
    batch = _windows(heldout, starts, seq_len)
    n_batches = -(-taken // batch_size)
    missing = ((0, n_batches * batch_size - taken), (0, 0))
    shape = (n_batches, batch_size, seq_len)
    return {
        "inputs": np.pad(batch["inputs"], missing).reshape(shape),
        "targets": np.pad(batch["targets"], missing, constant_values=IGNORED).reshape(shape),
    }


def _window_start(index: int, _: int, *, seed: int, n_windows: int, window: int, n_offsets: int) -> int:
    """First id of the window; `index` counts windows through all passes."""
    epoch, number = divmod(index, n_windows)
    return _offset(seed, epoch, n_offsets) + number * window


@functools.lru_cache(maxsize=64)
def _offset(seed: int, epoch: int, n_offsets: int) -> int:
    return int(np.random.default_rng((seed, epoch)).integers(n_offsets))


def _windows(ids: np.ndarray, starts: np.ndarray | list[int], seq_len: int) -> dict[str, np.ndarray]:
    positions = np.asarray(starts)[:, None] + np.arange(seq_len + 1)
    windows = ids[positions].astype(np.int32)
    return {
        "inputs": np.ascontiguousarray(windows[:, :-1]),
        "targets": np.ascontiguousarray(windows[:, 1:]),
    }


def _check_length(part: str, length: int, seq_len: int) -> None:
    if length < seq_len + 1:
        raise DataError(
            f"the {part} part has {length} tokens, but one window needs training.seq_len + 1 = "
            f"{seq_len + 1}; give more text in data.path or data.heldout_path, or lower training.seq_len"
        )
