"""What holds for every test."""

from hypothesis import HealthCheck, settings

# Examples are the same at every run, and no test depends on how busy the machine is.
settings.register_profile(
    "evergrow", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evergrow")
