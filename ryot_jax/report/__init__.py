"""Reports on a finished run: a terminal summary, `report.html`, and `report.md` with its plots.

Reports are pure functions of the results (the record that `results.json` holds); they compute nothing but differences
and ratios of its numbers.
"""
