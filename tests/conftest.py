"""Fixtures of the whole suite."""

from tests.vectors_path import shared_vectors

__all__ = ["shared_vectors"]
