"""Reports on a finished run: a terminal summary, `report.html`, and `report.md` with its plots.

Everything is drawn from the results dict alone (the content of `results.json`); nothing is computed anew but
differences of numbers that stand in it.
"""
