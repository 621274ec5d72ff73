"""What all tests share."""

from hypothesis import settings

# Under CI=1 Hypothesis would repeat the same examples for ever; new ones each run find more. A failure prints
# the line that repeats it.
settings.register_profile("tallyd", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("tallyd")
