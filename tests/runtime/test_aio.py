from __future__ import annotations

import asyncio

import pytest

from tlac.runtime import aio


async def current() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_all_coroutines_run_on_one_loop_that_stays_open() -> None:
    first = aio.run(current())
    assert aio.run(current()) is first
    assert not first.is_closed()


def test_an_error_comes_back_to_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        aio.run(fail())
