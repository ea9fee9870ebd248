"""Many workers: processes here or elsewhere, and benches that multiply as one."""
