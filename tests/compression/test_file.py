"""A file gives back what was saved bit for bit, or says that it is damaged; and its size is all accounted for."""

import collections
import dataclasses
import errno
import json
import os
import tracemalloc
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.binary import binary
from ryot_jax.compression.compressed import Bits, Compressed, register
from ryot_jax.compression.file import MAGIC, FileError, load, save, to_bytes
from ryot_jax.compression.lowrank import lowrank
from ryot_jax.compression.nested import Nested, matryoshka, prefix
from ryot_jax.compression.quantize import quantize
from ryot_jax.compression.quantized import narrowed, quantized
from ryot_jax.compression.sparse import prune
from ryot_jax.compression.transforms import chain, residual

METADATA = {"model": {"width": 16, "names": ["a", "ü"]}, "step": 7, "loss": 1.25, "none": None}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def levels(shape, spread=3.0, seed=0):
    return np.round(np.random.default_rng(seed).normal(scale=spread, size=shape)).astype(int)


def even(shape, seed=0, spread=3.0):
    """As `balanced` makes them: 16-bit codes in as few bits as hold them, scales of rows and of columns."""
    rng = np.random.default_rng(seed)
    sides = [(*shape[:-1], 1), (*[1] * (len(shape) - 1), shape[-1])] if len(shape) > 1 else [shape]
    return narrowed(levels(shape, spread, seed) + 2**15, [2 * rng.integers(-40, -20, side) for side in sides], 2**15)


def nested(seed=0):
    return matryoshka((2, 4))({"w": normal(12, 10, seed=seed)})["w"]


@pytest.fixture(scope="module")
def tree() -> Any:
    w = normal(12, 10)
    return {
        "embedding": even((30, 25)),
        "layers": [
            {"w": quantize(3, group=4)({"w": w})["w"], "b": even((10,)), "scale": even(()), "absent": None},
            (nested(), even((3, 5, 7)), [], {}),
        ],
        "others": {
            "pruned": prune(n=2, m=4)({"w": normal(8, 12)})["w"],
            "low rank": chain(lowrank(2), quantize(4))({"w": w})["w"],
            "binary": binary()({"w": w})["w"],
            "sum": residual(quantize(2), quantize(3))({"w": w})["w"],
        },
        "wide": quantized(np.array([[0, 65_535, 7]]), [np.array([[3]])], 16, 0),
        "plain": (
            normal(5, 3),
            np.asarray(normal(4)),
            normal(6).astype(jnp.bfloat16),
            normal(2, 2).astype(jnp.float16),
            jnp.arange(-3, 4, dtype=jnp.int8),
            jnp.asarray([True, False]),
            jnp.uint32(2**32 - 1),
            jnp.zeros((0, 3)),
            jnp.zeros(1000),
            jnp.asarray([jnp.nan, -jnp.inf, -0.0]),
        ),
    }


@pytest.fixture(scope="module")
def small() -> Any:
    """Of every way to keep an array in a file, one."""
    return {"codes": even((24, 3)), "nested": nested(), "plain": [normal(3), jnp.zeros(30), None]}


def files_of(folder):
    return [path.name for path in folder.iterdir()]


