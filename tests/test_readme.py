"""README's Python does what it says, as it stands: each piece is run with small arrays under the names it uses."""

import re
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def _snippets() -> list[str]:
    """Indented blocks that begin with an import; empty lines within them do not end them."""
    blocks = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))*)+", README, flags=re.MULTILINE)
    return [text for block in blocks if (text := textwrap.dedent(block)).startswith(("from ", "import "))]


SNIPPETS = {re.sub(r"\W+", " ", text.splitlines()[0]).split()[-1]: text for text in _snippets()}

CLASSES, WIDTH, BATCH = 5, 16, 64


def _batch(step):
    rng = np.random.default_rng((1, step))
    labels = rng.integers(0, CLASSES, BATCH)
    return {"x": np.eye(CLASSES, WIDTH, dtype=np.float32)[labels] + rng.normal(0, 0.1, (BATCH, WIDTH)), "y": labels}


def _losses(w, batch):
    logits = jnp.asarray(batch["x"], jnp.float32) @ w
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, batch["y"][:, None], axis=-1)[:, 0]


def _loss(params, batch):
    return jnp.mean(_losses(params["w"], batch))


def _step(w, batch):
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean(_losses(w, batch)))(w)
    return w - 0.5 * gradient, loss


def _fused_step(w, batch):
    """The same numbers by another program: the gradient written out."""
    x, y = jnp.asarray(batch["x"], jnp.float32), batch["y"]
    excess = jax.nn.softmax(x @ w) - jax.nn.one_hot(y, CLASSES)
    return w - 0.5 * x.T @ excess / len(y), jnp.mean(_losses(w, batch))


def _model():
    from ryot_jax.model import ModelConfig, functional

    sizes = {"vocab_size": 31, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 24, "max_len": 80}
    config = ModelConfig(**sizes)
    return {"model_config": config, "params": functional.init(config, 0)[1]}


def _trained():
    """Noisy weights that predict the labels well but not surely, so that rounding costs something."""
    noise = np.random.default_rng(0).normal(size=(WIDTH, CLASSES))
    return {"w": jnp.asarray(2 * np.eye(WIDTH, CLASSES) + 0.1 * noise, jnp.float32)}


def _compared(names):
    assert re.search(r"PASS|FAIL|INCONCLUSIVE", names["result"].summary())
    page = Path("report.html").read_text(encoding="utf-8")
    assert "<html" in page and "http://" not in page.split("<body")[0]


def _compressed(names):
    from ryot_jax.compression import decode

    assert Path("model.ryot").stat().st_size == len(Path("model.ryot").read_bytes()) > 0
    kept, read = (jax.tree.leaves(decode(tree)) for tree in (names["found"].params, names["params"]))
    assert [x.shape for x in read] == [(WIDTH, CLASSES)]
    for one, other in zip(kept, read, strict=True):
        np.testing.assert_array_equal(one, other)


def _generated(names):
    found = names["found"]
    assert found.ids_BN.shape == (2, 64) and np.all(np.asarray(found.length_B) == 64)
    assert found.accepted_B.shape == (2,)


def _explained(names):
    assert "projection + cross-entropy" in str(names["fast_loss"].explain(names["params"], names["batch"]))
    np.testing.assert_allclose(
        names["fast_loss"](names["params"], names["batch"]), names["loss"](names["params"], names["batch"]), rtol=1e-5
    )


CASES = {
    # By the last name that the snippet's first line imports: what it is given, and what must have come of it.
    "compare": (
        lambda: {
            "baseline_step": _step,
            "optimized_step": _fused_step,
            "state": jnp.zeros((WIDTH, CLASSES)),
            "batches": _batch,
            "heldout_losses": lambda w: _losses(w, _batch(10_000)),
        },
        _compared,
    ),
    "optimize": (
        lambda: {"params": _trained(), "loss": _loss, "batch": _batch(0)},
        _explained,
    ),
    "save": (
        lambda: {"params": _trained(), "loss_fn": _loss, "batches": [_batch(i) for i in range(32)]},
        _compressed,
    ),
    "decoding": (_model, _generated),
    "phases": (dict, lambda names: None),  # it ends with an assertion of its own
}


def test_every_snippet_is_run():
    assert set(SNIPPETS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_snippet_does_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the files that it writes
    given, check = CASES[name]
    names = given()
    exec(compile(SNIPPETS[name], f"README.md ({name})", "exec"), names)
    check(names)
