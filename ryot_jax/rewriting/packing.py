"""Attention that reads queries, keys and values from one array, where they are parts of one and an op can do so."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

from ryot_jax.kernels import reads_packed
from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.patterns._attention_op import AttentionAbout, call_packed
from ryot_jax.rewriting.sites import Operand, Site, whole
from ryot_jax.rewriting.steps import Cut, Step

_RESHAPES = {"reshape", "squeeze", "expand_dims"}


def packed(steps: Sequence[Step], choice: Callable[[Site], str]) -> list[Step]:
    """Steps in which attention reads packed arrays where there are any.

    Args:
      steps: the steps of a graph.
      choice: the implementation of a site.
    """
    cuts = {step.value: step for step in steps if isinstance(step, Cut)}
    return [_packed(step, cuts, choice) if isinstance(step, Site) else step for step in steps]


@dataclasses.dataclass(frozen=True)
class _Window:
    """A part of the flattened last axes of a value: where it begins, and how many elements it has."""

    value: Value
    start: int
    size: int


def _packed(site: Site, cuts: Mapping[Value, Cut], choice: Callable[[Site], str]) -> Site:
    about = site.about
    if not isinstance(about, AttentionAbout) or about.factor is not None or not reads_packed(choice(site)):
        return site
    layout = about.layout
    q, k, v = site.operands[:3]
    if layout.group is not None or layout.head is None or layout.query not in q.labels:
        return site
    heads, T, K = q.shape[layout.head], q.shape[-2], q.shape[-1]
    lead = q.labels.index(layout.query) + 1  # axes of rows
    order = [
        *(axis for axis in range(layout.n_batch) if axis != layout.head),
        layout.query,
        layout.head,
        layout.query + 1,
    ]
    if k.shape != q.shape or any(
        [label for label in operand.labels if label is not None] != order
        or operand.value.shape[:lead] != q.value.shape[:lead]
        for operand in (q, k, v)
    ):
        return site
    windows = [_window(operand, lead, cuts) for operand in (q, k, v)]
    source, size = windows[0].value, heads * K
    if any(w.value is not source or w.size != size or w.start != i * size for i, w in enumerate(windows)):
        return site
    batch = tuple(size for axis, size in enumerate(q.shape[: layout.n_batch]) if axis != layout.head)
    if math.prod(source.shape) != math.prod(batch) * T * 3 * size:
        return site
    return dataclasses.replace(
        site,
        operands=(whole(source), *site.operands[3:]),
        names=("qkv", *site.names[3:]),
        call=functools.partial(call_packed, about, batch, (T, heads, heads, K)),
        about=None,
        made_of=(site,),
    )


def _window(operand: Operand, lead: int, cuts: Mapping[Value, Cut]) -> _Window:
    """The part that an operand is of the value that it is cut from; its first `lead` axes are those of rows."""
    value = operand.value
    rows, start, size = math.prod(value.shape[:lead]), 0, math.prod(value.shape[lead:])
    while True:
        if (cut := cuts.get(value)) is not None:
            if math.prod(cut.source.shape[:-1]) == rows:
                value, start = cut.source, start + cut.start
            return _Window(value, start, size)
        offset = _offset(value, lead)
        if offset is None or value.node is None:
            return _Window(value, start, size)
        value, start = value.node.inputs[0], start + offset


def _offset(value: Value, lead: int) -> int | None:
    """Where a value begins in the flattened last axes of what its node reads; None: it is no part of it."""
    node = value.node
    if node is None or node.inputs[0].shape[:lead] != value.shape[:lead] or node.inputs[0].dtype != value.dtype:
        return None
    whole, params = node.inputs[0].shape, node.params
    if node.primitive in _RESHAPES:
        return 0
    if node.primitive == "split":
        axis, start = int(params["axis"]), sum(params["sizes"][: value.index])
    elif node.primitive == "slice" and set(params["strides"] or (1,)) == {1}:
        axes = [axis for axis, size in enumerate(whole) if size != value.shape[axis]]
        if len(axes) != 1:
            return None
        axis = axes[0]
        start = int(params["start_indices"][axis])
    else:
        return None
    is_contiguous = axis >= lead and math.prod(whole[lead:axis]) == 1
    return start * math.prod(whole[axis + 1 :]) if is_contiguous else None
