"""The store: everything asked, answered and measured, in SQLite or PostgreSQL. The queue between runs and judges."""

from backflip.store.store import Store

__all__ = ["Store"]
