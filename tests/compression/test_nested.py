"""Every prefix of the stages is a model of its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.calibration import Moments
from ryot_jax.compression.compressed import is_compressed
from ryot_jax.compression.file import FileError, load, save, to_bytes
from ryot_jax.compression.lowrank import LowRank, lowrank
from ryot_jax.compression.nested import Nested, matryoshka, prefix
from ryot_jax.compression.quantize import best_clip, quantize
from ryot_jax.compression.transforms import chain

BITS = (2, 4, 8)
FEEDBACK = ["none", "rows", "columns", "both"]


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def stats(rows, columns, seed=3):
    gradients = np.random.default_rng(seed).normal(size=(64, rows, columns)) * np.linspace(0.3, 3, columns)
    return Moments(np.einsum("nrc,nsc->rs", gradients, gradients), np.einsum("nrc,nrd->cd", gradients, gradients))


def norm(x):
    return float(np.linalg.norm(np.asarray(x, np.float64)))


@pytest.fixture(scope="module", params=FEEDBACK)
def nested(request):
    """(the array, its nested codes, the transform's feedback)."""
    w = normal(24, 20)
    moments = {"w": stats(24, 20)}
    return w, matryoshka(BITS, feedback=request.param)({"w": w}, moments)["w"], request.param


def test_any_prefix_decodes_to_the_sum_of_its_stages(nested):
    _, compressed, _ = nested
    assert [stage.n_bits for stage in compressed.stages] == [2, 2, 4]
    for n in (1, 2, 3):
        total = compressed.stages[0].decode()
        for stage in compressed.stages[1:n]:
            total = total + stage.decode()
        part = compressed.prefix(n)
        assert len(part.stages) == n
        chex.assert_trees_all_equal(part.decode(), total)
        chex.assert_trees_all_equal(jax.jit(lambda c: c.decode())(part), total)
        chex.assert_trees_all_equal(part.take(jnp.asarray([3, 0])), total[jnp.asarray([3, 0])])
        assert part.bits().payload == BITS[n - 1] * 24 * 20


def test_the_first_stage_alone_is_the_plain_quantizer(nested):
    w, compressed, feedback = nested
    plain = quantize(BITS[0], clip=1.1 * best_clip(BITS[0]), feedback=feedback)({"w": w}, {"w": stats(24, 20)})["w"]
    chex.assert_trees_all_equal(compressed.stages[0], plain)
    chex.assert_trees_all_equal(compressed.prefix(1).decode(), plain.decode())


def test_later_stages_are_quantizers_of_what_is_left(nested):
    w, compressed, feedback = nested
    left = w - compressed.prefix(1).decode()
    refined = quantize(2, clip=2.2, feedback=feedback)({"w": left}, {"w": stats(24, 20)})["w"]
    chex.assert_trees_all_equal(compressed.stages[1], refined)


def test_the_error_falls_stage_by_stage(nested):
    w, compressed, _ = nested
    errors = [norm(compressed.prefix(n).decode() - w) for n in (1, 2, 3)]
    # Two bits more would make the error of an endless grid four times smaller, and four bits 16 times. But what a stage
    # cuts off those after it cannot always make up for, and feedback pays for a smaller rise with the plain error.
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    rises = [stats(24, 20).rise(np.asarray(compressed.prefix(n).decode() - w)) for n in (1, 2, 3)]
    assert rises[1] < 0.4 * rises[0]
    assert rises[2] < 0.4 * rises[1]


def test_prefix_of_a_tree_is_that_of_each_nested_array_and_of_no_other():
    params = {"a": normal(6, 8), "b": [normal(6, 8, seed=1)], "c": normal(4)}
    compressed = matryoshka(BITS)(params) | {"d": quantize(3)({"d": normal(6, 8)})["d"]}
    part = prefix(compressed, 2)
    chex.assert_trees_all_equal(part["a"], compressed["a"].prefix(2))
    chex.assert_trees_all_equal(part["b"][0], compressed["b"][0].prefix(2))
    chex.assert_trees_all_equal((part["c"], part["d"]), (compressed["c"], compressed["d"]))


@pytest.mark.parametrize("stages", [-1, 0, 4])
def test_a_prefix_that_there_is_not_is_refused(stages):
    compressed = matryoshka(BITS)({"w": normal(6, 8)})["w"]
    with pytest.raises(ValueError, match="1 to 3"):
        compressed.prefix(stages)


@pytest.mark.parametrize("bits", [(), (0,), (4, 4), (4, 2)], ids=str)
def test_widths_that_do_not_ascend_are_refused(bits):
    with pytest.raises(ValueError, match="ascend"):
        matryoshka(bits)


def test_a_stage_of_more_than_eight_bits_is_refused():
    with pytest.raises(ValueError, match="by 8 at most"):
        matryoshka((2, 11))


def test_one_stage_is_a_plain_quantizer():
    w = normal(6, 8)
    chex.assert_trees_all_equal(matryoshka((3,))({"w": w})["w"].stages[0], quantize(3)({"w": w})["w"])


def test_factors_may_be_nested():
    compressed = chain(lowrank(2), matryoshka((2, 4)))({"w": normal(12, 10), "b": normal(3)})
    assert isinstance(compressed["w"], LowRank)
    assert isinstance(compressed["w"].left, Nested)
    assert isinstance(compressed["w"].right, Nested)
    assert not is_compressed(compressed["b"])
    plain = lowrank(2)({"w": normal(12, 10)})["w"].decode()
    errors = [norm(part["w"].decode() - plain) for part in (prefix_within(compressed, 1), compressed)]
    assert errors[1] < 0.6 * errors[0]


def prefix_within(params, stages):
    return jax.tree.map(
        lambda x: x.prefix(stages) if isinstance(x, Nested) else x, params, is_leaf=lambda x: isinstance(x, Nested)
    )


def test_a_file_gives_the_same_bits_back_and_reads_no_more_than_it_is_asked_for(tmp_path):
    params = matryoshka(BITS)({"w": normal(20, 30), "deep": normal(3, 5, 16), "b": normal(7)})
    path = tmp_path / "model.ryot"
    size = save(path, params)
    content = path.read_bytes()
    assert (len(content), content) == (size.total, to_bytes(params)[0])
    loaded, _ = load(path)
    assert isinstance(loaded["w"], Nested)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, params)
    chex.assert_trees_all_equal(loaded, params)
    for stages in (1, 2, 3):
        part, _ = load(path, stages=stages)
        chex.assert_trees_all_equal(part, prefix(params, stages))
    # A file that ends early still is the coarser model.
    path.write_bytes(content[: -size.codes // 4])
    chex.assert_trees_all_equal(load(path, stages=1)[0], prefix(params, 1))
    with pytest.raises(FileError):
        load(path)
