"""Allocation of bits to arrays by measurement.

Every (array, setting) is tried alone and its rise of the loss measured; the settings on the lower convex hull of
(bits, rise) are those that some exchange rate between bits and loss asks for, and one rate for all arrays is the best
allocation if rises add up (Shoham and Gersho, IEEE Trans. ASSP 36, 1988). That they do is for the caller to measure.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of one array or group of arrays.

    Attributes:
      setting: what was tried; larger is coarser.
      bits: that the group's codes take.
      rise: of the mean loss, measured with this group alone compressed.
    """

    setting: float
    bits: float
    rise: float


Table = Mapping[str, Sequence[Trial]]


def hull(trials: Sequence[Trial]) -> list[Trial]:
    """The trials on the lower convex hull of (bits, rise), from the fewest bits to the most.

    Raises:
      ValueError: no trials.
    """
    if not trials:
        raise ValueError("no trials: there is nothing to choose from")
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.bits, t.rise)):
        if found and trial.rise >= found[-1].rise:
            continue  # more bits for no less loss
        while len(found) > 1 and _slope(found[-2], trial) <= _slope(found[-2], found[-1]):
            found.pop()
        found.append(trial)
    return found


def _slope(a: Trial, b: Trial) -> float:
    return (b.rise - a.rise) / max(b.bits - a.bits, np.finfo(float).tiny)


def allocate(table: Table, bits: float) -> dict[str, Trial]:
    """The trial of each group that together take at most `bits`, with the least sum of rises on the hulls.

    Raises:
      ValueError: even the coarsest settings take more.
    """
    hulls = {name: hull(trials) for name, trials in table.items()}
    chosen = dict.fromkeys(hulls, 0)
    left = bits - sum(h[0].bits for h in hulls.values())
    if left < 0:
        raise ValueError(
            f"a budget of {bits / 8:,.0f} bytes for codes is less than the {(bits - left) / 8:,.0f} of the coarsest "
            "settings; allow more bytes or try coarser settings"
        )
    # Steps along all hulls, the best exchange of bits for loss first: on a hull each is worse than the one before.
    steps = [(_slope(h[i], h[i + 1]), name, i) for name, h in hulls.items() for i in range(len(h) - 1)]
    for _, name, i in sorted(steps):
        cost = hulls[name][i + 1].bits - hulls[name][i].bits
        if chosen[name] == i and cost <= left:
            chosen[name], left = i + 1, left - cost
    return {name: hulls[name][i] for name, i in chosen.items()}


def uniform(table: Table, bits: float, sizes: Mapping[str, int]) -> dict[str, Trial]:
    """The trial of each group that comes nearest to an equal share of `bits` for each parameter."""
    share = bits / sum(sizes[name] for name in table)
    return {
        name: min(trials, key=lambda trial: abs(trial.bits / sizes[name] - share)) for name, trials in table.items()
    }
