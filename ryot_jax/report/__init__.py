"""Reports on a finished run: a terminal summary, `report.html`, and `report.md` with its plots.

Everything is drawn from the results alone (the record that `results.json` holds); nothing is computed anew but
differences of numbers that stand in it.
"""
