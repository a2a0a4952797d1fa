"""The student's side: PyTorch, and nothing else of the package.

A process of its own reads these files by their bare names; see ``worker.py``.
"""
