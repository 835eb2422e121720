"""One pure training step and its surroundings: state, optimizer, compiling, evaluation, checkpoints, loop.

It knows the model only as a loss function of pytrees; `comparison` compares trainings.
"""
