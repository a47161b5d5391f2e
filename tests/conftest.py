"""Hypothesis without deadlines: machines differ, promises do not. What fails is printed so that it can be had again."""

from hypothesis import HealthCheck, settings

settings.register_profile("sparsecore", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sparsecore")
