"""The config tree: defaults, loading of files and overrides, and an exact JSON form.

`rules` checks the values.
"""

import json
import runpy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ryot_jax.config.rules import validate
from ryot_jax.optimizations import OPTIMIZATIONS
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.suggestions import did_you_mean

__all__ = ["differences", "fields", "from_json", "get_default", "load", "to_json", "validate"]


def get_default() -> ConfigDict:
    """The complete config with every field at its default, which is the scaled run; locked against unknown fields."""
    # Long because it is data: the single table of all fields, read from top to bottom.
    config = ConfigDict(
        {
            "name": "scaled",
            "seed": 0,
            "data": {
                "source": "stdlib",  # stdlib | text | tokens | hf:NAME
                "path": "",
                "heldout_path": "",
                "field": "text",  # of a JSONL line or a Hugging Face example
                "heldout_fraction": 0.1,
                "cache_dir": "",  # '': $XDG_CACHE_HOME/ryot_jax, else ~/.cache/ryot_jax
                "max_documents": 0,  # 0: all
                "hf_split": "train",
                "hf_config": "",
            },
            "tokenizer": {"kind": "bpe", "path": ""},  # bpe | byte | file
            "model": {
                "vocab_size": 2048,
                "d_model": 128,
                "n_layers": 4,
                "n_heads": 4,
                "d_ff": 512,
                "max_len": 128,
                "positions": "learned",  # learned | sinusoidal | rotary
                "norm": "layer",  # layer | rms
                "mlp": "gelu",  # gelu | swiglu | relu2
                "tie_embeddings": True,
                "dropout": 0.0,
                "compute_dtype": "auto",  # auto | float32 | bfloat16 | float16
                "scan_layers": False,
                "remat": False,
            },
            "training": {
                "epochs": 8,
                "steps_per_epoch": 100,
                "batch_size": 32,  # sequences per step, over all devices and accumulation parts
                "seq_len": 128,
                "accumulation": 1,
                "optimizer": "adamw",  # adamw | muon | lion | schedule_free
                "learning_rate": 3e-3,
                "b1": 0.9,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,  # of the global gradient norm; 0: no clipping
                "warmup_steps": 50,
                "schedule": "cosine",  # cosine | linear | constant
                "parallelism": "jit",  # jit | shard_map | pmap
            },
            "evaluation": {"sequences": 512, "batch_size": 32},
            "checkpoint": {"enabled": True, "keep_latest": 2, "keep_best": 1},
            # off | auto | the name of an implementation; auto is what was measured to be fastest (see runtime.tune),
            # else the first in a fixed order that this machine supports.
            "optimizations": {optimization.name: "auto" for optimization in OPTIMIZATIONS},
            "comparison": {
                "arms": ("baseline", "optimized"),
                "block_steps": 20,  # of each arm, in two visits: A B B A
                "pairs": 1,  # training pairs, each of its own seed; 8 for a full study
                "processes": 1,  # in which block pairs are timed; each beyond the first compiles everything again
                "controls": True,  # placebo, known delay and shuffled targets, after two arms have been trained
                "control_blocks": 16,
                "control_steps": 20,  # in a block of the placebo and of the known delay
                "control_seconds": 60.0,  # of these two: where steps are slow, blocks are fewer (8) and shorter (10)
                "beat": "bigram",  # unigram | bigram: the entropy that the final held-out loss must beat
                "loss_margin": 0.1,  # nats
                "tight_loss_margin": 0.02,
            },
            "compression": {
                "enabled": True,  # of the last arm's best checkpoint, once both arms are trained
                "budget": "perplexity<=1%",  # or ratio>=8, bytes<=500000, loss<=0.01 (nats)
                "calibration_sequences": 2048,  # of the training text; half fit the codes, half measure
                "pareto": True,  # simpler methods beside it, for the report
                "qat_bits": 4,  # of the weights that the loss sees with optimizations.qat = 'round', 2 to 8
                "qat_fraction": 0.12,  # of the steps, the last ones; checkpoints hold the float weights throughout
            },
            "scaling": {
                # Trained after both arms with the optimized arm's kernels, towards the baseline's final loss: by a step
                # schedule, by a recipe, and by both. '': none.
                "enabled": True,
                "schedule": "31.25% of B x T/4 depth L/4, 12.5% of B/2 x T/2 depth L/2, 17.5% of B x T",
                "recipe": "muon, rotary",
                "recipe_learning_rate": 0.02,
                "recipe_schedule": "23% of B x T",
                "both_schedule": "12.5% of B x T/2 depth L/4, 7.5% of B x T",
            },
            "decoding": {"enabled": True},  # measured with the last arm's best checkpoint, once both arms are trained
            "metrics": {"tensorboard": False, "every_steps": 10},
            "runtime": {
                "allocator": True,
                "check_programs": True,
                "compilation_cache": True,
                # Measurement for 'auto' before the first step: race (of whole steps, in 15 s at most, where these sizes
                # are not known on this machine yet) | ops (all of `ryot tune`) | off
                "tune": "race",
            },
        }
    )
    return config.lock()


def fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every leaf of the tree as `(dotted path, value)`."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from ((f"{key}.{path}", leaf) for path, leaf in fields(value))
        else:
            yield key, value


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """The fields that differ between two complete configs: dotted path -> (old value, new value)."""
    before, after = dict(fields(old)), dict(fields(new))
    return {path: (before[path], after[path]) for path in before if before[path] != after[path]}


