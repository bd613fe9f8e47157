"""Pieces of tools/fit_kernel_tables.py: tables of engines' kernels from published and measured timings."""
