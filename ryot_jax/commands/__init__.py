"""What each command of the command line does; `main.py` parses and dispatches."""