def to_json(config: ConfigDict) -> str:
    """The config as JSON text with sorted keys; `from_json` restores the same values and types.

    Raises:
      ConfigError: a value is not finite.
    """
    try:
        return json.dumps(config.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"
    except ValueError as error:
        raise ConfigError(f"the config holds a value that is not finite: {error}") from error


def from_json(text: str, source: str = "JSON config") -> ConfigDict:
    """Reads a config from JSON text without executing anything; absent fields keep their defaults.

    Args:
      text: a JSON object, as `to_json` writes it.
      source: the name of the text in error messages, such as its file name.

    Raises:
      ConfigError: the text is not JSON, has an unknown field, or a value of the wrong type.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not JSON: {error}") from error
    return _conform(_with_fields_of_today(tree), source)


def _with_fields_of_today(tree: Any) -> Any:
    """A config of an earlier version, as runs keep it: `runtime.tune` was a bool named `tune_kernels`."""
    runtime = tree.get("runtime") if isinstance(tree, Mapping) else None
    if isinstance(runtime, Mapping) and isinstance(runtime.get("tune_kernels"), bool) and "tune" not in runtime:
        kept = {name: value for name, value in runtime.items() if name != "tune_kernels"}
        return {**tree, "runtime": {**kept, "tune": "ops" if runtime["tune_kernels"] else "off"}}
    return tree


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads a config, applies overrides and validates it; the result is locked.

    Args:
      path: a Python file with a function `get_config()`, which is executed, or a JSON file, which is only read.
      overrides: command-line words such as `--config.training.epochs=2`; absl and ml_collections convert the values
        to the type of the field.

    Raises:
      ConfigError: the file is missing or broken, a field is unknown, or a value has the wrong type or breaks a rule.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--config={path}: no such file{_nearby_files(file)}")
    if file.suffix == ".json":
        try:
            config = from_json(file.read_text(encoding="utf-8"), source=path)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8: {error}") from error
    elif file.suffix == ".py":
        config = _execute(file)
    else:
        raise ConfigError(f"--config={path}: a config is a .py file (executed) or a .json file (only read)")
    config = _override(config, overrides)
    validate(config)
    return config


def _nearby_files(file: Path) -> str:
    folder = file.parent if file.parent.is_dir() else Path("configs")
    return did_you_mean(file.name, [str(other) for other in sorted(folder.glob("*.py"))])


def _execute(file: Path) -> ConfigDict:
    try:
        module = runpy.run_path(str(file))
        if "get_config" not in module:
            raise ConfigError(f"{file} has no function get_config()")
        tree = module["get_config"]()
    except ConfigError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}:{lines[-1]}" if lines else str(file)
        message = str(error).splitlines()[0] if str(error) else "no message"
        raise ConfigError(f"{where}: {type(error).__name__}: {message}") from error
    if not isinstance(tree, ConfigDict):
        raise ConfigError(f"{file}: get_config() returned {type(tree).__name__}, not a ConfigDict")
    return _conform(tree.to_dict(), str(file))


def _conform(tree: Any, source: str) -> ConfigDict:
    """The default config with the values of `tree`, each checked against the type of its default."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source} holds {type(tree).__name__}, not an object of config fields")
    config = get_default()
    known = dict(fields(config))
    sections = {key for key, value in config.items() if isinstance(value, ConfigDict)}
    for key, value in tree.items():
        if key not in config:
            raise ConfigError(f"{source}: unknown config field {key}{did_you_mean(str(key), config)}")
        if key in sections and not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {key} = {value!r} must be a section of fields, such as {{...}}")
    for path, value in fields(tree):
        if path not in known:
            raise ConfigError(f"{source}: unknown config field {path}{did_you_mean(path, known)}")
        config.update_from_flattened_dict({path: _as_type_of(known[path], value, f"{source}: {path}")})
    return config


def _as_type_of(default: Any, value: Any, field: str) -> Any:
    expected = type(default)
    if expected is float and type(value) is int:
        return float(value)
    if expected is tuple and isinstance(value, list):
        return tuple(value)
    if type(value) is not expected:
        raise ConfigError(f"{field} = {value!r} is of type {type(value).__name__}, expected {expected.__name__}")
    return value


def _override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    known = dict(fields(config))
    for word in overrides:
        path = word.lstrip("-").split("=", 1)[0].split(".", 1)[-1]
        if path in config and path not in known:
            field = next(name for name in known if name.startswith(f"{path}."))
            raise ConfigError(f"{word}: {path} is a section; set one of its fields, such as --config.{field}=...")
        if path not in known:
            raise ConfigError(f"{word}: unknown config field {path}{did_you_mean(path, known)}")
        config = _set_field(config, word, path, known[path])
    return config


def _set_field(config: ConfigDict, word: str, path: str, default: Any) -> ConfigDict:
    flag_values, words = flags.FlagValues(), ["config", word]
    try:
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=flag_values, sys_argv=words)
        flag_values(words)
        return holder.value
    except flags.IllegalFlagValueError as error:
        value = word.partition("=")[2]
        expected = f"expected {type(default).__name__}, as in the default {default!r}"
        raise ConfigError(f"{path} = {value!r}: {expected}") from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
