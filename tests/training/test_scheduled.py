"""A scheduled training takes the steps that the schedule says, with as many programs, from any step on."""

import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.data.batches import training_dataset, training_iterator
from ryot_jax.runtime.compiler import counted_compilations
from ryot_jax.runtime.errors import ConfigError, RyotError
from ryot_jax.scaling import ProgramKey, compose, constant, per_phase
from ryot_jax.training.loop import Trainer
from ryot_jax.training.optimizer import learning_rate_schedule, make_optimizer
from ryot_jax.training.parallel import compile_step, stack
from ryot_jax.training.scheduled import Programs, ScheduledTrainer, scheduled_dataset, scheduled_rate

IDS = np.random.default_rng(0).integers(0, 13, 700).astype(np.uint16)
CHANGING = compose(
    batch_size=per_phase([(4, 2), (6, 4)]),
    seq_len=per_phase([(6, 3), (4, 6)]),
    rate=per_phase([(8, 1.0), (2, 0.5)]),
)


class Made:
    """All that a training by a schedule is made of."""

    def __init__(self, tiny, schedule, steps_per_call=1):
        self.tiny, self.schedule, self.steps_per_call = tiny, schedule, steps_per_call
        self.rate = scheduled_rate(tiny.training, schedule)
        self.optimizer = make_optimizer(tiny.training, schedule.total_steps, self.rate)
        self.state = tiny.state(self.optimizer)
        self.compiled, self.threads = [], []

    def compile_static(self, static):
        self.compiled.append(static)
        self.threads.append(threading.current_thread().name)
        batch = {name: np.zeros((static.batch_size, static.seq_len), np.int32) for name in ("inputs", "targets")}
        steps = self.steps_per_call
        batches = batch if steps == 1 else stack([batch] * steps)
        return compile_step(self.tiny.step_fn(self.optimizer), self.state, batches, steps=steps)

    def trainer(self, programs=None, state=None, start=0):
        programs = programs or Programs(self.schedule, self.compile_static)
        dataset = scheduled_dataset(IDS, self.schedule, seed=3)
        return ScheduledTrainer("scheduled", programs, state or self.state, training_iterator(dataset, start))


def same_state(first, second):
    chex.assert_trees_all_equal((first.params, first.opt_state), (second.params, second.opt_state))


def test_a_schedule_that_does_not_change_is_the_plain_loop_to_the_bit(tiny):
    made = Made(tiny, compose(batch_size=4, seq_len=constant(6, 10)))
    scheduled = made.trainer()
    result = scheduled.run()
    optimizer = make_optimizer(tiny.training, 10)
    dataset = training_dataset(IDS, seq_len=6, batch_size=4, seed=3)
    program = compile_step(tiny.step_fn(optimizer), tiny.state(optimizer), dataset[0])
    plain = Trainer("plain", program, tiny.state(optimizer), training_iterator(dataset))
    assert plain.run_block(10).losses == result.losses
    same_state(plain.state, scheduled.trainer.state)
    assert plain.batches_sha256 == scheduled.trainer.batches_sha256


def test_the_steps_that_ran_are_those_of_the_schedule_and_nothing_else_compiles(tiny):
    made = Made(tiny, CHANGING)
    trainer = made.trainer()
    assert made.compiled == [ProgramKey(2, 3), ProgramKey(4, 3), ProgramKey(4, 6)]
    trainer.run(1)
    with counted_compilations() as compilations:
        trainer.run()
    assert not compilations
    assert trainer.executed == [(0, 4, ProgramKey(2, 3)), (4, 6, ProgramKey(4, 3)), (6, 10, ProgramKey(4, 6))]
    assert trainer.trainer.tokens == CHANGING.total_tokens == 4 * 6 + 2 * 12 + 4 * 24
    with counted_compilations() as compilations:
        jax.jit(lambda x: x + 41.5)(1.0)
    assert compilations, "else the counter would count nothing"


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9])
def test_going_on_from_any_step_gives_the_same_batches_and_the_same_bits(tiny, step):
    made = Made(tiny, CHANGING)
    programs = Programs(CHANGING, made.compile_static)
    whole = made.trainer(programs)
    losses = whole.run().losses
    first = made.trainer(programs)
    first.run(step)
    rest = made.trainer(programs, first.trainer.state, start=step)
    assert rest.run().losses == losses[step:]
    same_state(rest.trainer.state, whole.trainer.state)
    assert rest.executed[0][0] == step


def test_several_steps_a_call_are_the_same_steps(tiny):
    one, two = Made(tiny, CHANGING), Made(tiny, CHANGING, steps_per_call=2)
    first, second = one.trainer(), two.trainer()
    np.testing.assert_allclose(first.run().losses, second.run().losses, rtol=1e-6)
    assert first.executed == second.executed
    with pytest.raises(ConfigError, match="step 4: a call takes 2 steps, and 1 are left"):
        third = two.trainer()
        third.run(4)
        third.run(1)


