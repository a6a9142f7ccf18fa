"""Whoever judges. Each overseer is built on a store, which is the queue: asked there, answered there."""
