"""The account of energy and time: events, constants with sources, digital baselines."""
