"""Learned stand-ins for an overseer, and rewards that need no learning."""