def test_batches_go_on_where_the_tokens_before_end(tiny):
    dataset = scheduled_dataset(IDS, CHANGING, seed=3)
    assert len(dataset) == 10
    short, long = (training_dataset(IDS, seq_len=length, batch_size=1, seed=3) for length in (3, 6))
    rows = [dataset[step]["inputs"] for step in range(10)]
    assert [row.shape for row in rows] == [(2, 3)] * 4 + [(4, 3)] * 2 + [(4, 6)] * 4
    np.testing.assert_array_equal(np.concatenate(rows[:6]), np.concatenate([short[i]["inputs"] for i in range(16)]))
    # 48 tokens were taken before: eight windows of six.
    np.testing.assert_array_equal(np.concatenate(rows[6:]), np.concatenate([long[8 + i]["inputs"] for i in range(16)]))


def test_the_rate_follows_the_tokens_and_the_multiplier(tiny):
    schedule = compose(batch_size=per_phase([(8, 1), (2, 8)]), seq_len=4, rate=per_phase([(9, 1.0), (1, 0.25)]))
    rate, plain = scheduled_rate(tiny.training, schedule), learning_rate_schedule(tiny.training, 10)
    # Of 96 tokens, 9.6 an average step: 4 before the second step, 32 before the ninth, 64 before the tenth.
    for step, at, multiplier in ((0, 0.0, 1), (1, 4 / 9.6, 1), (8, 32 / 9.6, 1), (9, 64 / 9.6, 0.25)):
        np.testing.assert_allclose(rate(step), plain(jnp.float32(at)) * multiplier, rtol=1e-6)
    constant_rate = scheduled_rate(tiny.training, compose(batch_size=2, seq_len=constant(4, 10)))
    assert [float(constant_rate(step)) for step in range(10)] == [float(plain(step)) for step in range(10)]


def test_all_but_the_first_program_may_be_compiled_beside_the_training(tiny):
    made = Made(tiny, CHANGING)
    release = threading.Event()
    compile_now = made.compile_static

    def waiting(static):
        if static != ProgramKey(2, 3):
            assert release.wait(timeout=60)
        return compile_now(static)

    programs = Programs(CHANGING, waiting, in_background=True)
    trainer = made.trainer(programs)
    trainer.run(4)  # while the others cannot be done
    assert made.compiled == [ProgramKey(2, 3)]
    release.set()
    trainer.run()
    assert made.compiled == list(CHANGING.programs()) and set(programs.compiled) == set(made.compiled)
    assert all(name.startswith("compile") for name in made.threads)


def test_a_program_that_cannot_be_compiled_stops_the_training_with_its_error(tiny):
    def broken(static):
        raise ConfigError(f"no program for {static}")

    with pytest.raises(ConfigError, match="no program for"):
        Programs(CHANGING, broken)


DEEPER = compose(batch_size=2, seq_len=3, depth=per_phase([(4, 1), (6, 0)]))


def test_kinds_that_come_out_as_the_same_program_are_found(tiny):
    """A depth that the compiled step does not look at would do nothing, in silence."""
    made = Made(tiny, DEEPER)
    with pytest.raises(RyotError, match=r"depth=1\) and ProgramKey\(.*depth=0\) were compiled to the same program"):
        Programs(DEEPER, made.compile_static)


def test_the_depth_that_ran_is_that_of_the_program(tiny):
    made = Made(tiny, DEEPER)
    compile_as_it_is = made.compile_static

    def compile_static(static):
        if static.depth:  # stands for a model with fewer layers: another program for the same batches
            halved = lambda params, batch, key: tuple(0.5 * x for x in tiny.loss_fn(params, batch, key))  # noqa: E731
            made.tiny = type("Halved", (), {"step_fn": lambda _, o: tiny.step_fn(o, loss_fn=halved)})()
        program = compile_as_it_is(static)
        made.tiny = tiny
        return program

    trainer = made.trainer(Programs(DEEPER, compile_static))
    trainer.run()
    assert trainer.executed == [(0, 4, ProgramKey(2, 3, 1)), (4, 10, ProgramKey(2, 3))]


def test_a_kind_of_step_that_is_skipped_between_two_of_another_is_found(tiny):
    asked = compose(batch_size=per_phase([(3, 2), (2, 4), (5, 2)]), seq_len=3)
    made = Made(tiny, asked)
    fixed = compose(batch_size=2, seq_len=constant(3, 10))
    first = Programs(fixed, made.compile_static)
    batches = training_iterator(scheduled_dataset(IDS, fixed, seed=3))
    trainer = ScheduledTrainer("scheduled", Programs(asked, lambda static: first(0, 10)), made.state, batches)
    with pytest.raises(RyotError, match=r"step 4 ran as .*batch_size=2.*, but the schedule says .*batch_size=4"):
        trainer.run()


def test_batches_of_another_kind_than_the_schedule_says_are_found(tiny):
    """A schedule that nobody follows is the failure that this is for."""
    fixed = compose(batch_size=2, seq_len=constant(3, 10))
    made = Made(tiny, CHANGING)
    first = Programs(fixed, made.compile_static)
    programs = Programs(CHANGING, lambda static: first(0, 10))
    batches = training_iterator(scheduled_dataset(IDS, fixed, seed=3))
    trainer = ScheduledTrainer("scheduled", programs, made.state, batches)
    with pytest.raises(
        RyotError, match=r"step 9 ran as ProgramKey\(batch_size=2, seq_len=3, depth=0\), but the schedule says"
    ):
        trainer.run()
