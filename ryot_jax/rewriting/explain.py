"""The table of places of a function, for people: equal ones are one row."""

import collections
import dataclasses
from collections.abc import Iterable

from ryot_jax.rewriting.choose import Chooser
from ryot_jax.rewriting.cost import shares, with_bodies
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.plan import Plan


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The places that `optimize` found in a function; `str` gives them as text.

    Attributes:
      name: the function's name.
      taken: rows of the places that ops compute: how often, what, with which implementation, shape and line.
      left: rows of those that are left alone: how often, what, shape, line and the reason.
      share: of the FLOPs of all products of matrices, the part that ops take.
      bytes_share: of the bytes that all other equations read and write, the part that ops take.
      is_gradient: whether the function holds gradients.
    """

    name: str
    taken: tuple[tuple[int, str, str, str, str], ...]
    left: tuple[tuple[int, str, str, str, str], ...]
    share: float
    bytes_share: float
    is_gradient: bool

    @classmethod
    def of(cls, name: str, plan: Plan, chooser: Chooser) -> "Explanation":
        """The explanation of a plan."""
        taken, left = collections.Counter[_Row](), collections.Counter[_Row]()
        for inner, times in with_bodies(plan):
            for site in inner.sites:
                choice = chooser.choice(site).implementation
                taken[site.words, choice, _shape(site.root), site.root.source] += times
            for one in inner.refused:
                left[one.op, _shape(one.root), one.root.source, one.reason] += times
            left.update({("product", *rest): times * count for rest, count in _products(inner).items()})
        return cls(name, _rows(taken), _rows(left), *shares(plan), _holds_gradients(plan))

    def __str__(self) -> str:
        """The table."""
        count = sum(row[0] for row in self.taken)
        lines = [
            f"{self.name}: {count} places, with {self.share:.1%} of the FLOPs of its products and "
            f"{self.bytes_share:.1%} of the bytes of what is between them"
        ]
        lines += _table(self.taken)
        if self.left:
            lines += ["left alone:", *_table(self.left)]
        if self.is_gradient:
            lines.append(
                "The function holds gradients, whose equations are not looked at: give optimize the function before "
                "differentiation, and differentiate what it returns: jax.grad(optimize(loss))."
            )
        return "\n".join(lines)


_Row = tuple[str, str, str, str]


def _rows(counter: collections.Counter[_Row]) -> tuple[tuple[int, str, str, str, str], ...]:
    return tuple((count, *row) for row, count in counter.items())


def _table(rows: Iterable[tuple[int, str, str, str, str]]) -> list[str]:
    cells = [(f"{count} x", *texts) for count, *texts in rows]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    lines = []
    for row in cells:
        fixed = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False))
        lines.append(f"  {fixed}  {row[-1]}".rstrip())
    return lines


def _shape(value: Value) -> str:
    short = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}
    return f"{short.get(value.dtype, value.dtype)}[{','.join(map(str, value.shape))}]"


def _products(plan: Plan) -> collections.Counter[tuple[str, str, str]]:
    """Products of matrices that no op takes and that nothing else is said of."""
    told = {one.root.node for one in plan.refused}
    rows = collections.Counter[tuple[str, str, str]]()
    for node in plan.nodes:
        value = node.outputs[0]
        if node.primitive in ("dot_general", "conv_general_dilated") and node not in told:
            rows[_shape(value), value.source, _reason(node)] += 1
    return rows


def _reason(node: Node) -> str:
    if node.outputs[0].dtype not in ("float32", "bfloat16", "float16"):
        return f"it computes in {node.outputs[0].dtype}"
    if node.primitive == "conv_general_dilated":
        return "a convolution: there is no op for it"
    return "a product of neither a layer nor attention: there is no op for it"


def _holds_gradients(plan: Plan) -> bool:
    return any("transpose(" in str(node.eqn.source_info.name_stack) for node in plan.graph.nodes)
