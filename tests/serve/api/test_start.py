"""Where the server listens, before the application behind it has started."""

import re
import socket

import pytest

from fledge.core.errors import FledgeError
from fledge.serve.start import listen


def test_who_reads_the_address_can_connect_at_once() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname(), timeout=5) as client:
        assert client.getpeername() == listening.getsockname()


def test_a_port_that_is_taken_is_said() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(FledgeError, match=re.escape(f"cannot listen on 127.0.0.1:{port}")):
            listen("127.0.0.1", port)
