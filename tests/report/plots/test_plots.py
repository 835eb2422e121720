"""Plots show the numbers of the results, for one arm and two, with gaps where numbers are missing."""

import re
import xml.etree.ElementTree as ET

import chex
import numpy as np
import pytest

from ryot_jax.comparison.schema import NOT_MEASURED, Measured
from ryot_jax.report import plots
from ryot_jax.report.plots import attribution, compilation, compression, controls, loss, roofline, style, timing

SVG = "{http://www.w3.org/2000/svg}"


def _lines(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_convergence_shows_every_evaluation_of_both_arms_both_entropies_and_the_target(results):
    lines = _lines(loss.convergence(results).axes[0])
    for name, arm in results.arms.items():
        losses = [arm.initial_heldout_loss, *(e.heldout_loss for e in arm.epochs)]
        chex.assert_trees_all_close(lines[name].get_ydata(), np.array(losses))
        chex.assert_trees_all_close(lines[name].get_xdata(), np.arange(0, 801, 100))
    assert lines["unigram entropy 6.29"].get_ydata()[0] == 6.294
    assert lines["bigram entropy 3.85"].get_ydata()[0] == 3.847
    assert lines["target 3.47"].get_ydata()[0] == 3.4729


def test_wall_clock_shows_the_same_losses_at_each_arms_own_seconds_and_where_it_reaches_the_target(results):
    axis = loss.wall_clock(results).axes[0]
    lines = _lines(axis)
    for name, arm in results.arms.items():
        seconds = np.cumsum([0.0, *(epoch.seconds for epoch in arm.epochs)])
        chex.assert_trees_all_close(lines[name].get_xdata(), seconds)
    crosses = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.get_lines() if line.get_marker() == "x"]
    assert crosses == [(128.8, 3.4729), (101.7, 3.4729)]


def test_step_time_shows_every_block_pair_and_the_interval(results):
    times, ratios = timing.step_time(results).axes
    blocks = results.comparison.step_time_speedup.blocks
    assert [line.get_label() for line in times.get_lines()] == ["baseline", "optimized"]
    milliseconds = np.array([20.0 * b.seconds["optimized"] for b in blocks])
    chex.assert_trees_all_close(times.get_lines()[1].get_ydata(), milliseconds)
    chex.assert_trees_all_close(ratios.get_lines()[0].get_ydata(), np.array([b.ratio for b in blocks]))
    assert len(ratios.patches) == 1


def test_the_distribution_rises_to_one_over_the_sorted_step_times(results):
    for axis, name in zip(timing.step_time_distribution(results).axes, ("baseline", "optimized"), strict=True):
        blocks = results.comparison.step_time_speedup.blocks
        curve = axis.get_lines()[0]
        chex.assert_trees_all_close(curve.get_xdata(), np.sort([20.0 * b.seconds[name] for b in blocks]))
        chex.assert_trees_all_close(curve.get_ydata(), np.arange(1, 17) / 16)


def test_the_paired_plot_shows_each_block_seed_and_process_and_the_noise_floor(situation):
    results = situation("many_seeds")
    pairs, levels = timing.paired_speedup(results).axes
    shown = np.concatenate([line.get_xdata() for label, line in _lines(pairs).items() if label.endswith("first")])
    ratios = [block.ratio for block in results.comparison.step_time_speedup.blocks]
    chex.assert_trees_all_close(np.sort(shown), np.sort(ratios))
    labels = [tick.get_text() for tick in levels.get_yticklabels()]
    assert labels == [*(f"seed {i}" for i in range(8)), "process 1", "process 2", "process 3", "all"]
    assert _lines(levels)["mean"].get_xdata() == [1.251]
    (floor,) = pairs.patches
    assert floor.get_x() == pytest.approx(1 / 1.012) and floor.get_x() + floor.get_width() == pytest.approx(1.012)


