"""Run directories, manifest, metrics, progress and errors: the base of all other packages."""
