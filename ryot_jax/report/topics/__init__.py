"""The content of reports, one module per topic: its sentence, tables, section, limits and advice."""
