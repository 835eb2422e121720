"""The arms of an ablation on a model whose step takes a millisecond: which there are, and how they take turns."""

import dataclasses
import gc
import time

import jax
import numpy as np
import pytest

from ryot_jax.comparison import ablation
from ryot_jax.comparison.ablation import BASELINE, build, design, doubts, measure, subset_name
from ryot_jax.comparison.attribution import attribute
from ryot_jax.config import get_default
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.kernels.declaration import Evidence
from ryot_jax.kernels.ops.norm import xla as norm_by_xla
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import OPTIMIZATIONS, KernelPlan, Resolution, resolve
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.program_check import ProgramCheck
from ryot_jax.training.setup import build_setup, kernel_spec

# What every CPU can do.
WISHES = {"attention": "xla", "norm": "xla", "dispatch": "scan"}
TWO = ("norm", "dispatch")
SLOW_SECONDS = 0.02


def tiny_config():
    config = get_default()
    config.model.update({"vocab_size": 260, "d_model": 16, "d_ff": 48, "n_layers": 1, "n_heads": 2, "max_len": 32})
    config.training.update({"batch_size": 8, "seq_len": 32})
    config.runtime.check_programs = False
    return config


@pytest.fixture(scope="module")
def spec():
    config, devices = tiny_config(), describe_devices()
    return kernel_spec(config, from_config(config.model, devices.platform), devices)


@pytest.fixture(scope="module")
def shared():
    config = tiny_config()
    ids = np.random.default_rng(0).integers(0, 260, size=20_000).astype(np.uint16)
    corpus = Corpus(ids, ids[:1000], NoTokenizer(260), "", {})
    return build_setup(config, from_config(config.model, describe_devices().platform), corpus)


@pytest.fixture(scope="module")
def two(spec):
    """The four arms of two players."""
    return design(resolve(WISHES, spec=spec), spec, block_steps=5, only=TWO)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
    """No arm is compiled twice in these tests."""
    really, compiled = ablation._compiled, {}

    def once(shared, variant):
        if variant not in compiled:
            compiled[variant] = really(shared, variant)
        return compiled[variant]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "_compiled", once)
        yield


@pytest.fixture(scope="module")
def built(shared, two, spec):
    """All four arms, what was said of them, and how many bytes of arrays they have left behind."""
    lines, before = [], _bytes_of_arrays()
    arms, unproven = build(shared, two, spec, log=lines.append)
    assert unproven == {}
    return arms, lines, _bytes_of_arrays() - before


def _bytes_of_arrays():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def _of(*names):
    return frozenset(names)


def _everything_on():
    """A plan with every optimization on, as if this machine could do it all."""
    on = {o.name: o.alternatives[0] for o in OPTIMIZATIONS}
    return Resolution(KernelPlan(**on), dict.fromkeys(on, "asked for"))


def test_of_three_players_every_subset_is_an_arm_with_just_that_plan(spec):
    three = design(resolve(WISHES, spec=spec), spec, block_steps=5)
    assert [(p.name, p.switch, p.implementation) for p in three.players] == [
        (name, f"optimizations.{name}", implementation) for name, implementation in WISHES.items()
    ]
    assert len(three.variants) == 2**3 and three.missing == {}
    for subset, variant in three.variants.items():
        assert variant.plan == KernelPlan(**{name: WISHES[name] for name in subset})
    assert next(iter(three.variants)) == BASELINE and list(three.variants)[-1] == _of(*WISHES)
    assert [variant.name for variant in three.variants.values()] == [
        "baseline",
        *WISHES,
        "all but dispatch",
        "all but norm",
        "all but attention",
        "all",
    ]


def test_of_more_than_five_players_there_are_the_ends_and_single_steps_from_them(monkeypatch, spec):
    # Whether this machine could run them all is not asked here.
    monkeypatch.setattr(ablation, "resolve", lambda wishes, spec: Resolution(KernelPlan(**wishes), {}))
    optimized = _everything_on()
    names = [o.name for o in OPTIMIZATIONS]
    found = design(optimized, spec, block_steps=5)
    assert [player.name for player in found.players] == names
    sizes = [len(subset) for subset in found.variants]
    n = len(names)
    assert sizes == [0, *[1] * n, *[n - 1] * n, n] and n > 5
    five = design(optimized, spec, block_steps=5, only=names[:5])
    assert len(five.variants) == 2**5


def test_players_that_were_not_chosen_are_off_in_every_arm(spec):
    found = design(resolve(WISHES, spec=spec), spec, block_steps=5, only=("dispatch", "norm"))
    assert [player.name for player in found.players] == ["norm", "dispatch"], "in the order of the optimizations"
    assert len(found.variants) == 4
    assert {variant.plan["attention"] for variant in found.variants.values()} == {"reference"}
    assert found.variants[_of(*TWO)].name == "all"


