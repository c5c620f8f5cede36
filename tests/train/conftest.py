import pytest


@pytest.fixture(autouse=True)
def all_on_one_thread(one_thread):
    """Every test of training runs on one."""
