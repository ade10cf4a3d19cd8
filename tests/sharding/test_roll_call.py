"""The roll is called over threads here; tests of whole processes start tools."""

import concurrent.futures
import socket

import pytest

from rae_jax.sharding.roll_call import Absent, call_roll
from tests.processes import free_address


def answers(*calls):
    """What calls of the roll at the same time raise; None for those that return."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.exception() for future in [pool.submit(call_roll, *call) for call in calls]]


def test_everybody_is_let_go_when_all_are_there_and_the_port_is_free_again():
    address = free_address()
    assert answers(*((address, 3, number, 20.0) for number in range(3))) == [None] * 3
    assert answers(*((address, 2, number, 20.0) for number in range(2))) == [None] * 2


def test_all_are_told_who_is_missing():
    address = free_address()
    errors = answers((address, 4, 0, 1.0), (address, 4, 2, 1.0))
    for error in errors:
        assert isinstance(error, Absent)
        assert "processes 1, 3 of 4 did not come to" in str(error)


def test_a_missing_first_process_is_told_by_the_others():
    (error,) = answers((free_address(), 2, 1, 0.5))
    assert isinstance(error, Absent)
    assert "process 0 of 2 did not answer at localhost" in str(error)
    assert "Connection refused" in str(error)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((3, 1), "num_processes must be the same everywhere, got 2 in process 0 and 3 in process"),
        ((2, 0), "cannot listen on the port"),
    ],
)
def test_contradictions_are_refused(second, message):
    address = free_address()
    errors = answers((address, 2, 0, 1.0), (address, *second, 1.0))
    assert any(message in str(error) for error in errors if isinstance(error, ValueError))


def test_strangers_are_passed_over():
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(call_roll, address, 2, 0, 20.0)
        for _ in range(100):
            try:
                with socket.create_connection(("localhost", int(address[10:])), 1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
            except ConnectionRefusedError:
                continue
        call_roll(address, 2, 1, 20.0)
        assert first.result() is None
