"""Facts about a compiled XLA program, read from its HLO text: arrays, dots, loops and custom calls.

It reads the text of `Compiled.as_text()` alone; probes (see `kernels.declaration`) decide what it proves.
"""

import dataclasses
import hashlib
import math
import re

_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY\s+)?%?([\w.\-]+)\s*\(.*->.*\{\s*$")
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
_CALLED = re.compile(r"\bcalls=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_KERNEL = re.compile(r'op_name="[^"]*\b(ryot_\w+)')
_METADATA = re.compile(r",?\s*(?:metadata=\{[^{}]*\}|frontend_attributes=\{[^{}]*\})")
_NAME = re.compile(r"%[\w.\-]+")
# Opcodes that pass on an array without allocating one.
_NO_NEW_ARRAY = frozenset(["parameter", "get-tuple-element", "tuple", "bitcast", "while", "call", "conditional"])
_NO_WORK = _NO_NEW_ARRAY | {"constant", "after-all", "copy-done", "async-done"}
_RUNNING = ("while", "call", "conditional")  # opcodes whose named computations run in their place
_INNER = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array: element type (such as `f32`) and dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements of the array."""
        return math.prod(self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop: its number of iterations (None: not known to the compiler) and the arrays that it carries."""

    turns: int | None
    carried: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """The parts of a compiled program that probes read.

    Attributes:
      arrays: every array allocated in memory: the results of instructions outside of fusions, once per instruction.
        Arrays that exist only inside a fusion are absent.
      dots: operand types of every matrix product, including those inside fusions and library calls.
      custom_calls: target name of every custom call; for Pallas kernels, which share a target, followed by a colon and
        the name of the kernel.
      fingerprint: sha256 of the program without names and source positions.
      operations: opcode and result of every instruction with one result, including those inside fusions.
      loops: every while loop. The fields above count the body of a loop once, whatever its number of iterations.
    """

    arrays: tuple[Array, ...]
    dots: tuple[tuple[Array, Array], ...]
    custom_calls: tuple[str, ...]
    fingerprint: str
    operations: tuple[tuple[str, Array], ...] = ()
    loops: tuple[Loop, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Instruction:
    computation: str
    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str


def parse(text: str) -> Program:
    """Parses the HLO text of a compiled program.

    Raises:
      ValueError: the text has no instruction, and so is not HLO.
    """
    instructions = _instructions(text)
    if not instructions:
        raise ValueError(f"no HLO instruction found in a text of {len(text)} characters: {text[:80]!r}")
    fused = {called for i in instructions if i.opcode == "fusion" for called in _CALLED.findall(i.attributes)}
    types = {(i.computation, i.name): i.result for i in instructions}
    arrays: list[Array] = []
    dots: list[tuple[Array, Array]] = []
    targets: list[str] = []
    for i in instructions:
        if i.computation not in fused and i.opcode not in _NO_NEW_ARRAY:
            arrays.extend(i.result)
        target = next(iter(_TARGET.findall(i.attributes)), "") if i.opcode == "custom-call" else ""
        if target:
            kernel = next(iter(_KERNEL.findall(i.attributes)), "")
            targets.append(target if not kernel or kernel in target else f"{target}:{kernel}")
        if i.opcode == "dot" or re.search("gemm|matmul", target):
            operands = [types.get((i.computation, name), ()) for name in i.operands[:2]]
            if len(operands) == 2 and all(len(o) == 1 for o in operands):
                dots.append((operands[0][0], operands[1][0]))
    operations = tuple((i.opcode, i.result[0]) for i in instructions if len(i.result) == 1)
    loops = tuple(Loop(_turns(i.attributes), i.result) for i in instructions if i.opcode == "while")
    return Program(tuple(arrays), tuple(dots), tuple(targets), _fingerprint(text), operations, loops)


def launches(text: str) -> int:
    """Number of instructions outside of fusions that do work, about the kernel and library calls of one execution.

    The body of a loop counts once, whatever its number of iterations.
    """
    instructions = _instructions(text)
    inside = {called for i in instructions if i.opcode not in _RUNNING for called in _INNER.findall(i.attributes)}
    return sum(i.computation not in inside and i.opcode not in _NO_WORK for i in instructions)


def _turns(attributes: str) -> int | None:
    known = _TURNS.search(attributes)
    return int(known[1]) if known else None


def _instructions(text: str) -> list[_Instruction]:
    found = []
    computation = None
    for line in text.splitlines():
        if computation is None:
            header = _COMPUTATION.match(line)
            computation = header[1] if header else None
        elif line.startswith("}"):
            computation = None
        elif match := _INSTRUCTION.match(line):
            opcode = _OPCODE.search(" " + match[2])
            if opcode is None:
                continue
            body = " " + match[2]
            end = _closing(body, opcode.end() - 1)
            found.append(
                _Instruction(
                    computation=computation,
                    name=match[1],
                    opcode=opcode[1],
                    result=_arrays(body[: opcode.start()]),
                    operands=tuple(name[1:] for name in _NAME.findall(body[opcode.end() : end])),
                    attributes=body[end:],
                )
            )
    return found


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(Array(dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims in _ARRAY.findall(text))


def _closing(text: str, start: int) -> int:
    """Position of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _fingerprint(text: str) -> str:
    """Sha256 of the computation: names are numbered by first use, source positions dropped."""
    numbers: dict[str, str] = {}
    digest = hashlib.sha256()
    inside = False
    for line in text.splitlines():
        inside = inside or bool(_COMPUTATION.match(line))
        if inside:
            plain = _METADATA.sub("", line)
            plain = _NAME.sub(lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), plain)
            # Parameter names in a computation's header come without the percent sign.
            plain = re.sub(r"[\w.\-]+: ", "", plain) if _COMPUTATION.match(line) else plain
            digest.update(plain.strip().encode())
            digest.update(b"\n")
        inside = inside and not line.startswith("}")
    return digest.hexdigest()
