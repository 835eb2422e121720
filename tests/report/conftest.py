"""The situations that a report must hold, as fixtures."""

import functools

import pytest

from ryot_jax.report.formats import html
from tests.report import factories, situations


@pytest.fixture
def results():
    """Both arms with controls and roofline: every criterion passes."""
    return situations.situation("passed")


@pytest.fixture(params=situations.SITUATIONS)
def any_results(request):
    """Each situation in turn."""
    return situations.situation(request.param)


@pytest.fixture
def situation():
    """Turns the name of a situation into its results."""
    return situations.situation


@pytest.fixture
def renamed():
    """Gives the arms of some results other names."""
    return situations.renamed


@pytest.fixture(name="edit")
def edit_fixture():
    """`edit(record, path, **changes)`: the record with changes at a path such as `comparison.training_pairs.0`."""
    return factories.edit


@pytest.fixture
def make_criterion():
    """`make_criterion(name, verdict)`: a criterion as it is declared, with its advice."""
    return factories.criterion


@pytest.fixture(scope="session")
def page():
    """Turns the name of a situation into its HTML report, drawn once."""
    return functools.cache(lambda name: html.render(situations.situation(name)))
