import pytest

from bench.isolate import ForkServer


@pytest.fixture(scope="session")
def server():
    return ForkServer()
