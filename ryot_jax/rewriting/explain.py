"""The table of places of a function, for people: equal ones are one row."""

import collections
import dataclasses
import math
from collections.abc import Iterable

from ryot_jax.rewriting.choose import Chooser
from ryot_jax.rewriting.graph import Graph, Node, Value
from ryot_jax.rewriting.plan import Plan


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The places that `optimize` found in a function; `str` gives them as text.

    Attributes:
      name: the function's name.
      taken: rows of the places that ops compute: how often, what, with which implementation, shape and line.
      left: rows of those that are left alone: how often, what, shape, line and the reason.
      share: of the FLOPs of all products of matrices, the part that ops take.
      is_gradient: whether the function holds gradients.
    """

    name: str
    taken: tuple[tuple[int, str, str, str, str], ...]
    left: tuple[tuple[int, str, str, str, str], ...]
    share: float
    is_gradient: bool

    @classmethod
    def of(cls, name: str, plan: Plan, chooser: Chooser) -> "Explanation":
        """The explanation of a plan."""
        taken = [
            (site.words, chooser.choice(site).implementation, _shape(site.root), site.root.source)
            for site in plan.all_sites
        ]
        left = [(one.op, _shape(one.root), one.root.source, one.reason) for one in plan.all_refused]
        ours, whole = _flops(plan)
        left += [("product", *rest) for rest in _products(plan)]
        return cls(name, _counted(taken), _counted(left), ours / whole if whole else 0.0, _holds_gradients(plan))

    def __str__(self) -> str:
        """The table."""
        count = sum(row[0] for row in self.taken)
        lines = [f"{self.name}: {count} places, with {self.share:.1%} of the FLOPs of its products"]
        lines += _table(self.taken)
        if self.left:
            lines += ["left alone:", *_table(self.left)]
        if self.is_gradient:
            lines.append(
                "The function holds gradients, whose equations are not looked at: give optimize the function before "
                "differentiation, and differentiate what it returns: jax.grad(optimize(loss))."
            )
        return "\n".join(lines)


def _counted(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[int, str, str, str, str], ...]:
    return tuple((count, *row) for row, count in collections.Counter(rows).items())  # type: ignore[misc]


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


def _flops(plan: Plan) -> tuple[float, float]:
    """FLOPs of the products that ops take, and of all."""
    ours = sum(_of_node(node) for site in plan.sites.values() for node in site.covered())
    kept = {node for node in plan.needed if not any(value in plan.sites for value in node.outputs)}
    theirs = sum(_of_node(node) for node in kept)
    whole = ours + theirs
    for node, bodies in plan.bodies.items():
        times = node.params["length"] if node.primitive == "scan" else 1
        for body in bodies:
            within = _flops(body)
            ours, whole = ours + times * within[0], whole + times * within[1]
    for node in kept:
        if node not in plan.bodies:
            whole += sum(_all_flops(body) for body in node.bodies)
    return ours, whole


def _all_flops(graph: Graph) -> float:
    return sum(_of_node(node) for inner in graph.walk() for node in inner.nodes)


def _of_node(node: Node) -> float:
    if node.primitive != "dot_general":
        return 0.0
    contracted = node.params["dimension_numbers"][0][0]
    return 2.0 * math.prod(node.outputs[0].shape) * math.prod(node.inputs[0].shape[int(axis)] for axis in contracted)


def _products(plan: Plan) -> list[tuple[str, str, str]]:
    """Products of matrices that no op takes and that nothing else is said of."""
    told = {one.root.node for one in plan.refused}
    rows = []
    for node in plan.needed:
        value = node.outputs[0]
        if node.primitive in ("dot_general", "conv_general_dilated") and value not in plan.sites and node not in told:
            rows.append((_shape(value), value.source, _reason(node)))
    return rows + [row for bodies in plan.bodies.values() for body in bodies for row in _products(body)]


def _reason(node: Node) -> str:
    if node.outputs[0].dtype not in ("float32", "bfloat16", "float16"):
        return f"it computes in {node.outputs[0].dtype}"
    if node.primitive == "conv_general_dilated":
        return "a convolution: there is no op for it"
    return "a product of neither a layer nor attention: there is no op for it"


def _holds_gradients(plan: Plan) -> bool:
    return any("transpose(" in str(node.eqn.source_info.name_stack) for node in plan.graph.nodes)