def test_the_order_of_arms_in_a_block_is_seen_by_its_marker(results):
    pairs = timing.paired_speedup(results).axes[0]
    blocks = results.comparison.step_time_speedup.blocks
    first = [b.index + 1 for b in blocks if b.order[0] == "baseline"]
    assert 0 < len(first) < 16, "the fixture has both orders"
    assert list(_lines(pairs)["baseline first"].get_ydata()) == first


def test_the_loss_plot_shows_every_seed_the_interval_and_both_margins(situation):
    axis = loss.paired_loss(situation("many_seeds")).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [*(f"seed {i}" for i in range(8)), "all"]
    assert list(_lines(axis)["95 % interval"].get_xdata()) == [-0.004, 0.010]
    assert sorted(line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == "margin") == [-0.1, 0.1]
    (tight,) = axis.patches
    assert (tight.get_x(), tight.get_width()) == pytest.approx((-0.02, 0.04))


def test_controls_show_the_true_ratio_beside_the_measured_one(results):
    axis = controls.controls(results).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["placebo", "known delay"]
    truths = [line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == "true"]
    measured = [line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == "measured"]
    assert truths == [1.0, 1.06]
    assert measured == [control.estimate for control in results.controls.items[:2]]


def test_compilation_bars_are_as_long_as_their_seconds(results):
    axis = compilation.compilation(results).axes[0]
    widths = [bar.get_width() for container in axis.containers for bar in container]
    assert widths == pytest.approx([0.9, 0.4, 6.3, 1.06, 0.9, 0.4, 12.5, 1.68])


def test_the_waterfall_goes_from_the_baseline_to_all_on_by_the_shapley_factors(situation):
    results = situation("ablated")
    axis = attribution.attribution(results).axes[0]
    bars = [container[0] for container in axis.containers]
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    chex.assert_trees_all_close(np.array(ends[1:4]), 161.0 / np.cumprod([1.165, 1.101, 0.9753]))
    assert (ends[0], ends[4]) == pytest.approx((161.0, 128.7), rel=1e-3)
    saves = [bar.get_width() < 0 for bar in bars[1:4]]
    assert saves == [True, True, False]


def test_without_shapley_values_the_waterfall_ends_at_all_on_by_the_interaction(situation, edit):
    results = situation("ablated")
    for i in range(3):
        results = edit(results, f"attribution.players.{i}", shapley=None)
    axis = attribution.attribution(results).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()][-2:] == ["interaction", "all on"]
    end = axis.containers[-1][0].get_width()
    assert end == pytest.approx(161.0 / (1.18 * 1.11 * 0.98 * 0.974))


def test_roofline_points_lie_where_the_results_put_them_and_the_roof_has_its_ridge(results):
    lines = _lines(roofline.roofline(results).axes[0])
    point = lines["baseline (62 %)"]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((26e9 / 1.1e9, 161.0))
    roof = lines["roof, float32"]
    x_n, y_n = roof.get_xdata(), roof.get_ydata()
    chex.assert_trees_all_close(y_n, np.minimum(260.0, 21.0 * x_n))
    assert y_n[0] < 260.0 == y_n[-1]


def _methods(axis):
    """What each method's points, and the file that was chosen, are at, by name."""
    drawn = {}
    for container in axis.containers:
        line, _, (bars,) = container.lines
        drawn[container.get_label()] = (line, np.array(bars.get_segments())[:, :, 1])
    return drawn


def test_the_trade_off_shows_each_file_in_per_cent_with_its_interval_and_a_look_of_its_methods_own(situation, edit):
    results = situation("compressed")
    # In any order: the line goes from few bytes to many.
    results = edit(results, "compression", pareto=results.compression.pareto[::-1])
    axis = compression.trade_off(results).axes[0]
    drawn = _methods(axis)
    assert list(drawn) == ["lossless", "rounding to nearest", "GPTQ, equal bits", "ours", "the chosen file"]
    for method in ("lossless", "rounding to nearest", "GPTQ, equal bits", "ours"):
        points = [p for p in results.compression.pareto if p.method == method][::-1]
        line, ends = drawn[method]
        assert list(line.get_xdata()) == [p.bytes for p in points]
        chex.assert_trees_all_close(
            line.get_ydata(orig=False), np.array([100 * p.perplexity_change.estimate for p in points])
        )
        chex.assert_trees_all_close(ends, np.array([[100 * e for e in p.perplexity_change.ci95] for p in points]))
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert (
            len({getattr(drawn[method][0], look)() for method in ("rounding to nearest", "GPTQ, equal bits", "ours")})
            == 3
        )
    assert drawn["lossless"][0].get_linestyle() == "None", "one point has no line"
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "symlog")
    assert axis.get_ylim()[0] < 0, "what costs nothing is within the axis"


