"""Learn from expensive evaluations, and know how far to trust the result.

Importing this package is cheap: torch is imported only by the modules that compute.
"""

__version__ = "0.1.0"
