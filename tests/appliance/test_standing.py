"""What a killed `up` leaves behind is gone when the next one starts."""

from contextlib import closing
from pathlib import Path

import pytest

from simulator.standing import Standing, StandingError
from simulator.world import World
from tests.appliance import faults


def test_left_behind(tmp_path: Path) -> None:
    """Processes and files of a world that nobody keeps end with the sweep; those of another world stay."""
    standing = Standing(folder=tmp_path / "up")
    with closing(World.create()) as kept, closing(World.create()) as left:
        kept.start_kms()
        left.start_kms()
        with closing(standing.claim()):
            standing.world.write_text(str(left.directory))
            standing.sweep()
        assert left.kms is not None and kept.kms is not None
        assert faults.until(lambda: left.kms is not None and left.kms.popen.poll() is not None)
        assert kept.kms.popen.poll() is None
        assert not left.directory.exists() and kept.directory.exists()
        assert [standing.pid_file] == list(standing.folder.iterdir())


@pytest.mark.parametrize("named", ["/", "/tmp", "/dev/shm", "", "/home/cloister-x"])
def test_nothing_else_is_swept(tmp_path: Path, named: str) -> None:
    """A folder that names anything but a world's directory makes nothing go."""
    standing = Standing(folder=tmp_path / "up")
    with closing(standing.claim()):
        standing.world.write_text(named)
        standing.sweep()
    assert tmp_path.exists()


def test_one_keeper(tmp_path: Path) -> None:
    """A folder that is claimed is refused to a second `up`, and free again afterwards."""
    standing = Standing(folder=tmp_path / "up")
    with closing(standing.claim()):
        assert standing.pid() is not None
        with pytest.raises(StandingError):
            standing.claim()
    assert standing.pid() is None
    standing.claim().close()
