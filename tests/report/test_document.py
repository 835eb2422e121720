"""The sections of a report: what may be null in results.json may be null in any run."""

import copy

import pytest
from msgspec.structs import replace

from ryot_jax.comparison.results import decode
from ryot_jax.report import document, plots
from ryot_jax.report.formats import terminal
from ryot_jax.report.parts import Pictures, Table
from ryot_jax.runtime.json_values import plain


def _numbers(tree, path=()):
    """Paths of the numbers in nested objects and in the first item of each list of objects."""
    for key, value in tree.items():
        items = value[:1] if isinstance(value, list) else [value]
        step = (key, 0) if isinstance(value, list) else (key,)
        for item in items:
            if isinstance(item, dict):
                yield from _numbers(item, (*path, *step))
            elif isinstance(item, int | float) and not isinstance(value, list):
                yield (*path, key)


def _with_all(results, situation):
    """The results with all that a run may hold beside its comparison."""
    others = (("attribution", "ablated"), ("compression", "compressed"), ("decoding", "decoded"))
    others = (*others, ("time_to_loss", "scheduled"))
    return replace(results, **{name: getattr(situation(of), name) for name, of in others})


def _set(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def test_each_number_may_be_null_where_the_schema_lets_it(situation):
    results = plain(_with_all(situation("many_seeds"), situation))
    tried = 0
    for path in _numbers(results):
        changed = copy.deepcopy(results)
        _set(changed, path, None)
        try:
            changed = decode(changed)
        except ValueError:
            continue
        tried += 1
        assert document.sections(changed), path
        assert terminal.render(changed), path
    assert tried > 115


def test_every_row_has_the_columns_of_its_header_and_every_plot_is_known(any_results):
    for section in document.sections(any_results):
        assert section.parts
        for part in section.parts:
            if isinstance(part, Table):
                assert part.rows and {len(row) for row in part.rows} == {len(part.header)}
                assert all(isinstance(cell, str) for row in part.rows for cell in row)
            if isinstance(part, Pictures):
                assert set(part.names) <= set(plots.PLOTS)


def test_every_plot_stands_in_one_section(situation):
    parts = [part for section in document.sections(_with_all(situation("passed"), situation)) for part in section.parts]
    names = [name for part in parts if isinstance(part, Pictures) for name in part.names]
    assert sorted(names) == sorted(plots.PLOTS)


@pytest.mark.parametrize("epochs", [1, 100, 101, 1000])
def test_of_many_epochs_the_table_shows_some_and_always_the_last(results, edit, epochs):
    for name, arm in results.arms.items():
        many = tuple(replace(arm.epochs[0], epoch=i + 1, step=i) for i in range(epochs))
        results = edit(results, f"arms.{name}", epochs=many)
    (table,) = [
        part
        for section in document.sections(results)
        for part in section.parts
        if isinstance(part, Table) and part.caption.startswith("Epochs")
    ]
    assert len(table.rows) <= 100 and table.rows[-1][0] == str(epochs)
