"""Write the table of switches into README.md of the current folder: `python -m ryot_jax.optimizations`."""

from pathlib import Path

from ryot_jax.optimizations._table import updated

if __name__ == "__main__":
    readme = Path("README.md")
    readme.write_text(updated(readme.read_text(encoding="utf-8")), encoding="utf-8")
