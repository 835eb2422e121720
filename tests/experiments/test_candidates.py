"""Prompts are heads of functions, and budgets look at the same candidates."""

import numpy as np
import pytest

from experiments.candidates import Task, _share, heads
from ryot_jax.data.tokenizer import train_bpe
from ryot_jax.decoding import Sampling, growing_budget
from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun
from ryot_jax.runtime.errors import ConfigError

SOURCE = """
def first(x):
    return x
class C:
    async def second(self, y=1):
        def first(x):
            pass
    def not_in_one_line(self,
                        x):
        pass
# def commented():
"""


def test_heads_are_different_and_lose_their_indentation():
    assert heads(SOURCE, 2) == ["def first(x):\n", "async def second(self, y=1):\n"]
    with pytest.raises(ConfigError, match="has 2 different heads"):
        heads(SOURCE, 3)


@pytest.fixture(scope="module")
def task():
    """An untrained model: the check takes every third text or so."""
    tokenizer = train_bpe([SOURCE * 20], 280)
    cfg = ModelConfig(vocab_size=280, d_model=16, n_layers=1, n_heads=2, d_ff=16, max_len=32, compute_dtype="float32")
    graphdef, params = functional.init(cfg, 0)
    trained = CheckpointOfRun(None, None, cfg, graphdef, params, 0, tokenizer)  # type: ignore[arg-type]
    found = Task(trained, heads(SOURCE, 2) * 4, new_tokens=6)
    found.is_right = lambda prompt, ids: ids[0] % 3 == 0
    return found


def test_growing_answers_what_the_most_at_once_answer(task):
    right_Pn, tokens_Pn = task.every(4, Sampling(1.0))
    growing = task.answered(growing_budget(4), Sampling(1.0))
    assert right_Pn.shape == tokens_Pn.shape == (8, 4)
    assert [one.passed for one in growing] == right_Pn.any(axis=1).tolist()
    assert 0 < right_Pn.sum() < right_Pn.size
    for one, right_n, tokens_n in zip(growing, right_Pn, tokens_Pn, strict=True):
        assert one.n_tokens == tokens_n[: one.n_tried].sum()
        assert one.n_tried == next((n for n in (1, 2, 4) if right_n[:n].any()), 4)


def test_a_completion_is_right_where_both_parse_as_far_as_their_last_line():
    tokenizer = train_bpe([SOURCE * 20], 280)
    cfg = ModelConfig(vocab_size=280, d_model=16, n_layers=1, n_heads=2, d_ff=16, max_len=32, compute_dtype="float32")
    graphdef, params = functional.init(cfg, 0)
    task = Task(CheckpointOfRun(None, None, cfg, graphdef, params, 0, tokenizer), [], 6)  # type: ignore[arg-type]
    assert task.is_right("def f(x):\n", tokenizer.encode("    return x\n    return (("))
    assert not task.is_right("def f(x):\n", tokenizer.encode("    return (x\n"))
    assert not task.is_right("def f(x):\n", tokenizer.encode("    retu"))
    assert task.is_right("def f(x):\n", [*tokenizer.encode("    return x\n"), tokenizer.eod, *tokenizer.encode("((\n")])


def test_the_share_of_tokens_is_that_of_the_sums():
    share, (low, high) = _share(np.array([1, 2, 3]), np.array([10, 10, 10]))
    assert share == pytest.approx(0.2) and low < share < high
