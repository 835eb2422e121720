"""Lays a report out: as HTML, as Markdown, for a terminal."""
