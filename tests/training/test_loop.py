"""One arm: resuming is bitwise, nothing compiles twice, the host lags one step, and NaN stops the run."""

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.optimizations.dispatch import STEPS_PER_CALL
from ryot_jax.runtime.errors import NonFiniteLossError
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.evaluation import make_evaluator
from ryot_jax.training.loop import Trainer
from ryot_jax.training.parallel import compile_step, stack

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

PROGRAMS = {}  # compiled steps, which hold no state, by what they were made of


def make_trainer(
    tiny, *, parallelism="jit", scan=False, batches=None, loss_fn=None, name="baseline", batch=None, **overrides
):
    """An arm with its own state and data; with `scan` it takes several steps a call."""
    optimizer = tiny.optimizer(**overrides)
    batch = tiny.make_batch() if batch is None else batch

    def program(steps):
        made_of = (steps, parallelism, loss_fn, tuple(overrides.items()))
        if made_of not in PROGRAMS:
            PROGRAMS[made_of] = compile_step(
                tiny.step_fn(optimizer, loss_fn=loss_fn),
                tiny.state(optimizer),
                batch if steps == 1 else stack([batch] * steps),
                steps=steps,
                parallelism=parallelism,
            )
        return PROGRAMS[made_of]

    return Trainer(
        name,
        program(1),
        tiny.state(optimizer),
        batches or tiny.Batches(),
        scanned_steps=program(STEPS_PER_CALL) if scan else None,
        optimizer_name=overrides.get("optimizer", "adamw"),
    )


def everything(trainer):
    """All that a resumed arm must have in common with one that was not interrupted, bit for bit."""
    state = trainer.state
    return {
        "params": jax.tree.map(np.asarray, state.params),
        "opt_state": jax.tree.map(np.asarray, state.opt_state),
        "step": np.asarray(state.step),
        "key": np.asarray(jax.random.key_data(state.key)),
        "position": trainer.batches.get_state(),
        "sha256": np.frombuffer(bytes.fromhex(trainer.batches_sha256), np.uint8),
        "counters": np.array([trainer.steps_taken, trainer.tokens]),
    }


@pytest.fixture
def noisy_loss(tiny):
    """The tiny model's loss with dropout on the embedding: wrong keys after a resume would show."""

    def loss_fn(params, batch, key):
        keep = jax.random.bernoulli(key, 0.8, params["embedding"].shape)
        return tiny.loss_fn(params | {"embedding": params["embedding"] * keep}, batch, key)

    return loss_fn


def grain_batches(tiny):
    """A stream with a position, from the library that the real data come from."""
    return iter(grain.MapDataset.range(1000).map(lambda i: tiny.make_batch(seed=i)).to_iter_dataset())


@pytest.mark.parametrize(
    ("parallelism", "scan", "source", "blocks"),
    [
        ("jit", False, "grain", (4, 3)),
        ("shard_map", False, "plain", (4, 3)),
        ("pmap", False, "plain", (4, 3)),
        ("jit", True, "grain", (7, 6)),  # a call of five steps and single ones, on either side
        ("shard_map", True, "plain", (5, 7)),
    ],
)
def test_resuming_is_bitwise(tiny, tmp_path, noisy_loss, parallelism, scan, source, blocks):
    def new_trainer():
        batches = grain_batches(tiny) if source == "grain" else tiny.Batches()
        return make_trainer(tiny, parallelism=parallelism, scan=scan, batches=batches, loss_fn=noisy_loss)

    straight = new_trainer()
    straight_losses = [loss for block in blocks for loss in straight.run_block(block).losses]

    first, checkpoints = new_trainer(), Checkpoints(tmp_path)
    losses = first.run_block(blocks[0]).losses
    first.save(checkpoints, 1.0, "{}")
    first.run_block(6)  # lost
    checkpoints.close()

    resumed = new_trainer()
    resumed.restore(Checkpoints(tmp_path))
    losses += resumed.run_block(blocks[1]).losses
    assert losses == straight_losses
    chex.assert_trees_all_equal(everything(resumed), everything(straight))


