"""Plots show the numbers of the results, for one arm and two, with gaps where numbers are missing."""

import chex
import numpy as np

from ryot_jax.report import plots


def test_convergence_shows_every_evaluation_of_both_arms_and_both_entropies(results):
    axis = plots.convergence(results).axes[0]
    curves = {line.get_label(): line for line in axis.get_lines()}
    for name, arm in results["arms"].items():
        losses = [arm["initial_heldout_loss"], *(e["heldout_loss"] for e in arm["epochs"])]
        chex.assert_trees_all_close(curves[name].get_ydata(), np.array(losses))
        chex.assert_trees_all_close(curves[name].get_xdata(), np.arange(0, 801, 100))
    assert {text.get_text() for text in axis.texts} == {"unigram\nentropy\n6.32", "bigram\nentropy\n3.99"}


def test_step_time_shows_every_block_pair_and_the_interval(results):
    times, ratios = plots.step_time(results).axes
    blocks = results["comparison"]["step_time_speedup"]["blocks"]
    assert [line.get_label() for line in times.get_lines()] == ["baseline", "optimized"]
    milliseconds = np.array([20.0 * b["seconds"]["optimized"] for b in blocks])
    chex.assert_trees_all_close(times.get_lines()[1].get_ydata(), milliseconds)
    chex.assert_trees_all_close(ratios.get_lines()[0].get_ydata(), np.array([b["ratio"] for b in blocks]))
    assert len(ratios.patches) == 1


def test_missing_numbers_are_gaps_and_one_arm_has_no_step_time_plot(results, tmp_path):
    results["arms"]["optimized"]["epochs"][3]["heldout_loss"] = None
    line = plots.convergence(results).axes[0].get_lines()[1]
    assert len(line.get_xdata()) == 8
    results["comparison"] = None
    assert plots.write(tmp_path, results) == {"convergence": "convergence.png"}


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        plots.write(tmp_path / name, results)
        drawn.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert drawn[0] == drawn[1]


def test_a_dollar_in_a_name_is_not_mathematics(results, tmp_path):
    results["name"] = r"$\frac{$"
    assert "convergence" in plots.write(tmp_path, results)
