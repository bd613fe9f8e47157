"""Stands in for vLLM 0.24 in tests/tools/step_log_test.py: the classes, methods and attributes that
tools/vllm_step_log.py touches, with the scheduling rules that a small mixed load needs, and no device."""
import os

__version__ = os.environ.get("FAKE_VLLM_VERSION", "0.24.0")
