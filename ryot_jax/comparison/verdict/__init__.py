"""The verdict of a run: each criterion declared once (`rules`), stated before the run and judged after it."""
