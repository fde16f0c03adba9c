"""Readers of published dictionaries, one file for each project's format, without those projects' packages.

Each says in its docstring what its numbers mean and what becomes of them here. A format is told by what is in the
files, not by what a folder is called.
"""
