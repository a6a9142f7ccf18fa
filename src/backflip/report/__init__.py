"""Read run folders and write one self-contained HTML page about them.

Reading only: a report never changes, migrates or locks a run, and nothing in training imports it.
"""

from backflip.report.page import write_report

__all__ = ["write_report"]
