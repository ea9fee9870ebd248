"""Light off and one holder: signals, the watchdog process, and locks between processes."""
