"""A warning about an arm above its roof reaches the reader of the results."""

from ryot_jax.machine import roofline
from ryot_jax.machine.peaks import Peaks
from ryot_jax.machine.roofline import StepWork, place
from ryot_jax.report.formats import terminal


def test_a_reader_of_the_terminal_sees_it(assemble, make_arms):
    found = place(
        {"optimized": StepWork("float32", 4 * 10**10, 0, 0, seconds=0.2)}, Peaks({"float32": 1e11}, 1e10, None, {})
    )
    results = assemble(make_arms(), warnings=roofline.warnings(found))
    shown = " ".join(terminal.render(results, fancy=False, width=100).split())
    assert "the optimized arm is above the roof, which no program can be" in shown