def assert_same(found, wanted):
    """Structure (with shapes, widths and offsets), dtypes and every bit."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_trees_of_all_kinds_come_back_bit_for_bit_with_their_metadata(tmp_path, tree):
    path = tmp_path / "model.ryot"
    save(path, tree, METADATA)
    found, metadata = load(path)
    assert_same(found, tree)
    assert metadata == METADATA
    assert files_of(tmp_path) == ["model.ryot"]


def test_a_path_may_be_text(tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("model.ryot", small)
    assert_same(load("model.ryot")[0], load(tmp_path / "model.ryot")[0])


@pytest.mark.parametrize("kind", ["an array", "codes", "nothing", "no entries"])
def test_the_tree_may_be_a_single_leaf_or_none(tmp_path, kind):
    tree = {"an array": normal(3), "codes": even((3, 4)), "nothing": None, "no entries": {}}[kind]
    save(tmp_path / "x", tree)
    found, metadata = load(tmp_path / "x")
    assert_same(found, tree)
    assert metadata == {}


def test_saving_again_gives_the_same_bytes(tmp_path, tree):
    content, size = to_bytes(tree, METADATA)
    path = tmp_path / "x"
    assert save(path, tree, METADATA) == size
    assert path.read_bytes() == content
    again, metadata = load(path)
    assert to_bytes(again, metadata)[0] == content


def test_the_sizes_add_up_to_the_size_on_disk(tmp_path, tree):
    size = save(tmp_path / "x", tree, METADATA)
    assert size.total == (tmp_path / "x").stat().st_size
    assert size.total == size.codes + size.side + size.plain + size.header
    assert min(size.codes, size.side, size.plain, size.header) > 0


def test_each_byte_is_put_down_to_what_it_is_for():
    codes, plain = even((40, 30)), normal(50)
    size = to_bytes({"codes": codes, "plain": plain})[1]
    assert size.plain == 4 * 50  # noise cannot be deflated
    assert to_bytes({"codes": codes, "plain": jnp.zeros(50)})[1].plain < 20
    more = to_bytes({"codes": codes, "plain": plain}, {"note": os.urandom(500).hex()})[1]
    assert more.header > size.header + 400  # hexadecimal digits are half noise
    assert (more.codes, more.side, more.plain) == (size.codes, size.side, size.plain)
    only = to_bytes({"plain": plain})[1]
    assert (only.codes, only.plain, only.code_entropy) == (0, 200, 0.0)


def test_the_entropies_are_those_of_the_codes():
    same, sorted_out = levels((64, 64)), levels((64, 64))
    sorted_out[:32] = 0
    one_bit = quantized(np.arange(800).reshape(20, 40) % 2, [np.array([[0]])], 1, 0.5)
    size = to_bytes([one_bit])[1]
    assert size.order0_entropy == pytest.approx(100.0) and size.code_entropy == pytest.approx(100.0)
    assert 100 <= size.codes <= 108
    for codes, gain in ((same, 1.02), (sorted_out, 0.8)):
        size = to_bytes([narrowed(codes, [np.zeros((1, 1))], 0)])[1]
        _, counts = np.unique(codes, return_counts=True)
        wanted = -np.sum(counts * np.log2(counts / counts.sum())) / 8
        assert size.order0_entropy == pytest.approx(wanted, rel=1e-12)
        # Classes tell the rows of zeros from the others.
        assert size.code_entropy < gain * size.order0_entropy


def test_a_file_of_matrices_is_hardly_larger_than_what_it_must_hold():
    rng = np.random.default_rng(0)
    codes = np.round(rng.normal(size=(256, 512)) * 2.0 ** rng.normal(1, 1, (256, 1)) * 2.0 ** rng.normal(0, 1, 512))
    exponents = [2 * np.round(rng.normal(-20, 3, side)) for side in ((256, 1), (1, 512))]
    size = to_bytes({"w": narrowed(codes.astype(int), exponents, 0), "b": even((512,))})[1]
    assert 1.0 <= size.overhead < 1.05
    assert size.codes < size.order0_entropy  # what classes save is more than coding costs


def boundary(path, stages):
    """The fewest bytes of the file that the first stages can be read from."""
    whole, part = path.read_bytes(), path.with_name("part")

    def loads(n):
        part.write_bytes(whole[:n])
        try:
            load(part, stages=stages)
        except FileError:
            return False
        return True

    low, high = 0, len(whole)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loads(middle) else (middle, high)
    assert not loads(high - 1) and loads(high)
    return high


def test_a_prefix_of_the_file_is_the_coarser_model(tmp_path, tree):
    path = tmp_path / "model.ryot"
    tree = {"deep": [{"w": Nested((*nested().stages, even((12, 10), seed=5)))}], **tree}
    save(path, tree, METADATA)
    sizes = []
    for stages in (1, 2, 3, 9):
        found, metadata = load(path, stages=stages)
        wanted = jax.tree.map(
            lambda x, n=stages: x.prefix(min(n, len(x.stages))) if isinstance(x, Nested) else x,
            tree,
            is_leaf=lambda x: isinstance(x, Nested),
        )
        assert_same(found, wanted)
        assert metadata == METADATA
        sizes.append(boundary(path, stages))
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3] == path.stat().st_size
    assert_same(load(path, stages=1)[0], prefix(tree, 1))
    # What follows the first stage is not looked at.
    content = path.read_bytes()
    path.write_bytes(content[: sizes[0]] + bytes(len(content) - sizes[0]))
    assert_same(load(path, stages=1)[0], prefix(tree, 1))
    with pytest.raises(FileError):
        load(path, stages=2)


def assert_damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(FileError):
        load(path)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, small):
    content, _ = to_bytes(small)
    for n in range(len(content)):
        assert_damaged(tmp_path / "x", content[:n])


def test_a_changed_byte_anywhere_is_noticed(tmp_path, small):
    content, _ = to_bytes(small)
    for i, byte in enumerate(content):
        assert_damaged(tmp_path / "x", content[:i] + bytes([byte ^ 0xFF]) + content[i + 1 :])


def test_a_changed_bit_is_noticed_or_does_no_harm(tmp_path, small):
    content, _ = to_bytes(small)
    path, harmless = tmp_path / "x", 0
    for i, byte in enumerate(content):
        path.write_bytes(content[:i] + bytes([byte ^ (1 << i % 8)]) + content[i + 1 :])
        try:
            found, _ = load(path)
        except FileError:
            continue
        # Deflated data end with up to seven bits that mean nothing.
        assert_same(found, small)
        harmless += 1
    assert harmless <= 1


@pytest.mark.parametrize("missing", [1, 20, 300])
def test_a_piece_that_is_missing_or_doubled_within_is_noticed(tmp_path, small, missing):
    content, _ = to_bytes(small)
    for at in range(8, len(content) - missing, 23):
        assert_damaged(tmp_path / "x", content[:at] + content[at + missing :])
        assert_damaged(tmp_path / "x", content[: at + missing] + content[at:])


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"RYOTCMP0" + bytes(50), MAGIC, b"PK\x03\x04" * 20])
def test_other_files_are_no_compressed_models(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(FileError, match="is no compressed model: it does not begin with RYOTCMP1"):
        load(path)


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_length_of_the_header_that_cannot_be_is_refused(tmp_path, small, length):
    content, _ = to_bytes(small)
    assert_damaged(tmp_path / "x", MAGIC + length.to_bytes(8, "little") + content[16:])


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b"null", b'{"lengths":[],"checksums":[],"tree":{}}'])
def test_a_header_that_says_something_else_is_refused(tmp_path, text):
    deflated = zlib.compress(text)
    assert_damaged(tmp_path / "x", MAGIC + len(deflated).to_bytes(8, "little") + deflated)


def forged(tree, payload, lengths=None):
    """A file whose checksums are right and whose header says what it likes."""
    distributions = zlib.compress(b"")
    header = {
        "tree": tree,
        "lengths": [[len(payload)]] if lengths is None else lengths,
        "checksums": [zlib.crc32(payload)],
        "distributions": [len(distributions), zlib.crc32(distributions)],
        "metadata": {},
    }
    text = zlib.compress(json.dumps(header).encode())
    return MAGIC + len(text).to_bytes(8, "little") + text + distributions + payload


def an_array(dtype, shape, deflated=1):
    return {"array": [dtype, shape, deflated]}


def test_a_forged_file_is_read_if_what_it_says_is_so(tmp_path):
    (tmp_path / "x").write_bytes(forged(an_array("float32", [2, 3]), zlib.compress(bytes(24))))
    assert_same(load(tmp_path / "x")[0], jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    "tree, said",
    [
        (an_array("float32", [2**20, 2**20]), "bytes of this machine's"),
        (an_array("float32", [2**62, 2**62]), "bytes of this machine's"),
        ({"dict": {"w": {"list": [an_array("uint8", [2**45])] * 2}}}, "bytes of this machine's"),
        ({"Quantized": [[2**20, 2**20], 4, 7.5, [1, 1], [[[2**20, 1], 0]]]}, "bytes of this machine's"),
        ({"Nested": [{"Quantized": [[4], 4, 7.5, [2**45, 1], [[[1], 0]]]}]}, "bytes of this machine's"),
        ({"Sum": [{}, {"base": {"Quantized": [[4], 4, 7.5, [1, 1], [[[2**45], 0]]]}}]}, "bytes of this machine's"),
        (an_array("float32", [-1]), "-1 is no size"),
        (an_array("float32", [-(2**40), -4]), "no size"),
        (an_array("float32", [2.5]), "2.5 is no size"),
        (an_array("float32", [True]), "True is no size"),
        (an_array("float32", [25]), "reshape|buffer"),
        (an_array("float32", [23]), "deflated data"),
        (an_array("float31", [24]), "float31"),
    ],
    ids=str,
)
def test_sizes_of_the_header_are_checked_before_memory_is_taken(tmp_path, tree, said):
    (tmp_path / "x").write_bytes(forged(tree, zlib.compress(bytes(4 * 24))))
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=said):
            load(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lengths", [[[2**40]], [[-1]], [[1.5]], [[2**70, -(2**70)]], [], 3])
def test_lengths_that_do_not_make_up_the_file_are_refused(tmp_path, lengths):
    assert_damaged(tmp_path / "x", forged(an_array("float32", [2]), zlib.compress(bytes(8)), lengths))


def test_deflated_data_that_are_more_than_they_should_be_are_not_all_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("ryot_jax.compression.header._MOST_BYTES", 2**16)
    zeros = zlib.compress(bytes(2**26))
    (tmp_path / "array").write_bytes(forged(an_array("float32", [4]), zeros))
    (tmp_path / "header").write_bytes(MAGIC + len(zeros).to_bytes(8, "little") + zeros)
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="at most 16 bytes"):
            load(tmp_path / "array")
        with pytest.raises(FileError, match="at most 65,536 bytes"):
            load(tmp_path / "header")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_that_has_no_end_of_lists_in_lists_is_refused(tmp_path):
    deep = zlib.compress(b"[" * 100_000 + b"]" * 100_000)
    assert_damaged(tmp_path / "x", MAGIC + len(deep).to_bytes(8, "little") + deep)


def test_a_kind_of_array_that_is_not_known_here_is_refused_by_name(tmp_path, small):
    content, _ = to_bytes(small)
    length = int.from_bytes(content[8:16], "little")
    header = zlib.decompress(content[16 : 16 + length])
    of_the_future = zlib.compress(header.replace(b'"Nested"', b'"Fractal"'))
    path = tmp_path / "x"
    path.write_bytes(MAGIC + len(of_the_future).to_bytes(8, "little") + of_the_future + content[16 + length :])
    with pytest.raises(FileError, match="Fractal"):
        load(path)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x")


def test_nothing_half_written_is_left_when_the_disk_is_full(tmp_path, small, monkeypatch):
    path = tmp_path / "model.ryot"
    save(path, small, {"step": 1})
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, small, {"step": 2})
    assert files_of(tmp_path) == ["model.ryot"]
    assert path.read_bytes() == before


def test_nothing_is_left_when_the_place_is_taken(tmp_path, small):
    (tmp_path / "model.ryot" / "within").mkdir(parents=True)
    with pytest.raises(OSError):
        save(tmp_path / "model.ryot", small)
    assert files_of(tmp_path) == ["model.ryot"]


Point = collections.namedtuple("Point", "x y")


@register
@dataclasses.dataclass(frozen=True)
class Unknown(Compressed):
    array: jax.Array

    shape = (3,)

    def decode(self, dtype: Any = jnp.float32) -> jax.Array:
        return self.array.astype(dtype)

    def bits(self) -> Bits:
        return Bits(96, 0)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        ("text", "not str"),
        (1.5, "not float"),
        (3, "not int"),
        ({1, 2}, "not set"),
        (Point(np.zeros(2, np.float32), np.zeros(2, np.float32)), "not Point"),
        (Unknown(np.zeros(3, np.float32)), "not Unknown"),
        ({1: np.zeros(2, np.float32)}, "are strings"),
        # Arrays that JAX would read back as others.
        (np.zeros(2), "float64"),
        (np.array([2**40]), "int64"),
        (np.array(["a"]), "<U1"),
        (np.array([object()]), "object"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_would_not_come_back_is_refused(tmp_path, node, named):
    with pytest.raises(ValueError, match=named):
        save(tmp_path / "x", {"fine": np.zeros(3, np.float32), "node": [node]})
    assert files_of(tmp_path) == []


def test_random_keys_and_metadata_that_is_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds arrays"):
        save(tmp_path / "x", jax.random.key(0))
    with pytest.raises(ValueError):
        save(tmp_path / "x", {}, {"loss": float("nan")})
    assert files_of(tmp_path) == []
