"""Probes shared by several implementations: proof from compiled programs that an optimization is on.

A probe compares the program of an arm with the baseline's; `runtime.hlo` parses programs. A probe of a single
implementation is in that implementation's module.
"""

from collections.abc import Callable

from ryot_jax.kernels.declaration import Evidence, Probe, Spec
from ryot_jax.runtime.hlo import Array, Program

FLOATS = frozenset({"f32", "bf16", "f16"})


def custom_call(*target_parts: str) -> Probe:
    """A probe that requires a custom call whose target contains one of `target_parts`, absent from the baseline."""

    def probe(program: Program, baseline: Program, spec: Spec) -> Evidence:
        del spec
        ours, theirs = (
            [target for target in which.custom_calls if any(part in target for part in target_parts)]
            for which in (program, baseline)
        )
        named = ", ".join(sorted(set(ours))) or " or ".join(target_parts)
        return Evidence(
            bool(ours) and not theirs, f"{len(ours)} custom calls to {named}, {len(theirs)} in the baseline"
        )

    return probe


def vanished(
    program: Program, baseline: Program, wanted: Callable[[Array], bool], shape: str, *, shared: bool
) -> Evidence:
    """Evidence from arrays that the baseline makes and the arm does not.

    Args:
      program: the arm's program.
      baseline: the baseline's program.
      wanted: whether an array is one of those looked for.
      shape: display text of their shape.
      shared: whether other arrays may look the same, so that fewer of them suffice instead of none.
    """
    ours, theirs = (sum(map(wanted, which.arrays)) for which in (program, baseline))
    text = f"{ours} arrays of {shape} are made, {theirs} in the baseline"
    return Evidence(ours < theirs if shared else theirs > 0 and ours == 0, text)


def rows_of_a_device(spec: Spec) -> int:
    """Rows processed by one device: the batch is split over the devices."""
    return spec.rows // max(1, spec.n_devices)
