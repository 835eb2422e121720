"""`ryot doctor`: what it prints, and that it needs nothing of training a run."""


def test_it_describes_the_machine_without_the_training_command_or_its_stages(run_python):
    done = run_python(
        "import sys\n"
        "from ryot_jax.main import main\n"
        "from ryot_jax.runtime.console import Console\n"
        "from ryot_jax import cli, commands\n"
        "doctor = cli.parse(['doctor'], {'doctor': __import__('ryot_jax.commands.doctor', fromlist=['']).Doctor})\n"
        "from ryot_jax.machine.allocator import configure_allocator\n"
        "assert doctor.run(cli.Context(Console(), configure_allocator(True))) == 0\n"
        "heavy = ['ryot_jax.commands.train', 'ryot_jax.report', 'ryot_jax.runs.training_pair', "
        "'ryot_jax.runs.compiled_arms', 'ryot_jax.runs.compression', 'ryot_jax.training.checkpoints', 'matplotlib']\n"
        "assert not [name for name in heavy if name in sys.modules], [n for n in heavy if n in sys.modules]\n"
    )
    lines = done.stdout.splitlines()
    for beginning in ("devices:", "processor:", "versions:", "allocator:", "C++:", "attention:", "dense:"):
        assert any(line.startswith(beginning) for line in lines), beginning