def test_the_chosen_file_is_marked_and_labelled(situation):
    axis = compression.trade_off(situation("compressed")).axes[0]
    line, ends = _methods(axis)["the chosen file"]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (349_757, pytest.approx(0.97))
    assert ends[0] == pytest.approx([0.92, 1.03])
    (label,) = axis.texts
    assert label.get_text() == "best.ryot\n349,757 bytes\n+0.97 %"
    assert label.xy == (349_757, pytest.approx(0.97))


@pytest.mark.parametrize(
    ("place", "corner"),
    [((545_000, 0.5), (0.03, 0.05)), ((349_757, -0.02), (0.97, 0.95)), ((300_000, 0.0), (0.97, 0.95))],
)
def test_the_label_is_in_a_corner_without_lines(situation, edit, place, corner):
    change = Measured(estimate=place[1] / 100, ci95=None)
    results = edit(situation("compressed"), "compression", bytes=place[0], perplexity_change=change)
    figure = compression.trade_off(results)
    figure.canvas.draw()
    (axis,), (label,) = figure.axes, figure.axes[0].texts
    assert label.get_position() == corner
    box = label.get_bbox_patch().get_window_extent()
    for line, _ in _methods(axis).values():
        path = line.get_path().transformed(line.get_transform())
        assert not path.intersects_bbox(box, filled=False)
        assert not any(box.contains(*place) for place in path.vertices)


def test_what_of_the_trade_off_was_not_measured_is_not_drawn(situation, edit):
    results = situation("compressed")
    results = edit(results, "compression.pareto.0", perplexity_change=NOT_MEASURED)
    results = edit(results, "compression.pareto.1.perplexity_change", ci95=None)
    results = edit(results, "compression", perplexity_change=NOT_MEASURED)
    axis = compression.trade_off(results).axes[0]
    assert len(_methods(axis)["ours"][0].get_xdata()) == 4
    assert "the chosen file" not in _methods(axis) and not axis.texts
    assert "chosen" not in compression.describe_trade_off(results)
    for i in range(len(results.compression.pareto)):
        results = edit(results, f"compression.pareto.{i}", perplexity_change=NOT_MEASURED)
    assert compression.trade_off(results) is None


def test_the_trade_off_in_words(situation):
    said = compression.describe_trade_off(situation("compressed"))
    assert said.startswith(
        "Rise of perplexity over the bytes of the file: ours from 277,000 bytes at +1.88 % to 813,000"
    )
    assert said.endswith(
        "; lossless 3,800,000 bytes at +0.00 %; the chosen file, marked by a star, 349,757 bytes at +0.97 %."
    )


def test_missing_numbers_are_gaps(results, edit):
    results = edit(results, "arms.optimized.epochs.3", heldout_loss=None)
    results = edit(results, "comparison.step_time_speedup.blocks.2", ratio=None)
    assert len(_lines(loss.convergence(results).axes[0])["optimized"].get_xdata()) == 8
    assert len(timing.step_time(results).axes[1].get_lines()[0].get_xdata()) == 15
    timing.paired_speedup(results)


def test_a_clock_that_stood_still_is_drawn_without_a_complaint(results, edit, tmp_path):
    stood = {"seconds": {"baseline": 0.0, "optimized": 0.0}, "ratio": None}
    for i in range(len(results.comparison.step_time_speedup.blocks)):
        results = edit(results, f"comparison.step_time_speedup.blocks.{i}", **stood)
    assert plots.draw(results)["step_time"].save(tmp_path) == "step_time.png"


