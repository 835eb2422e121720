"""The fixtures of this folder: run directories as training leaves them."""

from tests.run_directories import make_run, trained

__all__ = ["make_run", "trained"]
