"""The content of reports, one file per topic: its sentence, tables, section, limits and advice."""