@pytest.mark.parametrize(
    ("situation_name", "drawn"),
    [
        ("single_arm", {"convergence", "wall_clock", "compilation"}),
        ("nothing_measured", set()),
        ("passed", set(plots.PLOTS) - {"attribution", "compression"}),
        ("ablated", set(plots.PLOTS) - {"compression"}),
        ("compressed", set(plots.PLOTS) - {"attribution"}),
        ("compressed_alone", {"convergence", "wall_clock", "compilation"}),
    ],
)
def test_what_there_are_no_numbers_for_is_not_drawn(situation, situation_name, drawn, tmp_path):
    results = situation(situation_name)
    found = plots.draw(results)
    assert set(found) == drawn
    assert {plot.save(tmp_path) for plot in found.values()} == {path.name for path in tmp_path.iterdir()}


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = plots.draw(results).values()
        drawn.append([plot.svg() for plot in found])
        drawn[-1] += [(tmp_path / name / plot.save(tmp_path / name)).read_bytes() for plot in found]
    assert drawn[0] == drawn[1]


def test_a_picture_is_laid_out_alike_whether_it_is_the_first_or_the_second_of_its_figure(results, tmp_path):
    first, second = (plots.draw(results)["convergence"] for _ in range(2))
    alone = first.svg()
    second.save(tmp_path)
    again = second.svg()
    frames = [[float(x) for x in re.findall(r"-?[0-9]+[.][0-9]+", text)[:40]] for text in (alone, again)]
    assert np.allclose(*frames, atol=4)  # points: text is hinted for the resolution at which it was laid out


def test_an_svg_says_what_it_shows_and_brings_neither_style_nor_date_nor_ids_of_others(results):
    found = plots.draw(results)
    drawn = {name: found[name].svg() for name in ("convergence", "step_time")}
    for name, text in drawn.items():
        root = ET.fromstring(text)
        assert root.get("aria-labelledby") == f"plot-{name}-title plot-{name}-desc"
        assert root.find(f"{SVG}title").text == plots.PLOTS[name].title
        assert root.find(f"{SVG}desc").text == plots.PLOTS[name].describe(results)
        assert root.get("viewBox") and root.get("width") is None
        assert not root.findall(f".//{SVG}style") and not root.findall(f".//{SVG}metadata")
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        assert all(id.startswith(f"plot-{name}-") for id in ids)
        references = re.findall(r'(?:url\(#|href="#)([^)"]+)', text)
        assert references and set(references) <= ids


@pytest.mark.parametrize(
    "text", [r"$\frac{$", "<script>alert(1)</script> & -->", "\u65e5\u672c \U0001f600 \x1b[2J\n \ud800"]
)
def test_any_name_is_drawn_as_text(situation, renamed, edit, text, tmp_path):
    results = situation("compressed")
    results = renamed(results, {"optimized": text})
    results = edit(results, "controls.items.0", name=text)
    results = edit(edit(results, "compression", file=text), "compression.pareto.0", method=text)
    found = plots.draw(results)
    assert {"convergence", "compression"} <= set(found)
    for plot in found.values():
        assert not [e for e in ET.fromstring(plot.svg()).iter() if "script" in e.tag]
        plot.save(tmp_path)


def test_names_are_shortened_and_lose_what_the_font_lacks():
    assert style.plain("a" * 40) == "a" * 25 + "..."
    assert style.plain("\u65e5 \u00e9 \x1b\n$x$") == r"? " + "\u00e9 ? " + r"\$x\$"


def test_arms_differ_in_colour_marker_and_dash():
    first, second = style.arm_style(0, 10), style.arm_style(1, 10)
    assert all(first[key] != second[key] for key in ("color", "marker", "linestyle"))
    assert style.arm_style(0, 1200)["markevery"] == 10
