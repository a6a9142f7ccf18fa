"""Executable invariants: what training silently rests on, measured on our parts or on a user's model."""

from backflip.doctor.checks import CHECKS, Check, Finding, carry_out, examine
from backflip.doctor.subject import Subject, load_subject_policy, make_subject

__all__ = ["CHECKS", "Check", "Finding", "Subject", "carry_out", "examine", "load_subject_policy", "make_subject"]
