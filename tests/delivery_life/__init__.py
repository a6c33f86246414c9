"""A hypothesis state machine that drives the delivery scripts as clients and several senders do, in any order.

`model.py` says what each call must do (`parts.py` what it is made of), `machine.py` compares it with all that stands
in Redis after each step; `clients.py`, `senders.py`, `mishaps.py` and `lives.py` are the calls. The clock (`clock.py`)
is moved by hand.
"""

from __future__ import annotations

from tests.delivery_life.lives import Lives

STEPS = 12  # of one life: most of them are several calls


class DeliveryLife(Lives):
    """`DeliveryLife(connect)`: `connect` gives an asynchronous and a synchronous connection to an empty server."""
