"""One pure training step and its surroundings: state, optimizer, compiling, evaluation, checkpoints, loop.

The model is known here only as a loss function of pytrees; what to compare, and how, is left to `comparison`.
"""
