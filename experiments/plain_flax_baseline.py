"""Step time of our baseline against a plainly written Flax program of the same model.

    python -m experiments.plain_flax_baseline --config=configs/scaled.py --rounds=12

The plain programs are what a competent reader of the Flax documentation would write, without ryot_jax: nnx layers,
optax's cross-entropy and AdamW, `jax.jit` over the split state. There are two, one with `nnx.MultiHeadAttention` and
one with a fused projection and `jax.nn.dot_product_attention`; the faster one counts. All arms run in one process with
one allocator setting, start from the same weights (their losses are compared first) and run blocks of steps in random
order. Goal: ours / plain is at most 1.10. Exit code 0 if the interval lies below it, 3 if it lies above, 4 if it is
inconclusive.
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ryot_jax.comparison.statistics import speed_up
from ryot_jax.config import load
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.model import config as model_config
from ryot_jax.model import functional
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.errors import EXIT_CRITERION, EXIT_INCONCLUSIVE, EXIT_PASS, ConfigError
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.parallel import compile_step
from ryot_jax.training.state import init_state
from ryot_jax.training.step import train_step

GOAL = 1.10


# ---- The plain program -----------------------------------------------------------------------------------------


class FusedAttention(nnx.Module):
    def __init__(self, model, rngs):
        self.heads = model.n_heads
        self.qkv = nnx.Linear(model.d_model, 3 * model.d_model, rngs=rngs)
        self.out = nnx.Linear(model.d_model, model.d_model, rngs=rngs)

    def __call__(self, x):
        q, k, v = jnp.split(self.qkv(x).reshape(*x.shape[:2], 3 * self.heads, -1), 3, axis=2)
        return self.out(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))


class NnxAttention(nnx.Module):
    def __init__(self, model, rngs):
        self.attention = nnx.MultiHeadAttention(model.n_heads, model.d_model, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attention(x, mask=nnx.make_causal_mask(x[..., 0]))


class PlainBlock(nnx.Module):
    def __init__(self, model, attention, rngs):
        self.norm1 = nnx.LayerNorm(model.d_model, epsilon=1e-5, rngs=rngs)
        self.attention = attention(model, rngs)
        self.norm2 = nnx.LayerNorm(model.d_model, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(model.d_model, model.d_ff, rngs=rngs)
        self.down = nnx.Linear(model.d_ff, model.d_model, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class PlainGPT(nnx.Module):
    def __init__(self, model, attention, rngs):
        self.embed = nnx.Embed(model.vocab_size, model.d_model, rngs=rngs)
        self.position = nnx.Embed(model.max_len, model.d_model, rngs=rngs)
        self.blocks = nnx.List([PlainBlock(model, attention, rngs) for _ in range(model.n_layers)])
        self.norm = nnx.LayerNorm(model.d_model, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.position(jnp.arange(tokens.shape[1]))[None]
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


ATTENTIONS = {"plain-fused": FusedAttention, "plain-mha": NnxAttention}


def plain_optimizer(training):
    """AdamW with the config's hyperparameters, composed as in the optax documentation."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, training.warmup_steps, training.epochs * training.steps_per_epoch
    )
    decay_mask = functools.partial(jax.tree.map, lambda x: x.ndim > 1)

    def rate(step):  # the first step has a rate above zero, like ours
        return schedule(step + 1)

    return optax.chain(
        optax.clip_by_global_norm(training.clip_norm),
        optax.adamw(rate, b1=training.b1, b2=training.b2, weight_decay=training.weight_decay, mask=decay_mask),
    )


