"""The command line: parse, dispatch, and turn errors into exit codes; nothing else.

python -m ryot_jax.main --config=configs/scaled.py
"""

import sys
from collections.abc import Sequence

import ryot_jax
from ryot_jax import cli
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_INTERRUPTED, EXIT_PASS, RyotError


def main(argv: Sequence[str], console: Console) -> int:
    """Runs one command line and returns its exit code."""
    invocation = cli.parse(argv)
    # Commands are imported when they run: --help and a mistyped flag need not wait for JAX. And the allocator is set
    # before them, as some imports start threads (matplotlib's does where it has no list of fonts yet).
    allocator = configure_allocator(invocation.config is None or invocation.config.runtime.allocator)
    match invocation.options:
        case cli.TrainOptions(dry_run=True):
            from ryot_jax.commands import dry_run

            return dry_run.run(invocation.require_config(), console)
        case cli.TrainOptions() as options:
            from ryot_jax.commands import train

            return train.run(invocation.require_config(), options, allocator, console)
        case cli.GenerateOptions() as options:
            from ryot_jax.commands import generate

            return generate.run(invocation.require_config(), options, console)
        case cli.CompressOptions() as options:
            from ryot_jax.commands import compress

            return compress.run(invocation.require_config(), options, console)
        case cli.ExportOptions() as options:
            from ryot_jax.commands import export_model

            return export_model.run(invocation.require_config(), options, console)
        case cli.ImportOptions() as options:
            from ryot_jax.commands import import_model

            return import_model.run(options, allocator, console)
        case cli.ReportOptions() as options:
            from ryot_jax.commands import report

            return report.run(options, console)
        case cli.AblateOptions() as options:
            from ryot_jax.commands import ablate

            return ablate.run(invocation.require_config(), options, allocator, console)
    match invocation.command:
        case "tune":
            from ryot_jax.commands import tune

            return tune.run(invocation.require_config(), console)
        case "doctor":
            from ryot_jax.commands import doctor

            return doctor.run(allocator, console)
        case "version":
            console.line(ryot_jax.__version__)
        case _:
            console.line(cli.HELP)
    return EXIT_PASS


def console() -> int:
    """The console script `ryot`: `main` on the words of the command line, with errors told in one line."""
    try:
        return main(sys.argv[1:], Console())
    except RyotError as error:
        Console(sys.stderr).line(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        Console(sys.stderr).line("interrupted; go on with: ryot --resume=latest")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(console())
