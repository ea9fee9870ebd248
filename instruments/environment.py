"""What libraries of arithmetic read when they are first loaded; call before numpy is imported."""

import os

_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SPIN = "4"  # 2^4 cycles; OpenBLAS's default, 2^26, takes a core from our threads for 26 ms


def limit_threads(threads: int | None) -> None:
    """Limit arithmetic to some threads, else to OMP_NUM_THREADS where that is set.

    OpenBLAS's threads go to sleep when they have nothing to do, unless the user said how long they
    shall wait (OPENBLAS_THREAD_TIMEOUT): the mock's own threads need the cores.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = int(os.environ["OMP_NUM_THREADS"])
    if threads is not None:
        for variable in _LIMITS:
            os.environ[variable] = str(threads)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN)
