"""An LSF that is not there: ``bsub``, ``bjobs``, ``bkill`` and the rest, which really run the jobs."""
