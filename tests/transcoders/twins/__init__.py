"""Writers of published formats, written after their definitions and sharing nothing with lenskit's readers.

Each writes a small random dictionary into a folder, and returns the tensors as the format means them.
"""
