"""Compression to a budget, on a small classifier whose labels are drawn from a teacher's predictions."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ryot_jax.compression import allocation
from ryot_jax.compression.allocation import Trial
from ryot_jax.compression.calibration import calibrate
from ryot_jax.compression.coding import entropy_bits
from ryot_jax.compression.compress import _Losses, _safe, _Search, allocated, code_bits, compress
from ryot_jax.compression.compressed import decode, float_leaves, is_compressed, map_named, named_leaves
from ryot_jax.compression.file import load, save
from ryot_jax.compression.quality import Estimate
from ryot_jax.compression.quantize import balanced
from ryot_jax.compression.quantized import quantized

WORDS, WIDTH, HIDDEN, CLASSES, LENGTH = 100, 8, 48, 8, 4


def logits(params, ids):
    x_NE = params["embedding"][ids].mean(1)
    x_NH = jax.nn.relu(x_NE @ params["layers"][0]["w"] + params["layers"][0]["b"][None])
    # The words' own logits hardly matter: an array of which no more than a bit for each number is worth keeping.
    return params["scale"] * (x_NH @ params["head"]) + 0.1 * params["by_word"][ids].mean(1)


def loss(params, batch):
    log_p = jax.nn.log_softmax(logits(params, batch["ids"]))
    return -jnp.mean(jnp.take_along_axis(log_p, batch["labels"][:, None], axis=1))


def drawn(seed):
    """Parameters of a teacher, or of a student that has learnt nothing."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) * (2 / shape[0]) ** 0.5, jnp.float32)

    return {
        "by_word": normal(WORDS, CLASSES) * WORDS**0.5,
        "embedding": normal(WORDS, WIDTH) * WORDS**0.5,
        "layers": [{"w": normal(WIDTH, HIDDEN), "b": jnp.asarray(0.1 * rng.normal(size=HIDDEN), jnp.float32)}],
        "head": normal(HIDDEN, CLASSES),
        "scale": jnp.float32(1.0),
    }


def examples(seed, n):
    """Fresh ones: words are of Zipf's frequencies, labels are drawn from the teacher's predictions."""
    rng = np.random.default_rng(seed)
    odds = 1 / np.arange(1, WORDS + 1)
    ids = rng.choice(WORDS, size=(n, LENGTH), p=odds / odds.sum())
    return {"ids": ids, "labels": (logits(drawn(0), ids) + rng.gumbel(size=(n, CLASSES))).argmax(-1)}


def batches(seed, count, size=512):
    made = examples(seed, count * size)
    return [{name: array[i * size : (i + 1) * size] for name, array in made.items()} for i in range(count)]


