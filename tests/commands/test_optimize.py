"""`ryot optimize` on a loss in a file of a person's own."""

import pytest

from ryot_jax.kernels import cpu
from ryot_jax.runtime.errors import ConfigError
from tests.command_lines import parse, program

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]
MODEL = """
import jax
import jax.numpy as jnp
import optax


def loss(params, x, y):
    h = jax.nn.gelu(x @ params["up"])
    return optax.softmax_cross_entropy_with_integer_labels(h @ params["head"], y).mean()


def example():
    shapes = (16, 32), (32, 8), (64, 16)
    up, head, x = (jax.random.normal(jax.random.key(i), shape) / 4 for i, shape in enumerate(shapes))
    return {"up": up, "head": head}, (x, jnp.arange(64) % 8)


def nothing():
    return None
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL, encoding="utf-8")
    return path


def test_it_explains_checks_and_judges(model):
    done = program(["optimize", f"--function={model}:loss", "--steps=16"])
    assert done.returncode in (0, 3, 4), done.stderr
    assert "dense + gelu" in done.stdout and "projection + cross-entropy" in done.stdout and "model.py:8" in done.stdout
    assert "relative errors" in done.stdout and "8 block pairs" in done.stdout and "noise floor" in done.stdout


def test_without_steps_it_trains_nothing(model):
    done = program(["optimize", f"--function={model}:loss", f"--example={model}:example", "--steps=0"])
    assert done.returncode == 0 and "100.0%" in done.stdout and "block pair" not in done.stdout


def test_what_is_missing_is_told_with_the_remedy(model):
    for words, remedy in (
        ([f"--function={model}:los"], "has no 'los'; it has"),
        ([f"--function={model.parent}/other.py:loss"], "does not exist"),
        (["--function=loss"], "FILE.py:NAME"),
        (["--function=no_such_module:loss"], "can be imported"),
        ([f"--function={model}:loss", f"--example={model}:nothing"], "must return a tuple"),
        ([f"--function={model}:loss", "--precision=int4"], "int4"),
    ):
        done = program(["optimize", *words])
        assert done.returncode == 2 and remedy in done.stderr, done.stderr
    for words in ([], ["--function=a:b", "--steps=7"]):
        with pytest.raises(ConfigError):
            parse(["optimize", *words]).check()
