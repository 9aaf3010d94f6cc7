"""Where the shared vectors are, and what a test does where they are not."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def vectors_directory() -> Path | None:
    """The directory of the shared vectors: $CLOISTER_VECTORS, or ../shared/vectors beside the repository; None where absent."""
    directory = Path(os.environ.get("CLOISTER_VECTORS") or ROOT.parent / "shared" / "vectors")
    return directory if directory.is_dir() else None


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The directory of the shared vectors; skips the test where they are not."""
    directory = vectors_directory()
    if directory is None:
        pytest.skip("shared/vectors absent")
    return directory
