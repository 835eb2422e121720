"""The stages of a run: what the commands are made of."""
