"""The state of training before its first step."""

import chex
import jax
import numpy as np

from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.training.state import init_state, new_state

SMALL = ModelConfig(vocab_size=11, d_model=8, n_layers=1, n_heads=2, d_ff=16, max_len=4)


def test_the_seed_decides_everything(tiny):
    optimizer = tiny.optimizer()
    states = [init_state(SMALL, optimizer, seed)[1] for seed in (3, 3, 4)]
    as_data = [jax.tree.map(np.asarray, (s.params, jax.random.key_data(s.key))) for s in states]
    chex.assert_trees_all_equal(as_data[0], as_data[1])
    assert not np.array_equal(as_data[0][0]["embedding"], as_data[2][0]["embedding"])
    assert not np.array_equal(as_data[0][1], as_data[2][1])
    chex.assert_trees_all_equal(states[0].params, functional.init(SMALL, 3)[1])


def test_no_two_leaves_share_a_buffer_nor_any_with_the_callers_so_that_the_state_can_be_donated(tiny):
    params = tiny.init_params()
    state = new_state(params, tiny.optimizer(optimizer="schedule_free", schedule="constant"), 0)
    leaves = jax.tree.leaves((params, state.params, state.opt_state))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
