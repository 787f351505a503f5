"""Cython over csrc: C structs to Python objects and back. No event loop, no ASGI, no loop over
bytes.
"""