@pytest.mark.parametrize("scan", [False, True])
def test_nothing_compiles_after_the_start_not_even_after_a_restore(tiny, tmp_path, scan):
    trainer, checkpoints = make_trainer(tiny, scan=scan), Checkpoints(tmp_path)
    steps = 7 if scan else 2
    trainer.run_block(steps)
    trainer.save(checkpoints, 1.0, "{}")
    trainer.restore(checkpoints)
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiles.append(event) if event.endswith("backend_compile_duration") else None
    )
    trainer.run_block(steps)
    trainer.save(checkpoints, 1.0, "{}")
    trainer.restore(checkpoints)
    trainer.run_block(steps)
    jax.monitoring.clear_event_listeners()
    assert compiles == []


def test_a_block_counts_its_steps_and_its_targets(tiny):
    trainer = make_trainer(tiny)
    first, second = trainer.run_block(3), trainer.run_block(2)
    targets = [(tiny.make_batch(seed=i)["targets"] >= 0).sum() for i in range(5)]
    assert (first.first_step, second.first_step) == (0, 3)
    assert (len(first.losses), len(second.losses)) == (3, 2)
    assert (first.tokens, second.tokens) == (sum(targets[:3]), sum(targets[3:]))
    assert trainer.tokens == sum(targets) and trainer.steps_taken == int(trainer.state.step) == 5
    assert first.seconds > 0


@pytest.mark.parametrize("n_steps", [3, 5, 12])
def test_several_steps_a_call_are_the_steps_of_single_calls_in_number_order_and_value(tiny, noisy_loss, n_steps):
    """Whole calls of five and single steps for the rest, the same bits: also the dropout of each step is its own."""
    single, scanned = (make_trainer(tiny, scan=scan, loss_fn=noisy_loss) for scan in (False, True))
    assert [program.steps for program in scanned._calls(12)] == [5, 5, 1, 1]
    assert [program.steps for program in single._calls(3)] == [1, 1, 1]
    for _ in range(2):
        want, found = single.run_block(n_steps), scanned.run_block(n_steps)
        assert (found.first_step, found.tokens) == (want.first_step, want.tokens)
        assert found.losses == want.losses and len(set(found.losses)) == n_steps
        assert found.grad_norms == want.grad_norms
        assert scanned.batches.get_state() == {"next_index": scanned.steps_taken}
    chex.assert_trees_all_equal(everything(scanned), everything(single))


@pytest.mark.parametrize("scan", [False, True])
def test_whoever_watches_is_told_after_each_call_how_far_it_is(tiny, scan):
    trainer, told = make_trainer(tiny, scan=scan), []
    losses = []
    for n_steps in (2, 12):
        losses += trainer.run_block(n_steps, on_step=lambda step, loss: told.append((step, loss))).losses
    steps = [1, 2, 7, 12, 13, 14] if scan else range(1, 15)
    assert told == [(step, losses[step - 1]) for step in steps]


def test_arms_that_were_fed_the_same_batches_have_the_same_hash_and_others_not(tiny):
    arms = [make_trainer(tiny), make_trainer(tiny, optimizer="lion"), make_trainer(tiny)]
    arms[2].batches.set_state({"next_index": 1})
    for arm in arms:
        arm.run_block(2)
    assert arms[0].batches_sha256 == arms[1].batches_sha256 != arms[2].batches_sha256
    # The order counts, and so does the number of batches.
    longer = make_trainer(tiny)
    longer.run_block(3)
    assert longer.batches_sha256 != arms[0].batches_sha256


def test_the_host_reads_the_metrics_of_a_step_after_it_has_dispatched_the_next(tiny, monkeypatch):
    trainer, events = make_trainer(tiny), []
    step, read = type(trainer.compiled_step).__call__, trainer._read
    monkeypatch.setattr(
        type(trainer.compiled_step),
        "__call__",
        lambda self, state, batch: events.append(f"dispatch {trainer.steps_taken}") or step(self, state, batch),
    )
    monkeypatch.setattr(trainer, "_read", lambda metrics, n: events.append(f"read {n}") or read(metrics, n))
    trainer.run_block(3)
    assert events == ["dispatch 0", "dispatch 1", "read 0", "dispatch 2", "read 1", "read 2"]


