"""`ryot import`: a run directory made of a Hugging Face GPT-2.

The run has a single arm, baseline, with one checkpoint, at step 0 with a fresh optimizer. Its held-out loss is not
known, so that the checkpoint is the latest but not the best. `imported.json` names the sources and marks the run as one
that cannot be resumed. Its config.json has defaults except in `model` and `tokenizer`.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open

from ryot_jax.config import get_default, to_json, total_steps, validate
from ryot_jax.data.tokenizer import JsonTokenizer, NoTokenizer, read, read_gpt2
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.machine.processor import describe_processor
from ryot_jax.model import functional, gpt2_layout
from ryot_jax.model.accounting import parameter_count
from ryot_jax.runs.session import Session, open_session
from ryot_jax.runtime import manifest
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_PASS, CheckpointError, ConfigError, DataError
from ryot_jax.runtime.files import display_path, write_json, write_text
from ryot_jax.runtime.run_directory import RunDirectory, create_run
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.state import new_state

_ARM = "baseline"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_TOKENIZER, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"


def make_run(source: Path, workdir: Path, name: str, allocator: AllocatorRecord, console: Console) -> int:
    """Makes the run directory atomically; returns 0.

    Args:
      source: the folder with the model.
      workdir: the folder to make the run directory in.
      name: name of the run.
      allocator: the allocator settings of this process.
      console: receives the model's size and the directory.

    Raises:
      CheckpointError: a file of the model or tokenizer is missing or damaged, or the model is not supported.
      ConfigError: the run directory cannot be made.
    """
    values = _read_config(source / _CONFIG)
    config = _config(gpt2_layout.model_fields(values), name, source)
    tokenizer = _read_tokenizer(source, values, config.model.vocab_size)
    session = open_session(config, console.line, cached_programs=False)
    model = session.model
    params = gpt2_layout.from_gpt2(model, _read_tensors(source / _WEIGHTS))
    directory = create_run(workdir, name)
    try:
        _write(directory, session, params, tokenizer, allocator)
        write_json(directory.imported, {"schema_version": 1, "sha256": _hashes(source)})
        # Written last, as a folder with a config counts as a run.
        write_text(directory.config, to_json(config))
    except BaseException:
        shutil.rmtree(directory.path, ignore_errors=True)
        raise
    ids = "no tokenizer" if tokenizer is None else f"a tokenizer of {tokenizer.vocab_size:,} ids"
    console.line(f"imported a GPT-2 of {parameter_count(model):,} parameters and {ids}")
    console.line(f"run {directory.path}")
    if tokenizer is not None:
        console.line(f"next: ryot generate --run={display_path(directory.path)} --prompt='def '")
    return EXIT_PASS


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; --from names its folder") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}; fetch it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, not an object; fetch it again")
    return values


def _config(model_fields: Mapping[str, Any], name: str, source: Path) -> ConfigDict:
    """The config of the run, without the path of its tokenizer."""
    config = get_default()
    config.name = name
    config.model.update(model_fields)
    config.tokenizer.update(kind="file", path=_TOKENIZER)
    config.training.seq_len = min(config.training.seq_len, config.model.max_len)
    config.comparison.arms = (_ARM,)
    try:
        validate(config)
    except ConfigError as error:
        raise CheckpointError(f"{source / _CONFIG} is of a model that ours cannot be: {error}") from error
    return config


def _read_tokenizer(source: Path, values: Mapping[str, Any], vocab_size: int) -> JsonTokenizer | None:
    end = values.get("eos_token_id")
    end = end if type(end) is int and end >= 0 else None
    try:
        if (source / _TOKENIZER).is_file():
            tokenizer = read(source / _TOKENIZER, end)
        elif (source / _VOCABULARY).is_file():
            tokenizer = read_gpt2(source / _VOCABULARY, source / _MERGES, end)
        else:
            return None
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size} (vocab_size in "
            f"{_CONFIG}); put the tokenizer there that the model was trained with"
        )
    return tokenizer


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there; write the model as one such file: "
            "model.save_pretrained(DIR, safe_serialization=True, max_shard_size='1TB')"
        )
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch it again") from error
    except (AttributeError, TypeError) as error:  # raised by safetensors for an unknown dtype
        raise CheckpointError(f"{path} has arrays of a dtype that is not read ({error}); save it as float32") from error


def _write(
    directory: RunDirectory,
    session: Session,
    params: functional.Params,
    tokenizer: JsonTokenizer | None,
    allocator: AllocatorRecord,
) -> None:
    config = session.config
    config.tokenizer.path = str(directory.tokenizer)
    made = NoTokenizer(config.model.vocab_size) if tokenizer is None else tokenizer
    if tokenizer is not None:
        write_text(directory.tokenizer, tokenizer.to_json())
    write_json(
        directory.manifest,
        manifest.collect(
            config_json=to_json(config),
            devices=session.devices,
            processor=describe_processor(),
            allocator=allocator,
            data_hash="none",
            tokenizer_hash=made.hash,
            end_of_document=made.eod,
            kernel_plans={},
            kernel_reasons={},
        ),
    )
    optimizer = make_optimizer(config.training, total_steps(config))
    with contextlib.closing(Checkpoints(directory.checkpoints / _ARM)) as checkpoints:
        checkpoints.save(0, new_state(params, optimizer, config.seed), {}, math.inf, to_json(config), arm=_ARM)


def _hashes(source: Path) -> dict[str, str]:
    """Sha256 (hex) of each file of the model and tokenizer that exists in the folder."""
    hashes = {}
    for name in (_CONFIG, _WEIGHTS, _TOKENIZER, _VOCABULARY, _MERGES):
        if (source / name).is_file():
            with (source / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