@pytest.fixture(scope="module")
def params():
    """The student after 500 steps: near the teacher's loss, as it never sees an example twice."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 500))

    @jax.jit
    def train(params, data):
        def step(carry, batch):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), data)[0][0]

    data = {name: jnp.asarray(x.reshape(500, 256, *x.shape[1:])) for name, x in examples(1, 500 * 256).items()}
    return train(drawn(2), data)


@pytest.fixture(scope="module")
def calibration():
    return batches(3, 24)


@pytest.fixture(scope="module")
def found(params, calibration):
    """`found(budget)`, each computed once."""
    return functools.cache(functools.partial(compress, params, loss, calibration))


def rises(params, compressed, data):
    of = jax.jit(loss)
    decoded = decode(compressed)
    return np.array([float(of(decoded, batch)) - float(of(params, batch)) for batch in data])


def n_parameters(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_student_has_learnt_something(params):
    (batch,) = batches(4, 1, 4096)
    of = jax.jit(loss)
    assert of(params, batch) < 0.8 * of(drawn(2), batch)
    assert of(params, batch) < of(drawn(0), batch) + 0.1  # the teacher's loss is the least there is


@pytest.mark.parametrize("budget", ["bytes<=2000", "ratio>=6"])
def test_the_file_keeps_a_budget_of_bytes_and_uses_it_up(tmp_path, params, found, budget):
    result = found(budget)
    most = 2000 if budget.startswith("bytes") else 4 * n_parameters(params) / 6
    size = save(tmp_path / "x", result.params)
    assert size == result.size
    # Settings are apart by an eighth of a bit for each parameter, 38 bytes.
    assert most - 2 * 38 - 20 < (tmp_path / "x").stat().st_size <= most
    assert result.ratio == pytest.approx(4 * n_parameters(params) / size.total)
    assert result.bits_per_parameter == pytest.approx(8 * size.total / n_parameters(params))
    loaded, _ = load(tmp_path / "x")
    chex.assert_trees_all_equal(decode(loaded), decode(result.params))


def test_metadata_is_part_of_the_bytes_and_progress_is_told(tmp_path, params, calibration):
    metadata, told = {"note": np.random.default_rng(0).bytes(150).hex()}, []
    result = compress(params, loss, calibration[:8], "bytes<=2500", metadata=metadata, log=told.append)
    assert 2400 < result.size.total <= 2500
    assert save(tmp_path / "x", result.params, metadata) == result.size
    assert save(tmp_path / "x", result.params).total < 2500 - 150
    assert len(told) == len(result.groups) + 1 and all("bits" in line for line in told[:-1])
    # Measured shares are taken where they are the better ones.
    assert float(told[-1].split()[3]) < 1 and len(set(result.settings.values())) > 1


@pytest.mark.parametrize("budget", ["ratio>=1", "bytes<=100000"])
def test_an_ample_budget_costs_next_to_nothing(params, calibration, budget):
    told = []
    result = compress(params, loss, calibration[:4], budget, log=told.append)
    # Of the largest elements of an array the widest codes there are keep 14 bits.
    assert abs(result.rise.estimate) < 1e-4
    # Where nothing is to be won by measured shares, all have the same.
    assert float(told[-1].split()[3]) >= 1 and len(set(result.settings.values())) == 1


def test_a_budget_of_loss_is_kept_on_fresh_examples_and_used_up(params, found):
    result = found("loss<=0.02")
    assert _safe(result.rise) <= 0.02
    fresh = rises(params, result.params, batches(5, 60))
    half = scipy.stats.t.ppf(0.975, 59) * fresh.std(ddof=1) / 60**0.5
    assert fresh.mean() + half <= 0.02
    # A part of the limit is room for chance, and neighbouring settings differ by chance: most of the rest is spent.
    assert fresh.mean() > 0.3 * 0.02
    assert result.size.total < found("bytes<=2000").size.total


def test_every_floating_point_array_is_compressed(params, found):
    result = found("bytes<=2000")
    assert float_leaves(result.params) == {}
    compressed = named_leaves(result.params)
    assert compressed.keys() == named_leaves(params).keys() == result.stats.keys()
    assert all(is_compressed(leaf) for leaf in compressed.values())
    for name, leaf in named_leaves(params).items():
        assert compressed[name].shape == leaf.shape
        assert not np.array_equal(compressed[name].decode(), leaf)


def test_what_is_measured_is_the_rise_on_the_batches_that_rounding_has_not_seen(params, found, calibration):
    result = found("bytes<=2000")
    measured = rises(params, result.params, calibration[1::2])
    assert result.rise.estimate == pytest.approx(measured.mean(), abs=1e-6)
    # 2.2009852 is the 97.5 % quantile of Student's t with 11 degrees of freedom, from a table.
    half = 2.2009852 * measured.std(ddof=1) / 12**0.5
    assert result.rise.ci95 == pytest.approx((measured.mean() - half, measured.mean() + half), rel=1e-3)
    assert _safe(Estimate(1.0, (0.75, 1.25))) == 1.5
    wanted = calibrate(loss, params, calibration[::2])
    for name, moments in result.stats.items():
        chex.assert_trees_all_equal((moments.rows, moments.columns), (wanted[name].rows, wanted[name].columns))


def test_small_arrays_are_tried_together_and_the_transform_gives_the_tree_again(params, found):
    result = found("bytes<=2000")
    # The scale is less than a 256th of the parameters, and the only such array.
    large = ("by_word", "embedding", "head", "layers.0.b", "layers.0.w")
    assert result.groups == {**{name: [name] for name in large}, "small arrays": ["scale"]}
    assert result.settings.keys() == result.table.keys() == result.groups.keys()
    chex.assert_trees_all_equal(result.transform()(params, result.stats), result.params)
    coarser = result.transform(16.0)(params, result.stats)
    assert code_bits(coarser) < code_bits(result.params) - n_parameters(params)


def test_the_result_is_the_same_every_time_and_with_a_quicker_loss(params, found, calibration):
    shapes = set()

    def quicker(params, batch):
        shapes.add(batch["ids"].shape)
        return loss(params, batch)

    first = found("ratio>=6")
    again = compress(params, loss, calibration, "ratio>=6", measure=quicker)
    chex.assert_trees_all_equal(again.params, first.params)
    assert (again.size, again.rise, again.settings) == (first.size, first.rise, first.settings)
    assert shapes == {(512, LENGTH)}  # it saw whole batches, and no single examples


@pytest.mark.parametrize("budget", ["bytes<=100", "ratio>=1000", "loss<=1e-9"])
def test_a_budget_that_cannot_be_kept_is_refused(params, calibration, budget):
    with pytest.raises(ValueError, match="cannot be kept"):
        compress(params, loss, calibration[:4], budget)


def test_what_is_no_budget_and_too_few_batches_are_refused(params, calibration):
    with pytest.raises(ValueError, match="cannot be read"):
        compress(params, loss, calibration, "small")
    with pytest.raises(ValueError, match=r"3 batches .* at least 4"):
        compress(params, loss, calibration[:3], "ratio>=6")


def curvature(params, decoded, data):
    """Half the rise for the error and its negative: what is first-order in it is chance."""
    mirrored = jax.tree.map(lambda w, d: 2 * w - d, params, decoded)
    return float((rises(params, decoded, data) + rises(params, mirrored, data)).mean() / 2)


def test_the_allocation_beats_equal_bits_at_equal_bytes(params, calibration):
    stats, data = calibrate(loss, params, calibration[::2]), calibration[1::2]
    leaves = named_leaves(params)
    sizes = {name: int(leaf.size) for name, leaf in leaves.items()}
    groups = {name: [name] for name in leaves}
    table = {name: [] for name in leaves}
    for name, rise in itertools.product(leaves, 1e-5 * 2.0 ** np.arange(-5, 1)):
        one = balanced(rise)({name: leaves[name]}, stats)
        alone = map_named(lambda other, leaf, one=one: decode(one).get(other, leaf), params)
        table[name].append(Trial(rise, code_bits(one), curvature(params, alone, data)))

    def measured(chosen):
        settings = {name: trial.setting for name, trial in chosen.items()}
        tree = allocated(groups, settings)(params, stats)
        return code_bits(tree), curvature(params, decode(tree), batches(6, 40))

    equal = allocation.uniform(table, 2.5 * sum(sizes.values()), sizes)
    shared_out = allocation.allocate(table, sum(trial.bits for trial in equal.values()))
    (bits, rise), (equal_bits, equal_rise) = measured(shared_out), measured(equal)
    assert shared_out != equal
    assert bits <= equal_bits
    assert rise < 0.9 * equal_rise


def test_a_table_that_misleads_is_not_followed(params, calibration):
    stats, start, told = calibrate(loss, params, calibration[:1]), 1e-6, []
    searches = [
        _Search(params, stats, _Losses(function, params, calibration[:2]), None, told.append)
        for function in (loss, lambda params, batch: jnp.float32(1.0))
    ]
    # By it the embedding is as good with steps a hundred times as coarse, and the others have use for its bits.
    table = {name: [Trial(start, 100.0, 1.0), Trial(start / 4, 110.0, 0.5)] for name in searches[0].groups}
    table["embedding"] = [Trial(start, 100.0, 1.0), Trial(1e4 * start, 10.0, 1.0)]
    bits = 100.0 * len(table)
    assert allocation.allocate(table, bits)["embedding"].setting == 1e4 * start
    for search in searches:
        assert search.shares(table, start) == dict.fromkeys(table, start)
    # Of a loss that nothing changes, nothing can be said.
    assert float(told[0].split()[3]) > 1 and told[1].split()[3] == "inf"


def test_bits_of_codes_are_their_entropy_given_their_classes():
    codes = np.zeros((32, 40), int)
    codes[16:] = np.random.default_rng(0).integers(0, 16, (16, 40))
    tree = {"a": [quantized(codes, [np.zeros((1, 1))], 4, 0)], "b": jnp.ones(3)}
    # Rows of zeros are a class and take nothing; the others, of the same spread, are one to three classes.
    assert code_bits(tree) == pytest.approx(entropy_bits(codes[16:]), rel=0.05)
    assert code_bits(tree) < 0.9 * entropy_bits(codes)
