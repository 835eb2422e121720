"""Reports on a finished run: a terminal summary, `report.html`, and `report.md` with its plots.

Reports are pure functions of the results (the record that `results.json` holds); they derive nothing but differences,
ratios and units from its numbers.
"""
