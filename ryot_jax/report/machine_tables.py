"""The tables of a report on programs and machine: compilation, memory, roofline, what was on, what it ran with."""

from collections.abc import Mapping
from typing import Any

from ryot_jax.report.parts import Table
from ryot_jax.report.words import NOTHING, Results, duration, number, ordered_arms, percent, scaled, traffic_bytes


def compilation(results: Results) -> Table:
    """Seconds of compilation by part, anew and from the cache, beside the step that they buy."""
    arms = ordered_arms(results)
    parts = list(dict.fromkeys(part for arm in arms.values() for part in arm["compile_parts"]))
    header = ("", *(f"{part} (s)" for part in parts), "in all (s)", "from the cache (s)", "step, median (ms)")
    rows = tuple(
        (
            name,
            *(duration(arm["compile_parts"].get(part)) for part in parts),
            duration(arm["compile_seconds"]),
            duration(arm["compile_warm_seconds"]),
            duration(arm["step_ms_median"]),
        )
        for name, arm in arms.items()
    )
    return Table("Compilation of the training step, and its steady state", header, rows, numeric=True)


def memory(results: Results) -> Table:
    """Memory of each arm's step, and of the whole process."""
    rows = [
        (f"{name}: arguments and temporaries of the compiled step", _mebibytes(arm["memory_bytes"]))
        for name, arm in ordered_arms(results).items()
    ]
    rows.append(("the whole process at its peak, set-up included", _mebibytes(_peak(results))))
    return Table("Memory", ("", "MiB"), tuple(rows), numeric=True)


def _peak(results: Results) -> int | None:
    return results["manifest"].get("peak_memory_bytes")


def _mebibytes(value: int | None) -> str:
    return scaled(value, 2**20)


def peaks(results: Results) -> Table | None:
    """What the machine can do, as measured; None where it was not."""
    if results["roofline"] is None:
        return None
    found = results["roofline"]["peaks"]
    sources = found.get("sources") or {}
    rows = [
        (f"matrix product, {dtype}", f"{scaled(rate, 1e9)} GFLOP/s", sources.get(dtype, ""))
        for dtype, rate in found["matmul_flops"].items()
    ]
    rows.append(("memory traffic", f"{scaled(found['copy_bytes'], 1e9)} GB/s", sources.get("memory", "")))
    return Table("Peaks of this machine, as measured", ("", "rate", "by"), tuple(rows), numeric=True)


def roofline(results: Results) -> Table | None:
    """Where each arm stands under its roof; None where it was not measured."""
    if results["roofline"] is None:
        return None
    header = (
        *("", "dtype", "GFLOP a step", "MB a step", "beyond caches (MB)", "FLOP/byte"),
        *("step (ms)", "GFLOP/s", "roof (GFLOP/s)", "of the roof", "bound by"),
    )
    known = results["roofline"]["arms"]
    rows = tuple((name, *_under_roof(known[name])) for name in ordered_arms(results) if name in known)
    return Table("Arms under their roofs", header, rows, numeric=True)


def _under_roof(arm: Mapping[str, Any]) -> tuple[str, ...]:
    traffic = traffic_bytes(arm)
    intensity = arm["flops"] / traffic if arm["flops"] is not None and traffic else None
    return (
        arm["dtype"],
        scaled(arm["flops"], 1e9),
        scaled(arm["bytes"], 1e6),
        scaled(traffic, 1e6),
        number(intensity, ",.1f"),
        duration(arm["seconds"], 1e-3),
        scaled(arm["flops_per_second"], 1e9),
        scaled(arm["roof"], 1e9),
        percent(arm["share"], ".0f") + (" (above: a bug)" if arm["above_roof"] else ""),
        arm.get("bound", ""),
    )


def config_differences(results: Results) -> Table | None:
    """Config fields in which the arms differ; None where none does."""
    rows = tuple((d["field"], d["baseline"], d["optimized"]) for d in results["config_differences"])
    return Table("Config fields that differ", ("field", "baseline", "optimized"), rows) if rows else None


def optimizations(results: Results) -> Table | None:
    """Each optimization, what it promises, and the proof that it is on; None where the results name none."""
    rows = tuple(
        (
            o["name"],
            o["implementation"],
            "on" if o["active"] else "off",
            o["equivalence"],
            o["evidence"] or o.get("reason", ""),
        )
        for o in results["optimizations"]
    )
    header = ("optimization", "implementation", "state", "promises", "evidence from the compiled program")
    return Table("Optimizations", header, rows) if rows else None


def artifacts(results: Results) -> Table | None:
    """What the run left, by path within the run directory; None where the results name nothing."""
    rows = tuple((name, str(path)) for name, path in results["artifacts"].items())
    return Table("Files within the run directory", ("artifact", "path"), rows) if rows else None


def facts(results: Results) -> Table:
    """Data, hashes and manifest, one field a row."""
    rows = [(f"data: {key}", value) for key, value in _flat(results["data"])]
    rows += [
        ("initial weights sha256", results["initial_params_hash"]),
        ("batches sha256", results["batches_hash"] or NOTHING),
        *_flat(results["manifest"]),
    ]
    return Table("Data, machine and versions", ("field", "value"), tuple(rows))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
