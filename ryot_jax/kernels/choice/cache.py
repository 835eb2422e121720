"""On-disk cache of tuning measurements: one JSON file for each op and kind of work.

    <root>/kernels/v2/<sha256 of the key>.json

The key holds everything that the times depend on; a file with another key is rejected. A defective cache never stops
a run: the defect is logged, and the static order decides. The measurements themselves are left to `tuning`.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Spec
from ryot_jax.kernels.resolution import Choice
from ryot_jax.machine.processor import cpu_flags
from ryot_jax.runtime.files import write_json

VERSION = 2  # of the files: raise it when their meaning changes
_FOLDER = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Entry:
    """The content of a file: the measured choice for one op.

    Attributes:
      winner: the implementation to use.
      summary: the reason, in one phrase.
      trials: the measurements of every implementation, as JSON values.
      step: the measurements of the whole training steps that confirmed the winner.
      date: date of the measurement, as YYYY-MM-DD.
      plan: the implementation of each optimization, of an entry that is about all of them; else empty.
      workers: the number of threads that a call of the C++ kernels takes, of such an entry; 0: all.
    """

    winner: str
    summary: str
    trials: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"))
    plan: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workers: int = 0


class TuningCache:
    """Entries below the folder `root` (None: in memory only); defects of the cache are reported to `log`."""

    def __init__(self, root: Path | None, log: Callable[[str], None]):
        self._folder = None if root is None else root / "kernels" / f"v{VERSION}"
        self._log = log
        self._entries: dict[str, Entry] = {}  # stored or read by this process
        self._refused: set[str] = set()  # files that it told of

    def lookup(self, op: str, spec: Spec) -> Choice | None:
        """The implementation measured to be fastest for this work on this machine, or None; a `resolution.Lookup`."""
        entry = self.read(op, spec)
        return None if entry is None else Choice(entry.winner, f"measured: {entry.summary}, {entry.date}")

    def read(self, op: str, spec: Spec) -> Entry | None:
        """The entry for this work, or None."""
        wanted = key(op, spec)
        name = _name(wanted)
        if name in self._entries or self._folder is None:
            return self._entries.get(name)
        path = self._folder / name
        try:
            self._entries[name] = _parse(path.read_text(encoding="utf-8"), wanted)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if name not in self._refused:
                self._log(f"tuned kernels: {path} is not used for {op}: {error}; `ryot tune` writes it anew")
            self._refused.add(name)
            return None
        return self._entries[name]

    def store(self, op: str, spec: Spec, entry: Entry) -> None:
        """Store an entry in memory, and on disk if the folder is writable."""
        wanted = key(op, spec)
        name = _name(wanted)
        self._entries[name] = entry
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / name, {"version": VERSION, "key": wanted, **dataclasses.asdict(entry)})
        except OSError as error:
            reason = error.strerror or error
            self._log(f"tuned kernels: {self._folder} cannot be written ({reason}); they hold for this process only")


def key(op: str, spec: Spec) -> dict[str, Any]:
    """The cache key, a JSON value: everything that the times of an op's implementations depend on."""
    device = jax.local_devices(backend=spec.platform)[0]
    machine = {"device": device.device_kind, "runtime": device.client.platform_version}
    if spec.platform == "cpu":
        machine["flags"] = hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest()
        # What RYOT_CPU_ISA may have capped.
        machine["kernels"] = [cpu.instruction_set(dtype) for dtype in ("float32", "bfloat16")]
        machine["threads"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "op": op,
        "mode": "forward and backward",
        "work": dataclasses.asdict(spec),
        "machine": machine,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "source": _source_hash(),
    }


@functools.cache
def _source_hash() -> str:
    """Digest of the code of all implementations: a change to any of them invalidates every entry."""
    digest = hashlib.sha256()
    for path in sorted([*_FOLDER.rglob("*.py"), *(_FOLDER / "cpu").glob("_kernels*.so")]):
        digest.update(str(path.relative_to(_FOLDER)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _name(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".json"


def _parse(text: str, wanted: Mapping[str, Any]) -> Entry:
    tree = json.loads(text)
    if not isinstance(tree, dict) or tree.pop("version", None) != VERSION:
        raise ValueError("it is no file of this version")
    if tree.pop("key", None) != wanted:
        raise ValueError("it is of other work or another machine")
    fields = {field.name: field.type for field in dataclasses.fields(Entry)}
    texts = ("winner", "summary", "date")
    if (
        set(tree) != set(fields)
        or not all(isinstance(tree[name], str) for name in texts)
        or not isinstance(tree["plan"], dict)
        or not all(isinstance(value, str) for value in tree["plan"].values())
        or type(tree["workers"]) is not int
    ):
        raise ValueError("fields are missing or of another type")
    return Entry(**tree)
