"""Run directories, manifest, metrics, progress and errors, on which every other package builds."""
