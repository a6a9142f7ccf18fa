"""Recipes, written out whole, one file each."""