@pytest.mark.parametrize(
    ("wishes", "options", "message"),
    [
        ({}, {}, "no optimization differs between the baseline and the optimized arm.*optimizations.norm: off"),
        (WISHES, {"only": ("dense",)}, r"--only: optimizations.dense is as in the baseline \(off\).*attention, norm"),
        (WISHES, {"only": ("magic",)}, "optimizations.magic is as in the baseline .no such optimization"),
        (WISHES, {"only": ()}, "--only names no optimization; there are attention, norm, dispatch"),
        (WISHES, {"block_steps": 12}, "--block_steps=12 must be a multiple of 5: optimizations.dispatch=scan"),
    ],
)
def test_what_cannot_be_attributed_is_refused_with_the_remedy(spec, wishes, options, message):
    with pytest.raises(ConfigError, match=message):
        design(resolve(wishes, spec=spec), spec, **{"block_steps": 5, **options})


def test_blocks_of_any_length_will_do_where_no_program_takes_several_steps(spec):
    design(resolve(WISHES, spec=spec), spec, block_steps=12, only=("attention", "norm"))


@pytest.fixture
def _norm_needs_bfloat16(monkeypatch):
    """An implementation that does not support the work without another one's."""
    needy = dataclasses.replace(
        norm_by_xla.IMPLEMENTATION, refusal=lambda spec: None if spec.activations else "needs bfloat16 around it"
    )
    monkeypatch.setattr(norm_by_xla, "IMPLEMENTATION", needy)


@pytest.mark.usefixtures("_norm_needs_bfloat16")
def test_a_subset_that_cannot_be_had_is_left_out_with_its_reason_and_not_replaced(spec):
    optimized = resolve({"activations": "bfloat16", "attention": "xla", "norm": "xla"}, spec=spec)
    found = design(optimized, spec, block_steps=5)
    without = [_of("norm"), _of("attention", "norm")]
    assert list(found.missing) == without
    assert all("optimizations.norm = 'xla': needs bfloat16 around it" in reason for reason in found.missing.values())
    assert len(found.variants) == 8 - 2 and not set(found.variants) & set(without)
    for subset, variant in found.variants.items():
        assert (variant.plan["norm"] == "xla") == ("norm" in subset)
    with pytest.raises(ConfigError, match="needs bfloat16 around it"):
        design(optimized, spec, block_steps=5, only=("attention", "norm"))  # the full set cannot be had


def test_every_arm_is_proven_from_its_program_and_no_two_are_the_same(built):
    arms, lines, _ = built
    assert len(arms) == len(lines) == 4
    for subset, arm in arms.items():
        assert set(arm.evidence) == subset and all(found.active for found in arm.evidence.values())
        assert ("scan" in arm.programs) == ("dispatch" in subset)
        assert arm.compile_seconds > 0
    assert len({arm.fingerprint for arm in arms.values()}) == 4
    assert doubts(arms) == []
    assert lines[0].startswith("baseline: compiled in ") and lines[-1].endswith("(4 of 4)")


def _blind(monkeypatch, *, when):
    """Lets the probe of the norm find nothing where `when` holds of the arm's program."""
    real = norm_by_xla.IMPLEMENTATION

    def probe(program, baseline, spec):
        return Evidence(False, "nothing of it") if when(program) else real.probe(program, baseline, spec)

    monkeypatch.setattr(norm_by_xla, "IMPLEMENTATION", dataclasses.replace(real, probe=probe))


def test_an_arm_that_cannot_be_proven_is_left_out_with_its_reason(monkeypatch, shared, two, spec):
    _blind(monkeypatch, when=lambda program: not program.loops)  # where no steps are scanned
    arms, unproven = build(shared, two, spec, log=lambda line: None)
    assert list(unproven) == [_of("norm")] and "does not show it: nothing of it" in unproven[_of("norm")]
    assert list(arms) == [BASELINE, _of("dispatch"), _of(*TWO)]


def test_without_proof_of_the_full_set_there_is_no_ablation(monkeypatch, shared, two, spec):
    _blind(monkeypatch, when=lambda program: True)
    with pytest.raises(ConfigError, match=r"optimizations.norm=xla is on in arm 'all'.*nothing of it"):
        build(shared, two, spec, log=lambda line: None)


def test_equal_programs_and_programs_made_safe_are_told(built):
    pair = {subset: built[0][subset] for subset in (BASELINE, _of("norm"))}
    same = {subset: dataclasses.replace(arm, fingerprint="same") for subset, arm in pair.items()}
    assert doubts(same) == [
        "these arms compiled to the same program, what sets them apart does nothing: baseline, norm"
    ]
    failed = ProgramCheck(False, "metrics.loss", 0.5, 1e-4, 1.0)
    pair[_of("norm")] = dataclasses.replace(pair[_of("norm")], program_checks={"step": failed})
    assert doubts(pair) == ["norm runs without YNN fusions, as the program with them computed other numbers"]


