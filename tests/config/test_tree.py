import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_jax import config as configs
from ryot_jax.runtime.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
DEFAULTS = "from ryot_jax.config import get_default\ndef get_config():\n    config = get_default()\n"
CONFIG_FILES = sorted((REPOSITORY / "configs").glob("*.py"))


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_file_loads_and_is_valid_and_shows_its_command(path):
    config = configs.load(str(path))
    assert config.name == path.stem
    assert config.is_locked
    assert f"python -m ryot_jax.main --config=configs/{path.name}" in path.read_text(encoding="utf-8")


def test_loading_and_checking_a_config_imports_no_jax(run_python):
    program = (
        "import sys\nimport ryot_jax.config\nryot_jax.config.load('configs/scaled.py')\n"
        "assert not {'jax', 'jaxlib', 'flax', 'optax'} & set(sys.modules), 'the allocator has to be set before JAX'"
    )
    assert run_python("-c", program).returncode == 0


def test_scaled_is_the_default_tree():
    assert configs.load(str(REPOSITORY / "configs/scaled.py")).to_dict() == configs.get_default().to_dict()


def test_default_tree_refuses_unknown_fields():
    with pytest.raises(AttributeError):
        configs.get_default().training.lr = 1.0


def test_overrides_take_the_type_of_their_field():
    config = configs.load(
        str(REPOSITORY / "configs/scaled.py"),
        [
            "--config.training.learning_rate=1",
            "--config.training.epochs=3",
            "--config.checkpoint.enabled=false",
            "--config.comparison.arms=('baseline',)",
            "--config.data.path=7",
        ],
    )
    assert type(config.training.learning_rate) is float and config.training.learning_rate == 1.0
    assert config.training.epochs == 3
    assert config.checkpoint.enabled is False
    assert config.comparison.arms == ("baseline",)
    assert config.data.path == "7"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.training.lr=1", "unknown config field training.lr; did you mean training.learning_rate?"),
        ("--config.training.batch=1", "did you mean training.batch_size?"),
        ("--config.trainin.epochs=1", "did you mean training.epochs?"),
        ("--config.learning_rate=1", "did you mean training.learning_rate?"),
        ("--config.training=1", "training is a section"),
        ("--config.training.epochs=2.5", "training.epochs = '2.5': expected int"),
        ("--config.training.learning_rate=fast", "training.learning_rate = 'fast': expected float"),
        ("--config.checkpoint.enabled=maybe", "checkpoint.enabled = 'maybe': expected bool"),
    ],
)
def test_a_wrong_override_names_field_and_remedy(word, message):
    with pytest.raises(ConfigError) as caught:
        configs.load(str(REPOSITORY / "configs/scaled.py"), [word])
    assert message in str(caught.value)


def test_missing_file_is_named_with_a_near_one():
    with pytest.raises(ConfigError, match=r"configs/scald\.py: no such file; did you mean .*configs/scaled\.py\?"):
        configs.load(str(REPOSITORY / "configs/scald.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no function get_config"),
        ("def get_config(:", r"SyntaxError"),
        ("def get_config():\n    raise RuntimeError('no luck')", r"broken\.py:2: RuntimeError: no luck"),
        ("def get_config():\n    return {}", "returned dict, not a ConfigDict"),
        (
            DEFAULTS + "    config.training.lr = 1\n    return config\n",
            r"broken\.py:4: AttributeError",
        ),
        (
            "import ml_collections as m\ndef get_config():\n    return m.ConfigDict({'modle': {'a': 1}})\n",
            r"unknown config field modle; did you mean model\?",
        ),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        configs.load(write(tmp_path, "broken.py", text))


def test_json_config_is_only_read(tmp_path):
    marker = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    with pytest.raises(ConfigError, match="is not JSON"):
        configs.load(write(tmp_path, "config.json", code))
    with pytest.raises(ConfigError, match="name = "):
        configs.load(write(tmp_path, "config.json", json.dumps({"name": code})))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"training": {"lr": 1.0}}, "unknown config field training.lr; did you mean training.learning_rate"),
        ({"nonsense": {}}, "unknown config field nonsense"),
        ({"training": 3}, "training = 3 must be a section"),
        ({"training": {"epochs": True}}, "training.epochs = True is of type bool, expected int"),
        ({"training": {"epochs": "3"}}, "is of type str, expected int"),
        ({"data": {"path": None}}, "is of type NoneType, expected str"),
        ([1], "holds list, not an object"),
    ],
)
def test_json_of_another_shape_is_refused(tree, message):
    with pytest.raises(ConfigError) as caught:
        configs.from_json(json.dumps(tree))
    assert message in str(caught.value)


def test_a_config_of_before_a_switch_was_made_has_it_at_its_default():
    tree = json.loads(configs.to_json(configs.get_default()))
    del tree["optimizations"]["dispatch"]
    assert configs.from_json(json.dumps(tree)).optimizations.dispatch == "auto"


def test_fields_left_out_of_json_keep_their_defaults():
    config = configs.from_json('{"training": {"learning_rate": 1}}')
    assert config.training.learning_rate == 1.0 and type(config.training.learning_rate) is float
    assert config.training.epochs == configs.get_default().training.epochs


def strategy_for(value):
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers()
    if isinstance(value, float):
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(value, tuple):
        return st.lists(st.text()).map(tuple)
    return st.text()


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({path: strategy_for(value) for path, value in configs.fields(configs.get_default())}))
def test_json_round_trip_is_exact(values):
    config = configs.get_default()
    config.update_from_flattened_dict(values)
    text = configs.to_json(config)
    again = configs.from_json(text)
    assert again.to_dict() == config.to_dict()
    assert [type(value) for _, value in configs.fields(again)] == [type(value) for _, value in configs.fields(config)]
    assert configs.to_json(again) == text


def test_json_has_sorted_keys_and_no_infinity():
    config = configs.get_default()
    keys = list(json.loads(configs.to_json(config)))
    assert keys == sorted(keys)
    config.training.learning_rate = float("inf")
    with pytest.raises(ConfigError, match="not finite"):
        configs.to_json(config)


def test_differences_names_the_changed_fields_alone():
    old, new = configs.get_default(), configs.get_default()
    new.training.epochs = 9
    assert configs.differences(old, new) == {"training.epochs": (8, 9)}


def test_running_a_config_file_leaves_no_bytecode_behind(tmp_path):
    configs.load(write(tmp_path, "own.py", DEFAULTS + "    return config\n"))
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]
