"""What reports say, a file a topic: its sentence, its tables, its section, what it does not show, what to do next."""
