"""Thread limits of numerical libraries, which read them at import; call before importing numpy."""

import os

_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SPIN = "4"  # 2^4 cycles; the default of OpenBLAS, 2^26, occupies a core for 26 ms


def limit_threads(threads: int | None) -> None:
    """Limit numerical libraries to a number of threads, by default to OMP_NUM_THREADS if set.

    Idle OpenBLAS threads go to sleep early, because the mock's own threads need the cores. The user
    can set their waiting time with OPENBLAS_THREAD_TIMEOUT.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = int(os.environ["OMP_NUM_THREADS"])
    if threads is not None:
        for variable in _LIMITS:
            os.environ[variable] = str(threads)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN)
