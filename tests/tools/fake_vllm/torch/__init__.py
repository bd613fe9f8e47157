"""Stands in for torch in tests/tools/step_log_test.py: a device whose clock moves by what it is told."""
from torch import cuda  # noqa: F401

__version__ = "2.11.0"


class version:
    cuda = "13.0"
