"""The account of energy and time: events, constants with sources, digital machines beside it."""