def test_all_arms_of_a_round_are_timed_twice_on_the_same_batches(shared, built):
    arms, lines, seen = built[0], [], []

    def noted(index, batch):
        seen.append(index)
        return batch

    watched = dataclasses.replace(shared, dataset=shared.dataset.map_with_index(noted))
    seconds = measure(watched, arms, rounds=3, block_steps=5, log=lines.append)
    blocks = np.array(seen).reshape(4 * (1 + 2 * 3), 5)
    warm_up, rounds = blocks[:4], blocks[4:].reshape(3, 4 * 2, 5)
    assert (warm_up == np.arange(5)).all()
    for number, blocks_of_round in enumerate(rounds):
        assert (blocks_of_round == 5 * number + np.arange(5)).all()
    assert list(seconds) == list(arms)
    assert all(values.shape == (3,) and (values > 0).all() for values in seconds.values())
    assert lines[0].startswith("4 arms, 3 rounds, in each 2 blocks of 5 steps an arm: about ")
    assert [line.split("  ")[0] for line in lines[1:]] == ["round 1/3", "round 2/3", "round 3/3"]


def _spied(arms, calls, slow=()):
    """The same arms; every call of a program is noted as (subset, program's name), those of `slow` arms take 20 ms."""

    def spy(subset, name, program):
        def executable(*arguments):
            calls.append((subset, name))
            time.sleep(SLOW_SECONDS if subset in slow else 0.0)
            return program.executable(*arguments)

        return dataclasses.replace(program, executable=executable)

    return {
        subset: dataclasses.replace(arm, programs={name: spy(subset, name, p) for name, p in arm.programs.items()})
        for subset, arm in arms.items()
    }


def test_each_arm_is_timed_with_its_own_programs(shared, built):
    calls = []
    arms = _spied(built[0], calls)
    measure(shared, arms, rounds=2, block_steps=5, log=lambda line: None)
    for subset in arms:
        programs = [name for called, name in calls if called == subset]
        # To warm up and in four blocks: one call of five steps, or five of one.
        assert programs == (["scan"] * 5 if "dispatch" in subset else ["step"] * 25)


@pytest.mark.parametrize("slow", [BASELINE, frozenset(["norm"])], ids=["baseline", "norm"])
def test_each_arm_gets_its_own_times(shared, built, slow):
    seconds = measure(shared, _spied(built[0], [], {slow}), rounds=2, block_steps=5, log=lambda line: None)
    assert (seconds[slow] >= SLOW_SECONDS).all()


def test_rounded_weights_are_timed_in_the_part_of_training_that_sees_them(shared, spec, monkeypatch):
    starts = []

    class Noted(ablation.Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            starts.append(self.steps_taken)

    monkeypatch.setattr(ablation, "Trainer", Noted)
    for wishes in ({"norm": "xla"}, {"norm": "xla", "qat": "round"}):
        arms, _ = build(shared, design(resolve(wishes, spec=spec), spec, block_steps=5), spec, log=lambda line: None)
        measure(shared, arms, rounds=1, block_steps=5, log=lambda line: None)
    assert starts == [0, 704], "of 800 steps the last 12 %"


def test_memory_does_not_grow_with_the_number_of_arms(shared, built):
    arms, _, left_behind = built
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(shared.state))
    assert left_behind < 0.01 * state, "programs are kept, training states are not"
    before, most = _bytes_of_arrays(), []
    measure(shared, arms, rounds=2, block_steps=5, log=lambda line: most.append(_bytes_of_arrays() - before))
    assert max(most) < 1.5 * state, "one state is passed on"
    assert _bytes_of_arrays() == before


def test_measured_times_can_be_attributed(shared, built, two):
    found = attribute(measure(shared, built[0], rounds=2, block_steps=5, log=lambda line: None), two.players)
    assert found.rounds == 2
    assert all(player.shapley.estimate > 0 for player in found.players)


@pytest.mark.parametrize(
    ("on", "of", "name"),
    [
        ("", "ab", "baseline"),
        ("a", "ab", "a"),
        ("ab", "ab", "all"),
        ("a", "a", "all"),
        ("ca", "abcd", "a+c"),
        ("acd", "abcd", "all but b"),
        ("", "a", "baseline"),
    ],
)
def test_a_subset_is_named_by_what_is_on_or_by_the_one_that_is_off(on, of, name):
    assert subset_name(frozenset(on), list(of)) == name
