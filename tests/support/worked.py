"""What processes of their own do in tests: modules under test cannot be patched there."""

import os
import signal
import time


def opened():
    """Three."""
    return 3


def cannot_open():
    """An error."""
    from interp import InterpError

    raise InterpError("no file is there")


def product(factor, item):
    """The product, from the process of this number; an item below 0 is an error."""
    if item < 0:
        raise ValueError(f"{item} is negative")
    return factor * item, os.getpid()


def sleeps(factor, item):
    """An item after so many seconds."""
    time.sleep(item)
    return item


class Peculiar(Exception):
    """It can be pickled, and not unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raises_what_cannot_be_sent(factor, item):
    """An error whose class takes more than its text."""
    raise Peculiar("this", "that")


def dies(factor, item):
    """A process ends at an item of 5."""
    if item == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return product(factor, item)


def dies_once(died, factor, item):
    """The first process that comes to an item of 5 ends; the file `died` says so."""
    _die_once(died) if item == 5 else None
    return product(factor, item)


def codes_of_a_process_that_dies_once(died, encoder, item):
    """What a scan does with a chunk, in place of `scanner._codes`."""
    _die_once(died) if item[0].start > 500 else None
    return encoder.codes(item[0])


def _die_once(died):
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
