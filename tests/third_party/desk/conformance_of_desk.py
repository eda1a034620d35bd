"""All that a third party writes to test its backend."""

from pytest_clusterjobs.testing.conformance import BackendConformance


class TestDesk(BackendConformance, backend="desk"): ...
