"""Every op, spread over eight devices by shard_map, gives what it gives on one."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def eight_devices(run_python):
    """What `eight_devices.py` prints: simulated devices must be asked for before JAX starts."""
    script = str(Path(__file__).with_name("eight_devices.py"))
    done = run_python(f"import runpy; runpy.run_path({script!r}, run_name='__main__')", devices=8)
    return json.loads(done.stdout)


@pytest.mark.parametrize("checked", ["", ", checked"])
@pytest.mark.parametrize("implementation", ["reference", "xla", "cpu"])
def test_losses_and_gradients_are_those_of_one_device(eight_devices, implementation, checked):
    result = eight_devices[implementation + checked]
    assert result["devices"] == [8]
    assert (result["custom_calls"] > 0) == (implementation == "cpu")
    # float32 sums in another order. `xla` rounds a product's operands to bfloat16, but the same ones in both.
    assert max(result["errors"].values()) < 1e-5, result["errors"]
    assert len(result["errors"]) >= 8


def test_the_hashed_mask_does_not_depend_on_where_the_array_lies(eight_devices):
    assert eight_devices["same_mask"]
