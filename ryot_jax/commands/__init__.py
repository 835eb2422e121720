"""The commands of `ryot`, one module per `ryot_jax.cli.Command`, discovered by `ryot_jax.cli.discover`."""
