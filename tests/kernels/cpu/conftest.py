import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def build(request):
    """The module build.py, whose programs lie in pytest's cache."""
    spec = importlib.util.spec_from_file_location("_build", Path(__file__).parent / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def programs(request) -> Path:
    return Path(request.config.cache.mkdir("cpp"))
