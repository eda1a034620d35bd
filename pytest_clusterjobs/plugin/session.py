"""What the plugin knows during one pytest session, in one object on ``config.stash``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.plugin.values import LOCAL, SPECIAL_WORDS, Values, read

if TYPE_CHECKING:
    from pytest_clusterjobs.config.settings import Settings
    from pytest_clusterjobs.engine.configured import Configured
    from pytest_clusterjobs.engine.probe import Probe
    from pytest_clusterjobs.engine.run import Run
    from pytest_clusterjobs.plugin.selection import Selection


#: Why submissions are refused while conftests and test modules are imported.
WHILE_COLLECTING = (
    "pytest is collecting: modules are imported, no job can be submitted; call it inside a test or fixture"
)


# Ini values of pytest 8.4 and later.
_TRUNCATION = ("truncation_limit_lines", "truncation_limit_chars")


def _ini(config: pytest.Config, name: str) -> object:
    try:
        return config.getini(name)
    except ValueError:
        return None


class ClusterSession:
    """The options of one session, and the run that they make, once it is needed.

    Lives in the controller, in each worker of pytest-xdist, and in a plain pytest. Nothing heavy is imported and
    nothing is made on disk before `run` is called.
    """

    def __init__(self, config: pytest.Config, values: Values, run_id: str, worker: str) -> None:
        self.config = config
        #: What was asked for.
        self.values = values
        #: Random, in every job's name; the same in all workers.
        self.run_id = run_id
        #: "main", or the worker's name under xdist.
        self.worker = worker
        #: Called with the new run, once, when it is made.
        self.on_start: list[Callable[[Run], None]] = []
        #: Directories beside the jobs' that the keep policy has kept.
        self.kept: list[str] = []
        #: The backends that were asked.
        self.probes: dict[str, Probe] = {}
        self._configured: Configured | None = None
        self._run: Run | None = None
        self._selection: Selection | None = None
        self._known: tuple[str, ...] | None = None
        self._explained_before: tuple[str, ...] = ()

    # ------------------------------------------------------------ names

    @property
    def known(self) -> tuple[str, ...]:
        """The names of all backends. Calls the hook for backends of conftests and plugins, once."""
        if self._known is None:
            from pytest_clusterjobs.backends import registry
            from pytest_clusterjobs.core.errors import ConfigError

            try:
                self.config.hook.pytest_clusterjobs_register_backends(register=registry.register)
            except ConfigError as error:
                raise pytest.UsageError(f"pytest_clusterjobs_register_backends: {error}") from None
            self._known = registry.names()
        return self._known

    @property
    def configured(self) -> Configured:
        """What the configuration files say, below the options."""
        if self._configured is None:
            from pytest_clusterjobs.config.layers import Sourced
            from pytest_clusterjobs.engine.configured import WITH_VARIABLE, Configured

            values = self.values
            above = {
                name: Sourced(getattr(values, name), values.sources[name])
                for name in WITH_VARIABLE
                if name in values.sources
            }
            self._configured = Configured(str(self.config.rootpath), above, lambda: self.known)
        return self._configured

    def check_files(self) -> None:
        """Read the configuration files, if there are any.

        Raises:
            pytest.UsageError: Something is wrong in them; all of it is in the message.
        """
        from pytest_clusterjobs.core.errors import ConfigError

        try:
            _ = self.configured.configuration
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None

    def require(self, name: str) -> str:
        """Give the name of a backend or a profile back.

        Raises:
            UnknownBackendError: There is none of that name.
        """
        return name if name in self.known else self.configured.require(name)

    def check_names(self) -> None:
        """Check the names that were given by option, variable or ini file.

        Raises:
            pytest.UsageError: There is no such backend or profile.
        """
        self.check_files()
        from pytest_clusterjobs.core.errors import UnknownBackendError
        from pytest_clusterjobs.core.naming import nearest

        for name, source in self._given_names():
            try:
                self.require(name)
            except UnknownBackendError:
                profiles = self.configured.profiles
                words = (*self.known, *profiles, *(SPECIAL_WORDS if source == self.values.cluster_source else ()))
                what = "backend or profile" if profiles else "backend"
                raise pytest.UsageError(
                    f"{source}: no {what} named {name!r}; known: {', '.join(words)}{nearest(name, words)}"
                ) from None

    def _given_names(self) -> list[tuple[str, str]]:
        values = self.values
        names = [(word, values.cluster_source) for word in values.cluster if word not in SPECIAL_WORDS]
        return names if values.default == LOCAL else [*names, (values.default, "clusterjobs_default")]

    # ------------------------------------------------------------ what was asked

    @property
    def asks_by_mark(self) -> bool:
        """True when ``-m`` names one of the marks that ask for a cluster."""
        if not self.config.option.markexpr:
            return False
        from pytest_clusterjobs.plugin.selection import ASKING_MARKS, mentions

        return mentions(self.config.option.markexpr, ASKING_MARKS)

    @property
    def is_asked(self) -> bool:
        """True when the user asked for clusters, by ``--cluster`` or by ``-m``."""
        return ("none" not in self.values.cluster) and (bool(self.values.cluster) or self.asks_by_mark)

    @property
    def selection(self) -> Selection:
        """What ``--cluster`` means. For ``auto`` all backends are asked, unless pytest only collects."""
        if self._selection is None:
            from pytest_clusterjobs.plugin.selection import resolve

            wide = "auto" in self.values.cluster or "all" in self.values.cluster
            known = self.known if wide else ()
            kinds = self.configured.kinds if self.is_asked else {}  # else no file is read
            self._selection = resolve(self.values, known, self._absent_reason, kinds)
        return self._selection

    def _absent_reason(self, name: str) -> str:
        return "" if self.config.option.collectonly else self.reason(self.probe(name))

    # ------------------------------------------------------------ the run

    @property
    def settings(self) -> Settings:
        """What was asked for, in the engine's words.

        Raises:
            pytest.UsageError: The work directory has a name that jobs cannot use, or a configuration file is wrong.
        """
        self.check_files()
        from pytest_clusterjobs.config.settings import WORKDIR_NAME, Settings
        from pytest_clusterjobs.core.errors import ConfigError

        values, named = self.values, [word for word in self.values.cluster if word not in SPECIAL_WORDS]
        try:
            own = self.configured.of_the_run(named or [values.default])
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        try:
            return Settings(
                workdir=values.workdir or own.get("workdir") or os.path.join(self.config.rootpath, WORKDIR_NAME),
                keep=values.keep,
                max_jobs=values.max_jobs or own.get("max_jobs"),
                timeout_s=values.timeout,
                queue_timeout_s=values.queue_timeout,
            )
        except ConfigError as error:
            source = "--cluster-workdir" if values.workdir or "workdir" not in own else "workdir of a profile"
            raise pytest.UsageError(f"{source}: {error}") from None

    @property
    def files_directory(self) -> str:
        """Where this process's tests get directories of their own; beside the jobs', which the engine tidies."""
        return os.path.join(self.run.directory, f"files-{self.worker}")

    @property
    def serial(self) -> frozenset[str]:
        """Names of the profiles whose tests run one after another; none where no cluster was asked for."""
        return self.configured.serial if self.is_asked else frozenset()

    @property
    def active_run(self) -> Run | None:
        """The run, if it was made."""
        return self._run

    @property
    def run(self) -> Run:
        """The run, made at the first call; calls of decorated functions go there."""
        if self._run is None:
            from pytest_clusterjobs.engine.payload import explain_assertions
            from pytest_clusterjobs.engine.run import Run

            self._explained_before = explain_assertions(self._explaining())
            self._run = Run(
                self.settings, run_id=self.run_id, worker=self.worker, places=lambda name: self.configured.place(name)
            )
            # It may be a test's body that calls a decorated function first.
            self.select_for_calls(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0])
            for callback in self.on_start:
                callback(self._run)
        return self._run

    def close(self) -> None:
        """Let go of the run, which must be closed. Idempotent."""
        if self._run is not None:
            from pytest_clusterjobs.engine.payload import explain_assertions

            explain_assertions(self._explained_before)
        self._run = None

    def _explaining(self) -> tuple[str, ...]:
        """Give the arguments of pytest that say how much is told of a failing assert."""
        verbosity = self.config.get_verbosity(pytest.Config.VERBOSITY_ASSERTIONS)
        limits = {name: str(_ini(self.config, name) or "") for name in _TRUNCATION}
        words = [f"--override-ini={name}={value}" for name, value in limits.items() if value]
        return (*(["-" + "v" * verbosity] if verbosity > 0 else []), *words)

    def probe(self, name: str) -> Probe:
        """Ask a backend whether it can be used, once a session."""
        if name not in self.probes:
            self.require(name)
            self.probes[name] = self.run.probe(name)
        return self.probes[name]

    @staticmethod
    def reason(probe: Probe) -> str:
        """Say in one line why a backend cannot be used; "" when it can."""
        if probe.is_available:
            return ""
        lines = probe.reason.splitlines() or ["no answer"]
        return lines[0].removeprefix(f"{probe.name}: ")

    def select_for_calls(self, test_id: str) -> None:
        """Send the calls of an ordinary test, or of none, where ``--cluster`` says, or nowhere far."""
        if self._run is not None:
            names = self.selection.names
            self._run.select(names[0] if names else LOCAL, test_id)

    def adopt(self, worker: str) -> dict[str, Any]:
        """Cancel what a killed worker of this run has left, and say what that was. In the controller only."""
        directory = os.path.join(self.settings.workdir, self.run_id, worker)
        if not os.path.isdir(directory):
            return {}
        cancelled = self.run.adopt_dead_worker(worker)
        if self.values.keep == "never":
            import shutil

            shutil.rmtree(directory, ignore_errors=True)
        kept = [directory] if os.path.isdir(directory) else []
        return {"cancelled": cancelled, "kept": kept, "problems": [f"worker {worker} died; its jobs were cancelled"]}


KEY = pytest.StashKey[ClusterSession]()


def of(config: pytest.Config) -> ClusterSession:
    """Give the session's object.

    Raises:
        pytest.UsageError: The options are wrong.
    """
    if KEY not in config.stash:
        from pytest_clusterjobs.plugin import xdist

        values = read(config)
        worker = xdist.worker_of(config)
        run_id, name = (os.urandom(4).hex(), "main") if worker is None else worker
        config.stash[KEY] = ClusterSession(config, values, run_id, name)
    return config.stash[KEY]
