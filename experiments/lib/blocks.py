"""Interleaved programs as blocks, and the lengths of these; `ryot_jax.comparison.interleaving` interleaves them."""

from typing import Protocol

import numpy as np

from ryot_jax.comparison.interleaving import Block


class _Timed(Protocol):
    @property
    def seconds(self) -> float: ...


class _Program(Protocol):
    def run_block(self, n_steps: int, /) -> _Timed: ...


def block_of(program: _Program) -> Block:
    """The seconds of a program's steps, as a block."""
    return lambda n_steps: program.run_block(n_steps).seconds


def steps_within(block: Block, seconds: float, most: int = 1000) -> int:
    """The number of steps that fit into `seconds`, at least 1; runs 3 of them, the first to warm up."""
    block(1)
    per_step = block(2) / 2
    return int(np.clip(round(seconds / per_step), 1, most))
