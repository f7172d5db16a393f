"""Real servers for the core's tests; each starts when the first test asks for it."""

from tests.services import *  # noqa: F403
