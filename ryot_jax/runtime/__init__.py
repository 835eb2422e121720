"""Run directories, manifest, metrics, progress and errors: what every other part stands on."""
