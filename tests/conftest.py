"""Hypothesis has no deadlines, since machines differ in speed, and prints failures so that they can be reproduced.

Torch runs on one thread, in the tests and in the processes they start: the networks are tiny, threads that wait for one
another would take most of the time, and its results depend on their number.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile("sparsecore", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sparsecore")