def plain_program(attention, config, weights, batch):
    """The step, its initial state and its loss on a batch, with the weights of our model."""
    require_plain(config)
    model = PlainGPT(config.model, attention, nnx.Rngs(0))
    fill_with(model, weights)
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = plain_optimizer(config.training)

    def loss_fn(params, batch):
        logits = nnx.merge(graphdef, params)(batch["inputs"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return step, (params, optimizer.init(params)), float(jax.jit(loss_fn)(params, batch))


def require_plain(config):
    """Check that the config is one of the plain programs': GPT-2 with AdamW and a cosine learning-rate schedule."""
    wanted = {"positions": "learned", "norm": "layer", "mlp": "gelu", "tie_embeddings": True, "dropout": 0.0}
    found = {field: config.model[field] for field in wanted}
    training = config.training
    if found != wanted or (training.optimizer, training.schedule, training.accumulation) != ("adamw", "cosine", 1):
        raise ConfigError(f"--config: the plain programs need model {wanted}, adamw with cosine and no accumulation")


def fill_with(model, weights):
    """Copy our weights into the plain model, so that both can be shown to be one function."""

    def fill(module, source):
        module.kernel[...] = jnp.array(source["kernel"]).reshape(module.kernel.shape)
        module.bias[...] = jnp.array(source["bias"]).reshape(module.bias.shape)

    def fill_norm(module, source):
        module.scale[...], module.bias[...] = jnp.array(source["scale"]), jnp.array(source["bias"])

    model.embed.embedding[...] = jnp.array(weights["embedding"])
    model.position.embedding[...] = jnp.array(weights["positions"])
    fill_norm(model.norm, weights["final_norm"])
    for block, source in zip(model.blocks, weights["blocks"].values(), strict=True):
        fill_norm(block.norm1, source["attention_norm"])
        fill_norm(block.norm2, source["mlp_norm"])
        fill(block.up, source["mlp"]["up"])
        fill(block.down, source["mlp"]["down"])
        fill(
            block.attention.out if hasattr(block.attention, "out") else block.attention.attention.out,
            source["attention"]["out"],
        )
        qkv = source["attention"]["qkv"]
        if hasattr(block.attention, "qkv"):
            fill(block.attention.qkv, qkv)
            continue
        for i, name in enumerate(("query", "key", "value")):
            part = {key: np.split(np.asarray(array), 3, axis=-1)[i] for key, array in qkv.items()}
            fill(getattr(block.attention.attention, name), part)


# ---- Our program -----------------------------------------------------------------------------------------------


def our_program(config, batch):
    """The baseline step of a config, with reference kernels, as compiled by `ryot_jax`."""
    cfg = model_config.from_config(config.model, jax.default_backend())
    optimizer = make_optimizer(config.training, config.training.epochs * config.training.steps_per_epoch)
    graphdef, state = init_state(cfg, optimizer, config.seed)

    def loss_fn(params, batch, key):
        return functional.loss(graphdef, params, batch, plan=KernelPlan(), key=key)

    step = compile_step(functools.partial(train_step, loss_fn=loss_fn, optimizer=optimizer), state, batch)
    loss_sum, n_targets = jax.jit(loss_fn)(state.params, batch, None)
    weights = jax.tree.map(np.array, state.params)
    return step, step.place(state), float(loss_sum / n_targets), weights


# ---- The comparison --------------------------------------------------------------------------------------------


def new_batch(config, index):
    """A batch of random tokens, on which the time of a step does not depend."""
    shape = config.training.batch_size, config.training.seq_len + 1
    tokens = np.random.default_rng(index).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}


def seconds_of_block(step, state, batches):
    start = time.perf_counter()
    for batch in batches:
        state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - start, state


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--rounds", type=int, default=12, help="each times one block of every arm")
    parser.add_argument("--block_steps", type=int, default=5, help="steps of a block")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the arms")
    parser.add_argument("--default_allocator", action="store_true", help="leave the C library's allocator alone")
    options = parser.parse_args(arguments)
    if options.rounds < 2 or options.block_steps < 1:
        parser.error("needs at least 2 rounds of 1 step")
    record = configure_allocator(not options.default_allocator)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; allocator: {record.reason}")

    config = load(options.config)
    step, state, our_loss, weights = our_program(config, new_batch(config, 0))
    arms = {"ours": (step, state)}
    for name, attention in ATTENTIONS.items():
        plain_step, plain_state, loss = plain_program(attention, config, weights, new_batch(config, 0))
        arms[name] = (plain_step, plain_state)
        print(f"{name}: loss {loss:.6f} on our weights; ours {our_loss:.6f}")
        if abs(loss - our_loss) > 1e-4:
            sys.exit(f"{name} is not the same model: the losses on the same weights and batch differ")

    batches = [new_batch(config, i) for i in range(options.block_steps)]
    states = {name: seconds_of_block(step, state, batches)[1] for name, (step, state) in arms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    order = np.random.default_rng(options.seed)
    for _ in range(options.rounds):
        names = list(order.permutation(list(arms)))
        # There and back, so that a drift of the machine within a round affects all arms alike.
        block = dict.fromkeys(arms, 0.0)
        for name in names + names[::-1]:
            elapsed, states[name] = seconds_of_block(arms[name][0], states[name], batches)
            block[name] += elapsed
        for name in arms:
            seconds[name].append(block[name] / (2 * options.block_steps))

    for name in arms:
        print(f"{name}: median {1e3 * np.median(seconds[name]):.1f} ms, min {1e3 * min(seconds[name]):.1f} ms per step")
    ratios = {name: speed_up(seconds["ours"], seconds[name]) for name in arms if name != "ours"}
    intervals = []
    for name, ratio in ratios.items():
        assert ratio.ci95 is not None  # of two rounds or more
        low, high = ratio.ci95
        intervals.append(ratio.ci95)
        print(
            f"ours / {name}: median {ratio.median:.3f}, mean {ratio.estimate:.3f}, 95 % {low:.3f} to {high:.3f}, "
            f"{ratio.pairs} pairs"
        )
    low, high = max(intervals, key=sum)
    verdict = EXIT_PASS if high <= GOAL else EXIT_CRITERION if low > GOAL else EXIT_INCONCLUSIVE
    words = {EXIT_PASS: "PASS", EXIT_CRITERION: "FAIL", EXIT_INCONCLUSIVE: "INCONCLUSIVE"}
    print(f"{words[verdict]}: at most {GOAL:.2f} times the faster plain program's step")
    return verdict


if __name__ == "__main__":
    sys.exit(main())
