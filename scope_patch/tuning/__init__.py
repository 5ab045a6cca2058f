"""`tune` finds a speed-up for a user's own command, `bench` sets methods side by side: one harness, log and table."""
