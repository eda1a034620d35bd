"""``--cluster-validate`` and ``@pytest.mark.cluster(validate=True)``: every job of a test is held to its contract."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.plugin.items import ITEM

if TYPE_CHECKING:
    from pytest_clusterjobs.plugin.session import ClusterSession


class Validating:
    """Looks at a test's jobs when its body has passed. In plain pytest and in workers."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test one of whose ended jobs did not get what it asked for; how jobs end is the test's own matter."""
        done = yield
        known = item.stash.get(ITEM, None)
        asked = None if known is None else known.marks.validate
        if self._session.values.validate if asked is None else asked:
            self._validate(item)
        return done

    def _validate(self, item: pytest.Item) -> None:
        run = self._session.active_run
        jobs = [] if run is None else run.jobs_of(item.nodeid)
        jobs = [job for job in jobs if job.state.is_terminal and job.native_id]  # what was refused got nothing
        if not jobs:
            return
        from pytest_clusterjobs.engine.validator import ClusterJobValidator

        validator = ClusterJobValidator()
        failed = [result for result in (validator.validate(job, may_fail=True) for job in jobs) if not result]
        if failed:
            few = "".join(f"\n{result}" for result in failed[:5])
            more = f"\nand {len(failed) - 5} more" if len(failed) > 5 else ""
            pytest.fail(f"{len(failed)} of {len(jobs)} jobs did not get what they asked for{few}{more}", pytrace=False)
