"""Tutelage: a large network teaches a small one."""

__version__ = "0.1.0"
