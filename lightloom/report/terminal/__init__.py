"""What people see in a terminal: tables and remarks, one file a subject."""
