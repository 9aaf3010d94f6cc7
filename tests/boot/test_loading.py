"""What a model that does not load means: the model's fault, or that there is nothing to fork workers from."""

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import threading

import pytest

from enclave.errors import ModelError, WorkersGoneError
from enclave.model import ModelHost
from enclave.zygote import Zygote
from tests.appliance.faults import until
from tests.model import graphs
from wire.errors import BootFailure


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    started = Zygote.start()
    yield started
    started.close()


@pytest.fixture
def host(zygote: Zygote) -> Iterator[ModelHost]:
    made = ModelHost(zygote, Path("/dev/shm"))
    yield made
    made.close()


def test_a_zygote_that_ends_while_a_worker_loads_is_not_the_models_fault(zygote: Zygote, host: ModelHost) -> None:
    """It was asked for a worker, stands still and is killed: WorkersGoneError, which the boot calls internal."""
    graph, inputs, outputs = graphs.identity("FP32")
    os.kill(zygote.pid, signal.SIGSTOP)

    def kill() -> None:
        until(lambda: zygote._next == 1)
        os.kill(zygote.pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    with pytest.raises(WorkersGoneError):
        host.load(graphs.model(inputs, outputs), graph)
    killing.join()


def test_a_model_that_does_not_load_is_its_own_fault(host: ModelHost) -> None:
    """The zygote lives: MODEL_LOAD."""
    _, inputs, outputs = graphs.identity("FP32")
    with pytest.raises(ModelError, check=lambda error: error.boot_failure is BootFailure.MODEL_LOAD):
        host.load(graphs.model(inputs, outputs), b"no graph")
