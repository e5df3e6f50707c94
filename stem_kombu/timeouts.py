"""Timeouts and intervals of a worker's control agent, in seconds.

What an operator sets (``sync_interval``, ``heartbeat_interval``, ``control_timeout``) is in :mod:`stem_kombu.settings`.
"""

from __future__ import annotations

#: Within this time a worker that starts must have read the revoke store; it consumes nothing before.
HYDRATION = 30.0
#: Between two looks at the roster entry of another worker with the same id.
CLAIM_LOOK = 0.5
#: Between two prunings of the revoke store, which also read its clock.
STORE_HOUSEKEEPING = 300.0
#: Between two sweeps of what dead workers left at the broker.
BROKER_SWEEP = 300.0
#: The part of a lease's lifetime after which it is renewed.
LEASE_RENEWAL = 1.0 / 3.0
#: Until a renewal that failed is tried again, at most.
LEASE_RETRY = 1.0
#: From which lifetime on a Celery guest keeps no thread for renewals: one that begins when a renewal is due is early enough.
LONG_LEASE = 180.0
#: For which a Celery guest's thread for replies and heartbeats waits for the next of them.
GUEST_LINGER = 0.5
#: For which Celery's event loop waits for the revoke store, once in each outage.
GUEST_SAVE = 0.25
#: For which a Celery worker that stops goes on to store revocations.
GUEST_LAST_SAVES = 2.0
#: For which ``app.control.revoke()`` waits for the revoke store, once in each outage.
CELERY_SAVE = 1.0
#: For which a program that ends goes on to store what ``app.control.revoke()`` was given.
CELERY_LAST_SAVES = 5.0
#: In which a vital thread moves on, whatever it waits for: longer than a server is waited for. After three of them without a
#: stamp a probe takes it for stuck, so that a worker is not restarted because something else is down.
MOVES = 20.0
#: The same for a thread that waits for nothing but time, and between two looks at the depths of queues that send nothing.
LOOKS, STARVING_LOOKS = 5.0, 15.0
