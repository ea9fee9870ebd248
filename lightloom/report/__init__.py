"""What people see: tables in the terminal, charts, pages."""
