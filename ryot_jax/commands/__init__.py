"""The commands of `ryot`, one file each: a `ryot_jax.cli.Command` that is found because it is here."""
