"""What an inner pytest imports is forgotten at its end: loaded here once, our modules stay the same for all."""

import pydantic  # noqa: F401
import yaml  # noqa: F401

import pytest_clusterjobs.backends.local
import pytest_clusterjobs.cli.main
import pytest_clusterjobs.config.profiles
import pytest_clusterjobs.decorator
import pytest_clusterjobs.engine.configured
import pytest_clusterjobs.engine.run
import pytest_clusterjobs.plugin.check
import pytest_clusterjobs.plugin.ending
import pytest_clusterjobs.plugin.execution
import pytest_clusterjobs.plugin.reporter
import pytest_clusterjobs.plugin.reporting
import pytest_clusterjobs.plugin.sections
import pytest_clusterjobs.plugin.selection
import pytest_clusterjobs.plugin.summary  # noqa: F401
