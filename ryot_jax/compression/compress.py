"""Compression to a budget: measures the value of each array's bits, allocates them, and measures the result."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression import allocation, coding
from ryot_jax.compression.allocation import Table, Trial
from ryot_jax.compression.budget import Budget, parse
from ryot_jax.compression.calibration import LossFn, Stats, as_matrix_shape, calibrate
from ryot_jax.compression.compressed import PyTree, decode, map_named, named_leaves
from ryot_jax.compression.file import FileSize, to_bytes
from ryot_jax.compression.quality import Estimate
from ryot_jax.compression.quantize import balanced
from ryot_jax.compression.quantized import Quantized
from ryot_jax.compression.transforms import Transform, by_path

# Settings that are tried, as multiples of the rise for each parameter that the budget is expected to allow.
_TRIED = (0.5, 1.0, 2.0)
_MEASURED = 8  # batches that a trial is measured on
_SMALL = 1 / 256  # arrays with a smaller share of the parameters are tried together
_WIDEST = 4.0  # octaves that the search of the common factor goes up and down
_SEARCH_STEPS = 8

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Compression:
    """The result of `compress`.

    Attributes:
      params: the tree, with compressed arrays.
      stats: the moments that it was made with.
      size: where the bytes of its file go.
      n_parameters: elements of all arrays.
      budget: the requested budget.
      rise: of the mean loss, measured jointly on batches that the rounding has not seen, which are the interval's unit.
      table: every trial by group of arrays.
      settings: expected rise for each parameter, by group.
      groups: the arrays of each group, by dotted path.
    """

    params: PyTree
    stats: Stats
    size: FileSize
    n_parameters: int
    budget: Budget
    rise: Estimate
    table: Table
    settings: Mapping[str, float]
    groups: Mapping[str, Sequence[str]]

    @property
    def ratio(self) -> float:
        """Bytes of the arrays in float32 to bytes of the whole file."""
        return 4 * self.n_parameters / self.size.total

    @property
    def bits_per_parameter(self) -> float:
        """Bits of the whole file per parameter of the model."""
        return 8 * self.size.total / self.n_parameters

    def transform(self, multiple: float = 1.0) -> Transform:
        """The transform that made the tree, its settings multiplied: above one for fewer bits. It takes `stats`."""
        return allocated(self.groups, self.settings, multiple)


def compress(
    params: PyTree,
    loss_fn: LossFn,
    calibration: Sequence[Any],
    budget: str | Budget,
    *,
    targets: int = 1,
    measure: LossFn | None = None,
    metadata: Mapping[str, Any] | None = None,
    log: Log | None = None,
) -> Compression:
    """Compresses parameters to the fewest bytes for a rise of the loss, or to the smallest rise for a number of bytes.

    Half of the batches give the moments that rounding and step sizes go by (`calibrate`), the others measure. Every
    array, the small ones together, is compressed alone with three settings around the one that theory expects; what
    these cost decides how the bits are shared out (`allocation`); a common factor of all settings is then searched
    with the whole tree compressed, so that the budget holds jointly.

    Args:
      params: pytree of float arrays in dicts, lists and tuples.
      loss_fn: `(params, batch) -> mean loss`, pure; examples lie on axis 0 of the batch's arrays.
      calibration: batches, at least four; not those that the result will be judged by.
      budget: 'ratio>=8', 'bytes<=500000', 'loss<=0.01' or 'perplexity<=1%'.
      targets: log-likelihoods that an example's loss is the mean of; see `calibrate`.
      measure: the same function in a form that is quicker where no gradients and no single examples are asked for, or
        another whose rise the gradients of `loss_fn` foretell; None: `loss_fn`.
      metadata: the metadata for `save`, which count towards the file's bytes.
      log: called with one line of progress.

    Raises:
      ValueError: the budget is malformed or cannot be kept, or there are too few batches.
    """
    budget = parse(budget) if isinstance(budget, str) else budget
    if len(calibration) < 4:
        raise ValueError(f"{len(calibration)} batches to calibrate with: give at least 4")
    log = log or (lambda line: None)
    params = jax.tree.map(np.asarray, params)
    fitted, measured = calibration[::2], calibration[1::2]
    stats = calibrate(loss_fn, params, fitted, targets=targets)
    search = _Search(params, stats, _Losses(measure or loss_fn, params, measured), metadata, log)
    start = search.starting_rise(budget)
    table = search.table([start * tried for tried in _TRIED])
    shares = search.shares(table, start)
    return search.result(budget, table, shares)


class _Losses:
    """The loss of trees on a fixed set of batches, beside that of the tree that is compressed."""

    def __init__(self, loss_fn: LossFn, params: PyTree, batches: Sequence[Any]):
        self._loss = jax.jit(loss_fn)
        self._params = params
        self._batches = [jax.tree.map(jnp.asarray, batch) for batch in batches]
        self._before = self._of(params, len(batches))

    def rise(self, compressed: PyTree) -> Estimate:
        """The rise of the loss for a whole tree."""
        return Estimate.of(self._of(decode(compressed), len(self._batches)) - self._before)

    def curvature(self, decoded: Mapping[str, jax.Array], most: int = _MEASURED) -> float:
        """The rise for the error of a few arrays, without what is first-order in it.

        The mean of the rises for the error and for its negative. On few examples the gradient is not zero, and what
        it adds to either is ten times the rise itself at a rise of 1e-4; over many examples it vanishes.
        """
        leaves = named_leaves(self._params)
        mirrored = {name: 2 * leaves[name] - leaf for name, leaf in decoded.items()}
        n = min(most, len(self._batches))
        both = [self._of(self._with(changed), n).mean() for changed in (decoded, mirrored)]
        return float(np.mean(both) - self._before[:n].mean())

    def _with(self, changed: Mapping[str, jax.Array]) -> PyTree:
        return map_named(lambda name, leaf: changed.get(name, leaf), self._params)

    def _of(self, params: PyTree, n: int) -> np.ndarray:
        losses = [self._loss(params, batch) for batch in self._batches[:n]]
        return np.asarray(jax.device_get(losses), np.float64)


class _Search:
    """The steps of `compress`, over one tree."""

    def __init__(self, params: PyTree, stats: Stats, losses: _Losses, metadata: Mapping[str, Any] | None, log: Log):
        self.params, self.stats, self.losses, self.metadata, self.log = params, stats, losses, metadata, log
        self.leaves = named_leaves(params)
        self.n_parameters = sum(int(leaf.size) for leaf in self.leaves.values())
        self.groups = {name: [name] for name, leaf in self.leaves.items() if leaf.size >= _SMALL * self.n_parameters}
        if small := [name for name in self.leaves if name not in self.groups]:
            self.groups["small arrays"] = small

    def starting_rise(self, budget: Budget) -> float:
        """Rise for each parameter at which the budget is about spent, if all have the same."""
        most = budget.bytes_of(self.n_parameters)
        if most is None:
            return budget.limit / self.n_parameters

        def keeps(octaves: float) -> bool:
            return self._content(balanced(2.0**octaves)(self.params, self.stats)).total <= most

        return 2.0 ** _edge(keeps, good=0.0, bad=-60.0, steps=8, budget=budget)

    def table(self, rises: Sequence[float]) -> dict[str, list[Trial]]:
        """The trials of every group alone, with every setting."""
        table: dict[str, list[Trial]] = {}
        for group, members in self.groups.items():
            part = {name: self.leaves[name] for name in members}
            n = sum(int(leaf.size) for leaf in part.values())
            table[group] = []
            for rise in rises:
                compressed = balanced(rise)(part, self.stats)
                found = self.losses.curvature(decode(compressed))
                table[group].append(Trial(rise, code_bits(compressed), found))
            self.log(f"{group}: " + ", ".join(f"{t.bits / n:.2f} bits {t.rise:.1e}" for t in table[group]))
        return table

    def shares(self, table: Table, start: float) -> dict[str, float]:
        """The setting of each group that the table asks for, at the bits of the same setting for all.

        Where theory is right already, the table adds its own error: the two are tried on the whole tree, and the same
        setting for all stays if it is the better one. A rise falls fourfold with every bit a parameter.
        """
        equal = dict.fromkeys(table, start)
        bits = sum(next(t.bits for t in trials if t.setting == start) for trials in table.values())
        chosen = {name: trial.setting for name, trial in allocation.allocate(table, bits).items()}
        costs = []
        for settings in (chosen, equal):
            compressed = allocated(self.groups, settings)(self.params, self.stats)
            rise = self.losses.curvature(named_leaves(decode(compressed)), most=2 * _MEASURED)
            costs.append(rise * 4.0 ** (code_bits(compressed) / self.n_parameters))
        ratio = costs[0] / costs[1] if costs[1] else math.inf  # no rise at all where the budget is ample
        self.log(f"measured shares cost {ratio:.3f} times what equal ones do")
        return chosen if costs[0] < costs[1] else equal

    def result(self, budget: Budget, table: Table, shares: Mapping[str, float]) -> Compression:
        """The coarsest multiple of the settings that the budget allows, or for bytes the finest."""
        most = budget.bytes_of(self.n_parameters)

        def keeps(octaves: float) -> bool:
            compressed = allocated(self.groups, shares, 2.0**octaves)(self.params, self.stats)
            if most is not None:
                return self._content(compressed).total <= most
            return _safe(self.losses.rise(compressed)) <= budget.limit

        # Coarser settings take fewer bytes and cost more loss: the edge is approached from the side that keeps.
        good, bad = (_WIDEST, -_WIDEST) if most is not None else (-_WIDEST, _WIDEST)
        scale = 2.0 ** _edge(keeps, good=good, bad=bad, steps=_SEARCH_STEPS, budget=budget)
        compressed = allocated(self.groups, shares, scale)(self.params, self.stats)
        return Compression(
            params=jax.tree.map(jnp.asarray, compressed),
            stats=self.stats,
            size=self._content(compressed),
            n_parameters=self.n_parameters,
            budget=budget,
            rise=self.losses.rise(compressed),
            table=table,
            settings={name: rise * scale for name, rise in shares.items()},
            groups=self.groups,
        )

    def _content(self, compressed: PyTree) -> FileSize:
        return to_bytes(compressed, self.metadata)[1]


def allocated(groups: Mapping[str, Sequence[str]], settings: Mapping[str, float], multiple: float = 1.0) -> Transform:
    """`balanced` with a setting for each group of arrays."""
    return by_path(
        {
            "^(" + "|".join(map(re.escape, groups[name])) + ")$": balanced(rise * multiple)
            for name, rise in settings.items()
        }
    )


def code_bits(compressed: PyTree) -> float:
    """Entropy of the codes of a tree's quantized arrays, given their classes, each array by itself."""
    total = 0.0
    for leaf in named_leaves(compressed).values():
        if isinstance(leaf, Quantized):
            levels = np.asarray(leaf.integers(), np.float64).reshape(as_matrix_shape(leaf.shape)) - leaf.offset
            total += coding.entropy_bits(levels, coding.classify(levels).of_elements(levels.shape))
    return total


def _safe(rise: Estimate) -> float:
    """An upper bound for the interval of a second sample, which may lie as far off as this one."""
    assert rise.ci95 is not None
    return rise.estimate + (rise.ci95[1] - rise.ci95[0])


def _edge(keeps: Callable[[float], bool], *, good: float, bad: float, steps: int, budget: Budget) -> float:
    """The point nearest to `bad` that keeps, by halving the way from `good`.

    Raises:
      ValueError: `good` itself does not keep.
    """
    if not keeps(good):
        raise ValueError(
            f"budget {budget.text!r} cannot be kept by any setting that was tried; allow more, or "
            "calibrate with more examples, so that the rise is known better"
        )
    for _ in range(steps):
        middle = (good + bad) / 2
        if keeps(middle):
            good = middle
        else:
            bad = middle
    return good
