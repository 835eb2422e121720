"""Runs and their stages, from which the commands are composed."""