def test_the_host_stays_one_call_behind_where_a_call_takes_several_steps(tiny, monkeypatch):
    trainer, events = make_trainer(tiny, scan=True), []
    step, read = type(trainer.compiled_step).__call__, trainer._read
    monkeypatch.setattr(
        type(trainer.compiled_step),
        "__call__",
        lambda self, state, batch: events.append(f"{self.steps} at {trainer.steps_taken}") or step(self, state, batch),
    )
    monkeypatch.setattr(trainer, "_read", lambda metrics, n: events.append(f"read {n}") or read(metrics, n))
    trainer.run_block(11)
    assert events == ["5 at 0", "5 at 5", "read 0", "1 at 10", "read 5", "read 10"]


def test_arms_can_start_from_one_state_although_each_gives_its_memory_away(tiny):
    arm, state = make_trainer(tiny), tiny.state()
    arms = [Trainer(name, arm.compiled_step, state, tiny.Batches()) for name in ("baseline", "optimized")]
    assert arms[0].run_block(2).losses == arms[1].run_block(2).losses
    assert not state.params["embedding"].is_deleted()


def poisoned(step, value):
    """Batches of which one carries a number that spoils the loss."""

    class Poisoned:
        position = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.position += 1
            poison = np.full(8, value if self.position - 1 == step else 0, np.float32)
            return {
                "inputs": np.zeros((8, 6), np.int32),
                "targets": np.ones((8, 6), np.int32),
                "poison": poison,
            }

        def get_state(self):
            return {"position": self.position}

        def set_state(self, state):
            self.position = state["position"]

    return Poisoned()


@pytest.mark.parametrize(
    ("value", "step", "block", "scan"),
    [
        (np.nan, 3, 4, False),
        (np.inf, 3, 2, False),
        (np.inf, 3, 1, False),
        (np.nan, 4, 5, True),  # the third of five steps of a call
        (np.inf, 9, 12, True),  # of the second call
        (np.nan, 12, 12, True),  # a single step after two calls
    ],
)
def test_a_loss_that_is_not_finite_names_arm_step_and_value_and_spares_the_checkpoint(
    tiny, tmp_path, value, step, block, scan
):
    def loss_fn(params, batch, key):
        loss_sum, n_targets = tiny.loss_fn(params, batch, key)
        return loss_sum + batch["poison"].sum(), n_targets

    batch, batches = next(poisoned(99, 0)), poisoned(step, value)
    trainer = make_trainer(tiny, name="optimized", scan=scan, loss_fn=loss_fn, batch=batch, batches=batches)
    trainer.run_block(2)
    checkpoints = Checkpoints(tmp_path)
    trainer.save(checkpoints, 1.0, "{}")
    saved = everything(trainer)
    with pytest.raises(NonFiniteLossError, match=rf"arm 'optimized', step {step}: loss = {value}"):
        for _ in range(4):
            trainer.run_block(block)
    trainer.restore(checkpoints)
    chex.assert_trees_all_equal(everything(trainer), saved)


def test_a_gradient_that_is_not_finite_stops_the_run_although_the_loss_is(tiny):
    def loss_fn(params, batch, key):
        loss_sum, n_targets = tiny.loss_fn(params, batch, key)
        return loss_sum + jnp.sqrt(params["layer"]["bias"][0] * 0), n_targets

    with pytest.raises(NonFiniteLossError, match=r"step 0: loss = [0-9.]+, grad_norm = nan"):
        make_trainer(tiny, loss_fn=loss_fn).run_block(2)


def test_evaluation_judges_the_average_of_schedule_free_and_refuses_nan(tiny):
    def sums(params, batch):
        losses_BT, valid_BT = tiny.token_losses(params, batch)
        return losses_BT.sum(1), valid_BT.sum(1)

    heldout = jax.tree.map(lambda x: x[None], tiny.make_batch(seed=99))
    trainer = make_trainer(tiny, optimizer="schedule_free", schedule="constant", learning_rate=0.1)
    evaluator = make_evaluator(sums, heldout, tiny.init_params())
    trainer.run_block(5)
    assert trainer.evaluate(evaluator).mean_loss != evaluator(trainer.state.params).mean_loss
    broken = make_trainer(tiny, name="optimized")
    broken.state.params["embedding"] = jnp.full_like(broken.state.params["embedding"], jnp.nan)
    with pytest.raises(NonFiniteLossError, match="arm 'optimized', step 0: heldout_loss = nan"):
        broken.evaluate(evaluator)
