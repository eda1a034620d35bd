"""Schedulers that are not there: executables that speak like the real ones and really run the jobs.

``fake_pbs`` makes one for a while::

    with fake_pbs(tmp_path, slots=4) as cluster:
        subprocess.run(["qsub", "script.sh"], env={**os.environ, **cluster.environment})
"""
