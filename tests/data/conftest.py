"""What several tests of this folder read: the installation they run on, once."""

import pytest

from fledge.data.python.installation import Installation, read_installation


@pytest.fixture(scope="session")
def library() -> Installation:
    return read_installation()
